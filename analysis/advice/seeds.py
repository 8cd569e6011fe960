"""What would decide an open comparison: how many seeds, or more test groups where seeds would not help.

The numbers are those of `predict.power`, with the variances of this very study (`predict.variances`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.advice.widening import rounded
from analysis.findings import COULD, Finding
from analysis.formatting import listed, number
from analysis.predict.design import Design, design_of
from analysis.predict.power import LINE, MOST_SEEDS, TRIALS, Power, kinds, power, seeds_for
from analysis.predict.spread import Spread
from analysis.predict.variances import spread_of
from analysis.study import Analysis
from ray_robust.text.names import count_noun

FIRST_SEEDS = 3  # for groups of a single trial: the fewest that give an interval worth its name
FAR_MORE = 2  # times as many seeds, from where only the question that takes fewer is aimed at
HOPELESS = 8  # times as many test groups, from where nobody is asked for them
DIFFERENCES = {  # kind of contrast -> what is shown of it; of a trend its own name
    "a group against the baseline": "a difference from the baseline",
    "two groups": "a difference between two groups",
}
POWER = "with a probability of 80 %"
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
    claim = _main(open_claims, analysis)
    head = _open_ones(claim, len(open_claims), len(claims))
    if not spread.df or not np.isfinite(spread.line.alone):
        evidence = f"{head}. Groups have {count_noun(count, unit)}."
        return [_more(run, FIRST_SEEDS, evidence, "give intervals", unit)]
    design = _design(analysis, run)
    rows = [(i, one) for i, one in enumerate(power(design, spread)) if np.isfinite(one.se)]
    if not rows:
        return [_more(run, FIRST_SEEDS, f"{head}.", "narrow the intervals", unit)]
    kind = _kind(claim, analysis)
    which, row = next(((i, one) for i, one in rows if one.kind == kind), rows[0])
    evidence = (
        f"{head}. At the scatter of all groups and after Holm's correction, {design.trials} {unit}s a group show "
        f"{DIFFERENCES.get(row.kind, f'a {row.kind},')} from {number(row.after_holm, 1)} points on"
    )
    return [_decided_by(analysis, run, _Test(design, spread, which, claim), evidence)]


def _main(claims: Sequence[Finding], analysis: Analysis) -> Finding:
    """The open finding that advice is about: the largest difference from the baseline, else the first with a size."""
    own = [claim for claim in claims if _of_baseline(claim, analysis)]
    if own:
        return max(own, key=lambda claim: _seen(analysis, claim))
    return next((claim for claim in claims if "not straight" not in claim.text), claims[0])


def _of_baseline(claim: Finding, analysis: Analysis) -> bool:
    return claim.table == "contrasts" and claim.row.get("b") == analysis.options.baseline


def _kind(claim: Finding, analysis: Analysis) -> str:
    """What a finding compares, by the names of `power.kinds`."""
    if claim.table == "factors":
        return f"trend over {claim.row['factor']}, per tenfold"
    return "a group against the baseline" if _of_baseline(claim, analysis) else "two groups"


def _open_ones(claim: Finding, count: int, of: int) -> str:
    """Which finding is open, of several the one that the advice is about, in its own words."""
    what = claim.text.removeprefix("Not established: ").removesuffix(".").partition(COULD)[0]
    many = f"{count} of {count_noun(of, 'finding')} {'is' if count == 1 else 'are'} open"
    return f"{many}{', among them' if count > 1 else ''}: {what}"


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
    """A design, how ER varies in it, which kind of contrast is looked at (its number among `power.kinds`), and the open
    finding that it is to decide."""

    design: Design
    spread: Spread
    kind: int
    claim: Finding

    @property
    def of_trend(self) -> bool:
        """Whether it is of a slope, for which the margin is one between any two levels."""
        return kinds(self.design)[self.kind].name.startswith("trend")

    @property
    def stands_in(self) -> bool:
        """Whether it is of a group, in place of a slope that so few trials have no power of."""
        return self.claim.table == "factors" and not self.of_trend

    def seeds(self, points: float, of: Callable[[Power], float]) -> int | None:
        """Return the fewest seeds at which `of` the contrast is at most `points`; None where none are enough."""
        return seeds_for(points, self.kind, self.design, self.spread, of)


def _decided_by(analysis: Analysis, run: RunDesign | None, test: _Test, evidence: str) -> Advice:
    """How many seeds find a difference of the margin, or of what is seen, or prove that there is none."""
    margin, unit, now = analysis.options.margin, analysis.options.unit, test.design.trials
    size = margin if test.stands_in else max(margin, _seen(analysis, test.claim))
    find = test.seeds(size, lambda one: one.after_holm)
    prove = None if test.of_trend or test.stands_in else test.seeds(margin, lambda one: one.provable)
    if find is None and prove is None:
        return _test_groups(test, size, evidence)
    what, per = ("trend", " per tenfold") if test.of_trend else ("difference", "")
    per = " from the baseline" if test.stands_in else per
    needs = [(find, f"show a true {what} of {number(size, 1)} points{per}"),
             (prove, f"show that there is none beyond {margin:g}")]  # fmt: skip
    (seeds, does), *other = sorted(
        ((count, verb) for count, verb in needs if count), key=lambda need: need[0], reverse=True
    )
    if other and (seeds > WORTH or seeds > FAR_MORE * other[0][0]):  # the one that takes much less
        (seeds, does), other = other[0], []
    if seeds <= now:
        what = f"narrow the interval: {now} {does} {POWER}, and this time did not"
        return _more(run, now + 1, f"{evidence}.", what, unit)
    fewer = [f"; {fewest} would {other_does}" for fewest, other_does in other if now < fewest < seeds]
    together = [f" or {other_does}" for fewest, other_does in other if fewest == seeds]
    return _more(run, seeds, f"{evidence}.", f"{does}{''.join(together)} {POWER}{''.join(fewer)}", unit)


def _more(run: RunDesign | None, seeds: int, evidence: str, what: str, unit: str) -> Advice:
    """So many seeds, as YAML for a run; in words where that is too many, or for a table. `what` they do, as a verb."""
    if seeds > WORTH:
        action = (
            f"It would take {seeds} {unit}s a group to {what}, which is hardly worth it: compare fewer groups that lie "
            "farther apart, or set a larger margin before the next run."
        )
        return Advice("few_seeds", evidence, action)
    if run is None:
        return Advice("few_seeds", evidence, f"Add {unit}s until every group has {seeds}: they {what}.")
    if run.in_stages:
        action = f"Set a narrower `seeds.until`, or `seeds.most` to {seeds} or more: {seeds} seeds a group {what}."
        return Advice("few_seeds", evidence, action)
    seeds = max(seeds, len(run.seeds) + 1)
    text, cost = run.with_seeds(seeds)
    return Advice("few_seeds", evidence, f"Run {seeds} seeds a group: they {what}.", text, cost)


def _test_groups(test: _Test, size: float, evidence: str) -> Advice:
    """More seeds do not help: what is left with very many is the test groups' share."""
    last = power(test.design.with_seeds(MOST_SEEDS), test.spread)[test.kind]
    causes = sorted((share, cause) for cause, share in last.shares.items() if cause not in (TRIALS, LINE))
    names = listed([f"{test.design.test_groups.get(cause, 0)} {cause}" for _, cause in causes[::-1]])
    times, least = max((last.after_holm / size) ** 2, 1.0), number(last.after_holm, 1)
    evidence += f", with any number of seeds from {least}: the rest is of the test's {names}."
    if times > HOPELESS:
        most = max(test.design.test_groups.get(cause, 0) for _, cause in causes) if causes else 0
        many = f" (some {rounded(times * most):,} in place of {most})" if most else ""
        action = (
            f"Accept that a difference under {least} points stays open: for {number(size, 1)} points the test would "
            f"need about {times:.0f} times as many groups{many}. More seeds would not help."
        )
    else:
        action = (
            f"Test on more groups (cameras, hospitals, sites): to show {number(size, 1)} points, at least "
            f"{number(times, 1)} times as many. More seeds alone would not help."
        )
    return Advice("test_groups", evidence, action)


def _seen(analysis: Analysis, claim: Finding) -> float:
    """The size of the difference or slope of a finding, 0 where it has none."""
    table = {"factors": analysis.factor_table, "contrasts": analysis.contrasts, "levels": analysis.regression.levels}
    if claim.table not in table or claim.index is None:
        return 0.0
    row = table[claim.table].iloc[claim.index]
    value = float(row["slope"] if claim.table == "factors" else row["delta_er"])
    return abs(value) if np.isfinite(value) else 0.0


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
