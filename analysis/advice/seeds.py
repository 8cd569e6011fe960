"""What would decide an open comparison: how many seeds, or more test groups where seeds would not help.

The numbers are those of `predict.power`, with the variances of this very study (`predict.variances`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.findings import Finding
from analysis.formatting import listed, name, number, signed, span
from analysis.predict.design import Design, design_of
from analysis.predict.power import LINE, MOST_SEEDS, TRIALS, Power, power, seeds_for
from analysis.predict.spread import Spread
from analysis.predict.variances import spread_of
from analysis.study import Analysis
from ray_robust.text.names import count_noun

FIRST_SEEDS = 3  # for groups of a single trial: the fewest that give an interval worth its name
WORTH = 30  # seeds; where it takes more, another design is the better way


def undecided(analysis: Analysis, claims: list[Finding], run: RunDesign | None) -> list[Advice]:
    """Return what would decide the findings on ER that are open; empty where none is."""
    open_claims = [claim for claim in claims if claim.kind == "open"]
    if analysis.refused or not open_claims:
        return []
    if len(analysis.groups) < 2:
        return []
    unit, count = analysis.options.unit, _trials(analysis)
    spread = spread_of(analysis, analysis.task)
    if run is not None and run.draws:
        return [_confirm(len(open_claims), count)]
    if not spread.df or not np.isfinite(spread.line.alone):
        evidence = f"{len(open_claims)} of {len(claims)} findings are open; groups have {count_noun(count, unit)}."
        return [
            _more(run, FIRST_SEEDS, evidence, f"at least {FIRST_SEEDS} {unit}s in every group give intervals", unit)
        ]
    evidence = f"{len(open_claims)} of {len(claims)} findings are open"
    design = _design(analysis, run)
    which, row = next(((i, one) for i, one in enumerate(power(design, spread)) if np.isfinite(one.se)), (0, None))
    if row is None:
        return [_more(run, FIRST_SEEDS, f"{evidence}.", f"more {unit}s in every group narrow the intervals", unit)]
    finds = f"{row.kind} from {number(row.after_holm, 1)} points on"
    evidence += f": with {design.trials} {unit}s a group this design finds {finds}"
    return [_decided_by(analysis, run, _Test(design, spread, which), evidence)]


def _confirm(count: int, trials: int) -> Advice:
    claims = f"{count_noun(count, 'finding')} {'is' if count == 1 else 'are'} open"
    evidence = f"{claims}: a search gives each mixture {count_noun(trials, 'trial')}."
    action = (
        "Confirm the best mixtures with three seeds or more in a grid of their own: `python -m analysis RUN --predict` "
        "ranks them, and writes that grid as confirm.yaml with `--at IMAGES`."
    )
    return Advice("few_seeds", evidence, action)


def _trials(analysis: Analysis) -> int:
    others = analysis.groups.loc[analysis.groups["group"] != analysis.options.baseline, "n_trials"]
    return int(others.min()) if len(others) else 0


@dataclass(frozen=True, eq=False)
class _Test:
    """A design, how ER varies in it, and which kind of contrast is looked at (its number among `power.kinds`)."""

    design: Design
    spread: Spread
    kind: int

    def seeds(self, points: float, of: Callable[[Power], float]) -> int | None:
        """Return the fewest seeds at which `of` the contrast is at most `points`; None where none are enough."""
        return seeds_for(points, self.kind, self.design, self.spread, of)


def _decided_by(analysis: Analysis, run: RunDesign | None, test: _Test, evidence: str) -> Advice:
    """How many seeds find a difference of the margin, or of what is seen, or prove that there is none."""
    margin, unit, seen = analysis.options.margin, analysis.options.unit, _seen(analysis)
    size = max(margin, abs(seen["delta_er"])) if seen else margin
    if seen:
        effect = f"{signed(seen['delta_er'])} {span(seen['low'], seen['high'])}"
        evidence += f"; the largest difference that is open is {effect}, of {name(seen['a'])}"
    find, prove = test.seeds(size, lambda one: one.after_holm), test.seeds(margin, lambda one: one.provable)
    if find is None and prove is None:
        return _test_groups(test, size, evidence)
    parts = []
    if find:
        parts.append(
            f"{find} {unit}s a group find a true difference of {number(size, 1)} points in four of five studies"
        )
    if prove:
        parts.append(f"{prove} {unit}s a group prove that there is none beyond {margin:g}")
    least = min(filter(None, (find, prove)))
    return _more(run, max(least, test.design.trials + 1), f"{evidence}.", "; ".join(parts), unit)


def _more(run: RunDesign | None, seeds: int, evidence: str, what: str, unit: str) -> Advice:
    """So many seeds, as YAML for a run; in words where that is too many, or for a table."""
    if seeds > WORTH:
        action = (
            f"{what[:1].upper()}{what[1:]}, which is hardly worth it: compare fewer groups that lie farther apart, or "
            "set a larger margin before the next run."
        )
        return Advice("few_seeds", evidence, action)
    if run is None:
        return Advice("few_seeds", evidence, f"Add {unit}s to every group: {what}.")
    text, cost = run.with_seeds(max(seeds, len(run.seeds) + 1))
    return Advice("few_seeds", evidence, f"Run more seeds: {what}. All that is trained stays.", text, cost)


def _test_groups(test: _Test, size: float, evidence: str) -> Advice:
    """More seeds do not help: what is left with very many is the test groups' share."""
    last = power(test.design.with_seeds(MOST_SEEDS), test.spread)[test.kind]
    causes = sorted((share, cause) for cause, share in last.shares.items() if cause not in (TRIALS, LINE))
    names = listed([f"{test.design.test_groups.get(cause, 0)} {cause}" for _, cause in causes[::-1]])
    times = max((last.after_holm / size) ** 2, 1.0)
    evidence += (
        f". With any number of seeds it would be {number(last.after_holm, 1)}: the rest is of the test's {names}."
    )
    action = (
        f"Test on more groups (cameras, hospitals, sites): to find {number(size, 1)} points, at least "
        f"{number(times, 1)} times as many. More seeds alone would not help."
    )
    return Advice("test_groups", evidence, action)


def _seen(analysis: Analysis) -> Mapping[str, Any] | None:
    """The largest difference from the baseline that is open."""
    table = analysis.contrasts.loc[analysis.contrasts["family"] == "baseline"]
    own = table.loc[table["delta_er"].notna() & ~table["equivalent"].astype(bool) & (table["p_adjusted"] > 0.05)]
    return own.loc[own["delta_er"].abs().idxmax()].to_dict() if len(own) else None


def _design(analysis: Analysis, run: RunDesign | None) -> Design:
    options = analysis.options
    sources = {source.name: source.clusters
               for mean in analysis.means.values() for source in mean.quantity.replicates}  # fmt: skip
    rows = list(_rows(analysis.points)) if run is None or not run.plan else run.plan
    return design_of(rows, options.baseline, options.margin, sources)


def _rows(points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What a plan would have of each trial of a table."""
    for (group, _), own in points.groupby(["group", "trial"], sort=False):
        first = own.iloc[0].to_dict()
        yield {**first, "group": group, "finetunes": json.dumps({str(i): "task" for i in range(len(own))})}
