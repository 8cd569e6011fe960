"""The verdict in numbers (verdict.json) and in words; the words follow from the intervals alone.

Owns the sentences. A claim is made only where a 95 % interval excludes 0 and survives Holm's correction, "no effect"
only where the equivalence test passes; everything else reads "not established".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.factors import FACTORS
from analysis.study import Analysis

MOST_PAIRS = 12  # pairs told in words; the table has them all


def verdict(analyses: Sequence[Analysis]) -> dict[str, Any]:
    """verdict.json: the first task's, and the others' under "tasks" by name. NaN becomes null."""
    first, *others = [_verdict(analysis) for analysis in analyses]
    if others:
        first["task"] = analyses[0].task
        first["tasks"] = {a.task: other for a, other in zip(analyses[1:], others, strict=True)}
    return _plain(first)


def findings(analysis: Analysis) -> list[str]:
    """One sentence each: trends over ordered factors first, then groups against the baseline, then pairs."""
    if analysis.baseline is None:
        return ["Not established: effective robustness, because no baseline line can be fitted."]
    if analysis.refused:
        r2, floor = analysis.baseline.line.r2, analysis.options.min_r2
        return [
            f"Not established: effective robustness, because the baseline line explains too little (R^2 {r2:.2f}, "
            f"floor {floor:g})."
        ]
    said = [_factor_sentence(f) for f in analysis.factors]
    table = analysis.contrasts
    rows = [row._asdict() for row in table.itertuples(index=False)]
    trials = analysis.groups.set_index("group")["n_trials"].to_dict()
    said += [_contrast_sentence(row, trials, analysis.options.unit) for row in rows if row["family"] == "baseline"]
    pairs = [row for row in rows if row["family"] == "pairs"]
    if analysis.factors:  # the trend test speaks for the pairs of an ordered factor
        return said
    told = [_contrast_sentence(row, trials, analysis.options.unit) for row in pairs[:MOST_PAIRS]]
    if len(pairs) > MOST_PAIRS:
        sure = sum(_established(row) for row in pairs)
        told.append(f"Of {len(pairs)} pairs of groups {sure} differ after Holm's correction; all are in contrasts.csv.")
    return said + told


def span(low: float, high: float) -> str:
    """An interval for people, in points of ER: `(4.8 to 7.5)`."""
    return f"({signed(low)} to {signed(high)})" if math.isfinite(low) else "(no interval)"


def signed(value: float) -> str:
    """`+6.2`, `−0.4`, `0.0`."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.1f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def group_span(row: Any, baseline: str) -> str:
    """The interval of a group's mean ER; the baseline's own mean is 0 because the line is its own."""
    if not math.isfinite(row.er):
        return "–"
    return "by construction" if row.group == baseline else span(row.er_low, row.er_high)


def state(row: dict[str, Any]) -> str:
    """What a contrast shows: `differs`, `equivalent` (no effect within the margin), or `open` (not established)."""
    if _established(row):
        return "differs"
    return "equivalent" if row["equivalent"] else "open"


def _established(row: dict[str, Any]) -> bool:
    return bool((row["low"] > 0 or row["high"] < 0) and row["p_adjusted"] <= 0.05)


def _factor_sentence(factor: Any) -> str:
    e, name = factor.slope, FACTORS[factor.name]
    effect = f"{signed(e.value)} points of ER per tenfold {span(e.low, e.high)}"
    head = f"{name[0].upper()}{name[1:]}"
    if e.low > 0 or e.high < 0:
        return f"{head}: {effect}, over {factor.levels} levels."
    return f"Not established: an effect of {name} on ER: {effect}."


def _contrast_sentence(row: dict[str, Any], trials: dict[str, int], unit: str) -> str:
    a, b, kind = row["a"], row["b"], state(row)
    if not math.isfinite(row["delta_er"]):
        return f"Not established: {a} against {b}, for lack of points at ID scores that they share."
    effect = f"{signed(row['delta_er'])} points of ER {span(row['low'], row['high'])}"
    if kind == "differs":
        small = f", smaller than the margin of {row['margin']:g}" if row["equivalent"] else ""
        return f"{a} against {b}: {effect}{small}, from {trials[a]} and {trials[b]} {unit}s."
    if kind == "equivalent":
        inner = span(row["low90"], row["high90"]).replace("(", "(90 %: ")
        return f"{a} against {b}: no effect within {row['margin']:g} points, {signed(row['delta_er'])} {inner}."
    if not math.isfinite(row["low"]):
        return f"Not established: {a} against {b}: {effect}; more {unit}s are needed for an interval."
    if row["low"] > 0 or row["high"] < 0:
        return f"Not established after Holm's correction: {a} against {b}: {effect}, p = {row['p_adjusted']:.2f}."
    least = f"this design could have found {row['smallest_detectable']:.1f} points or more"
    return f"Not established: {a} against {b}: {effect}; {least}."


def _verdict(analysis: Analysis) -> dict[str, Any]:
    options, trends = analysis.options, analysis.trends
    chosen = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)]
    line = chosen.iloc[0].to_dict() if len(chosen) else {"group": options.baseline, "scale": options.scale, "n": 0}
    groups = analysis.groups.set_index("group")[["n_points", "n_trials", "er", "er_low", "er_high", "extrapolated"]]
    return {
        "scale": options.scale,
        "baseline": line,
        "groups": groups.to_dict("index"),
        "factors": {
            f.name: {
                "partial_r2": f.partial_r2,
                "slope": f.slope.value,
                "low": f.slope.low,
                "high": f.slope.high,
                "p": f.slope.p,
                "per": "tenfold",
            }
            for f in analysis.factors
        },
        "findings": findings(analysis),
        "warnings": analysis.warnings,
        "refused": analysis.refused,
        "min_r2": options.min_r2,
        "margin": options.margin,
        "selection": analysis.selection.to_dict("records"),
        "left_out": analysis.left_out.to_dict("records"),
        "method": {"interval": 0.95, "replicates": options.replicates, "seed": options.seed, "resampled": options.unit},
    }


def _plain(value: Any) -> Any:
    """JSON's own types; NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
