"""The verdict for machines: verdict.json, which `verdict.schema.json` describes. Its sentences are from `findings`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice.advise import advise
from analysis.decisions.best import best_sets
from analysis.decisions.declared import declared
from analysis.decisions.looks import looks
from analysis.findings import Finding, findings
from analysis.input.table import Table
from analysis.scores.sentences import summary
from analysis.shifts.sentences import shift_findings
from analysis.stats.agreement import ASSUMES, METHOD, Estimated
from analysis.study import Analysis
from ray_robust.run.seed_plan import plans_of

GROUP = ("n_points", "n_trials", "n_used", "er", "er_low", "er_high", "extrapolated")
SCORE = ("mean", "low", "high")
DIFFERENCE = ("a", "b", "score", "family", "delta", "low", "high", "p_adjusted", "equivalent", "smallest_detectable",
              "not_robust_to", "picked_low", "picked_high")  # fmt: skip
SLOPE = ("score", "factor", "label", "per", "against", "slope", "low", "high", "p_adjusted", "equivalent", "levels",
         "straight_p", "not_robust_to")  # fmt: skip
UPSTREAM = ("n_trials", "accuracy", "low", "high", "chance", "hardly_learned", "late_share", "still_improving")
SHIFT = ("compared", "ood_images", "id_images", "classes", "n", "slope", "slope_low", "slope_high", "intercept", "r2",
         "refused")  # fmt: skip
SHIFT_CONTRAST = ("shift", "a", "b", "delta_er", "low", "high", "p", "p_adjusted", "equivalent", "smallest_detectable",
                  "family", "not_robust_to")  # fmt: skip
FACTOR = ("partial_r2", "slope", "low", "high", "p", "p_adjusted", "standardised", "equivalent", "per", "against",
          "label", "levels")  # fmt: skip


def verdict(analyses: Sequence[Analysis], table: Table | None = None) -> dict[str, Any]:
    """Return verdict.json: the first task's, and the others' under "tasks" by name. NaN becomes null. `table` is what
    was analysed: of a run, its advice has YAML."""
    first, *others = [_verdict(analysis, table) for analysis in analyses]
    if table is not None and table.interim is not None:
        first["interim"] = table.interim.plain()
    if table is not None and (plans := [plan.verdict() for _, plan in plans_of(table.runs)]):
        first["seeds"] = plans if len(plans) > 1 else plans[0]
    if others:
        first["task"] = analyses[0].task
        first["tasks"] = {a.task: other for a, other in zip(analyses[1:], others, strict=True)}
    return plain(first)


def _verdict(analysis: Analysis, table: Table | None) -> dict[str, Any]:
    options, trends, claims = analysis.options, analysis.trends, findings(analysis)
    chosen = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)]
    line = chosen.iloc[0].to_dict() if len(chosen) else {"group": options.baseline, "scale": options.scale, "n": 0}
    return {
        "scores": _scores(analysis),
        "advice": [one.plain() for one in advise(analysis, table)],
        "scale": options.scale,
        "baseline": line,
        "groups": analysis.groups.set_index("group")[list(GROUP)].to_dict("index"),
        "factors": analysis.factor_table.set_index("factor")[list(FACTOR)].to_dict("index"),
        "findings": [_finding(finding) for finding in claims],
        "warnings": analysis.warnings,
        "refused": analysis.refused,
        "min_r2": options.min_r2,
        "margin": options.margin,
        "regression": {
            "rows": analysis.regression.rows,
            "r2": analysis.regression.r2,
            "condition": analysis.regression.condition,
        },
        "selection": analysis.selection.to_dict("records"),
        "left_out": analysis.left_out.to_dict("records"),
        **best_sets(analysis),
        **declared(analysis),
        **looks(analysis),
        **_estimated(analysis.estimated),
        **_hidden(analysis),
        **_shifts(analysis),
        **_learned(analysis),
        **_duplicates(analysis),
        "method": {
            "interval": 0.95,
            "resampled": options.unit,
            "target": analysis.target,
            "look": analysis.looks.used,
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "text": finding.text,
        "table": f"{finding.table}.csv",
        "row": dict(finding.row),
        "kind": finding.kind,
        "survived": list(finding.survived),
        "not_robust_to": list(finding.not_robust_to),
    }


def _scores(analysis: Analysis) -> dict[str, Any]:
    """The raw scores of every group in percentage points, and what they show."""
    sentences, scores = summary(analysis), analysis.scores
    groups: dict[str, Any] = {}
    for row in scores.groups.to_dict("records"):
        own = groups.setdefault(row["group"], {"n_trials": row["n_trials"], "n_points": row["n_points"]})
        own[row["score"]] = {key: row[key] for key in SCORE}
    return {
        "deployment": None if sentences.deployment is None else _finding(sentences.deployment),
        "robustness": sentences.robustness,
        "findings": [_finding(finding) for finding in (*sentences.lead, *sentences.findings)],
        "tuned_baseline": _tuned(analysis),
        "chosen_by": scores.choice.by,
        "best": scores.best() or None,
        "groups": groups,
        "differences": scores.differences[list(DIFFERENCE)].to_dict("records"),
        "factors": scores.factors[list(SLOPE)].to_dict("records"),
    }


def _tuned(analysis: Analysis) -> dict[str, Any] | None:
    """The baseline's best setting that no group has, with its scores; None without one."""
    scores = analysis.scores
    if scores.tuned is None:
        return None
    rows = {row["score"]: {key: row[key] for key in SCORE} for row in scores.tuned_scores.to_dict("records")}
    counts = scores.tuned_scores.iloc[0]
    return {"name": scores.tuned_name, "setting": scores.tuned.setting, "n_trials": counts["n_trials"],
            "n_points": counts["n_points"], **rows}  # fmt: skip


def _learned(analysis: Analysis) -> dict[str, Any]:
    """Upstream accuracy of every pre-trained group beside chance; nothing for a table that no sweep wrote."""
    table = analysis.learned.upstream
    if table.empty:
        return {}
    groups = table.set_index("group")[list(UPSTREAM)].to_dict("index")
    return {"learned": {"upstream": groups, "notes": list(analysis.learned.notes)}}


def _shifts(analysis: Analysis) -> dict[str, Any]:
    """Every shift by itself and all together; nothing where the task's own OOD test is the only one."""
    shifts = analysis.shifts
    if not shifts.results:
        return {}
    by_shift = {
        line["shift"]: {
            **{key: line[key] for key in SHIFT},
            **_estimated(one.estimated),
            "groups": one.groups.set_index("group")[list(GROUP)].to_dict("index"),
        }
        for one, line in zip(shifts.results, shifts.lines.to_dict("records"), strict=True)
    }
    return {
        "shifts": {
            "compared": shifts.compared,
            "by_shift": by_shift,
            "contrasts": shifts.effects[list(SHIFT_CONTRAST)].to_dict("records"),
            "means": shifts.means.to_dict("records"),
            "findings": [_finding(finding) for finding in shift_findings(analysis)],
        }
    }


def _estimated(estimated: Estimated | None) -> dict[str, Any]:
    """What OOD scores are estimated by; nothing where they are measured."""
    if estimated is None:
        return {}
    slope = estimated.slope
    return {
        "estimated": {
            "method": METHOD, "images": estimated.images, "pairs": estimated.pairs, "r2": estimated.r2,
            "slope": slope.value, "slope_low": slope.low, "slope_high": slope.high, "intercept": estimated.intercept,
            "coinciding": dict(estimated.coinciding), "alone": estimated.alone, "refused": estimated.refused,
            "assumes": ASSUMES,
        }
    }  # fmt: skip


def _hidden(analysis: Analysis) -> dict[str, Any]:
    """The images on which better ID means worse OOD; nothing where there was nothing to search."""
    one = analysis.hidden.result
    if one is None:
        return {}
    return {
        "hidden": {
            "found": one.found, "images": one.count if one.found else 0, "of": analysis.hidden.total,
            "slope": one.slope, "low": one.low, "high": one.high, "p": one.p, "whole": one.whole.value,
            "worse": one.worse, "better": one.better, "refused": one.refused,
        }
    }  # fmt: skip


def _duplicates(analysis: Analysis) -> dict[str, Any]:
    """Test images that occur elsewhere, and every group's ER without them; nothing where there are none."""
    if analysis.recount is None:
        return {}
    without = analysis.without_duplicates
    groups = {} if without is None else without.groups.set_index("group")[["er", "er_low", "er_high"]].to_dict("index")
    return {
        "duplicates": {
            "affected": analysis.recount.affected,
            "images": {split: analysis.recount.images[split] for split in analysis.recount.affected},
            "groups": groups,
            "note": analysis.recount.note,
        }
    }


def plain(value: Any) -> Any:
    """Return a value in JSON's own types; NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
