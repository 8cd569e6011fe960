"""A task on several shifts: the line, the groups and the effects on each, and what they say together.

Every shift has a line of its own, fitted to the same baseline trials; `shift_effects` compares what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import contrasts, robustness
from analysis.stats.agreement import PARTNERS, Estimated
from analysis.stats.group_jackknife import SIDES, Counts, JackknifeScores
from analysis.stats.group_means import mean_er
from analysis.stats.quantities import ErrorSource
from analysis.stats.refusals import no_line, refusals_of
from analysis.stats.resampling import jackknife_scores, with_variances
from analysis.stats.robustness import Baseline
from analysis.stats.sensitivity import withheld
from analysis.stats.shift_effects import EFFECTS, MEANS, ShiftEffects, effect_table, mean_table
from analysis.stats.study_group import Group
from analysis.stats.study_tables import GROUPS, TRENDS, group_table, trend_table, with_plane
from analysis.stats.task_points import TaskPoints
from analysis.stats.transform import transformed
from ray_robust.run.shifts import OWN

LINES = ("shift", "compared", "ood_images", "id_images", "classes", *TRENDS[2:], "refused", "estimated")
POOLED = "its parts are compared"
ESTIMATED = "its scores are estimates"
OTHER_TRIALS = "not every trial was tested on it"
Sources = dict[frozenset[str], ErrorSource]  # by the test groups that are left out


@dataclass(frozen=True, eq=False)
class ShiftResult:
    """One shift by itself.

    points    with x, y, and where there is a line expected_ood, er and extrapolated
    line      the baseline's line, a row of `LINES`
    groups    mean ER of every group, columns `GROUPS`
    band      the line with its bands (see `Baseline.band`)
    refused   why there is no ER, or ""
    aside     why it is not compared with the others, or ""
    estimated  what its scores were estimated by, where it has no labels
    """

    name: str
    points: pd.DataFrame
    line: Mapping[str, object]
    groups: pd.DataFrame
    band: pd.DataFrame
    effects: ShiftEffects
    refused: str = ""
    aside: str = ""
    estimated: Estimated | None = None


@dataclass(frozen=True, eq=False)
class Shifts:
    """All shifts of a task; empty where its own OOD test is the only one.

    lines, groups  of every shift, columns `LINES`, and `shift` and `GROUPS`
    effects        of the shifts that are compared, columns `shift_effects.EFFECTS`
    means          the effects' means and spread, columns `shift_effects.MEANS`
    notes          a sentence each
    """

    results: Sequence[ShiftResult] = ()
    effects: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(EFFECTS)))
    means: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(MEANS)))
    notes: Sequence[str] = ()

    def shown(self, name: object) -> str:
        """Return what a shift is called for people: its name, and whether its scores are estimates."""
        estimates = {one.name for one in self.results if one.estimated is not None}
        return f"{name} (estimated)" if name in estimates else str(name)

    @property
    def compared(self) -> list[str]:
        """The names of the shifts that are compared."""
        return [one.name for one in self.results if not one.aside and not one.refused]

    @property
    def lines(self) -> pd.DataFrame:
        """A row per shift."""
        return pd.DataFrame([one.line for one in self.results], columns=list(LINES))

    @property
    def groups(self) -> pd.DataFrame:
        """A row per shift and group."""
        parts = [one.groups.assign(shift=one.name, estimated=one.estimated is not None) for one in self.results]
        columns = ["shift", *GROUPS, "estimated"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)

    def held(self) -> Shifts:
        """Return the same of an interim analysis: no claim."""
        return replace(self, effects=withheld(self.effects), means=withheld(self.means))


@dataclass(frozen=True, eq=False)
class OnShift:
    """What `shift_results` reads of one shift: its points, the same as on the others and in their order, its counts
    per test group, why it is not compared with the others, or "", and where its scores are estimated the estimate."""

    name: str
    points: pd.DataFrame
    counts: Mapping[str, Counts] | None = None
    aside: str = ""
    estimated: Estimated | None = None


def shift_results(shifts: Sequence[OnShift], options: Options) -> Shifts:
    """Return the analysis of every shift and of all together; of a single one nothing."""
    if len(shifts) < 2:
        return Shifts()
    sources: Sources = {}
    trials = max((_trials(shift.points) for shift in shifts), key=len)
    measured = any(shift.estimated is None for shift in shifts)  # estimates are compared with estimates alone
    results = []
    for shift in shifts:
        aside = shift.aside or ("" if _trials(shift.points) == trials else OTHER_TRIALS)
        aside = aside or (ESTIMATED if measured and shift.estimated is not None else "")
        one = _result(shift, options, sources)
        line = {**one.line, "compared": not (aside or one.refused)}
        results.append(replace(one, aside=aside, line=line, estimated=shift.estimated))
    own = [one.effects for one in results if not one.aside and not one.refused]
    effects = effect_table(own, options.margin)
    return Shifts(results, effects, mean_table(own, effects, options.margin), list(_notes(results)))


def _trials(points: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(points["group"].astype(str), points["trial"].astype(str), strict=True))


def _result(shift: OnShift, options: Options, sources: Sources) -> ShiftResult:
    if shift.estimated is not None:
        replicates = list(shift.estimated.replicates)
        if why := shift.estimated.refused:
            return _refused(shift, options, why)
    else:
        replicates, _ = jackknife_scores(shift.points, shift.counts, options)
    replicates = [_named(each, shift, sources) for each in replicates]
    task_points, _, _ = TaskPoints.of(with_variances(shift.points, shift.counts), options, replicates).at_look()
    scale = SCALES[options.scale]
    groups = task_points.groups_on(scale)
    comparison = task_points.compare(scale, groups=groups, of_factors=False)
    trends = with_plane(trend_table(groups, scale), comparison, options)
    if comparison is None:
        points = transformed(shift.points, scale, options)
        why = no_line(groups, options)
        nothing = ShiftEffects(shift.name)
        line = _line(shift, trends, options, why)
        return ShiftResult(shift.name, points, line, group_table(groups, {}), pd.DataFrame(), nothing, why)
    baseline, why = comparison.baseline, "; ".join(refusals_of(comparison, options))
    means = {} if why else {name: mean for name, group in comparison.groups.items()
                            if (mean := mean_er(group, baseline, baseline.low, baseline.high)) is not None}  # fmt: skip
    return ShiftResult(
        shift.name,
        pd.concat(
            [robustness.with_intervals(group.points, baseline) for group in comparison.groups.values()],
            ignore_index=True,
        ),
        _line(shift, trends, options, why),
        group_table(comparison.groups, means),
        baseline.band(comparison.groups[options.baseline]),
        ShiftEffects(shift.name) if why else _effects(shift.name, comparison.groups, baseline),
        why,
    )


def _refused(shift: OnShift, options: Options, why: str) -> ShiftResult:
    """A shift of which no score is estimated."""
    points = transformed(shift.points.iloc[:0], SCALES[options.scale], options)
    line = _line(shift, trend_table({}, SCALES[options.scale]), options, why)
    nothing = group_table({}, {})
    return ShiftResult(shift.name, points, line, nothing, pd.DataFrame(), ShiftEffects(shift.name), why)


def _effects(name: str, groups: Mapping[str, Group], baseline: Baseline) -> ShiftEffects:
    effects, ids, families = {}, {}, {}
    for pair in contrasts.pairs(groups, baseline):
        key = pair.a.name, pair.b.name
        families[key] = pair.family
        if (difference := contrasts.difference(pair, baseline)) is not None:
            effects[key], ids[key] = difference, (pair.low, pair.high)
    return ShiftEffects(name, effects, ids, families)


def _named(scores: JackknifeScores, shift: OnShift, sources: Sources) -> JackknifeScores:
    """The replicates under a source that two shifts share exactly where their test groups are the same: those of the
    ID test, left out in the same order, whether the shift's images are of them too (a corruption's) or not. A shift of
    some of the classes may lack some of the ID groups, and OOD groups alone are of one shift."""
    own = replace(scores.source, name=f"{scores.source.name} of {shift.name}")
    if shift.estimated is not None and own.name.startswith(("ID ", PARTNERS)):  # the same images and trials on all
        key = frozenset(("estimated", scores.source.name, f"{scores.source.clusters}"))
        return replace(scores, source=sources.setdefault(key, own))
    if scores.id is None or shift.counts is None:
        return replace(scores, source=own)
    sides = SIDES if scores.ood is not None else SIDES[:1]
    groups = frozenset(group for side in sides for group in shift.counts[side].groups)
    return replace(scores, source=sources.setdefault(groups, own))


def _line(shift: OnShift, trends: pd.DataFrame, options: Options, why: str) -> dict[str, object]:
    own = trends.loc[trends["group"] == options.baseline]
    points = shift.points
    numbers = own.iloc[0].to_dict() if len(own) else dict.fromkeys(TRENDS, np.nan)

    def of(column: str) -> float:
        values = pd.to_numeric(points[column], errors="coerce").dropna() if column in points else ()
        return float(max(values)) if len(values) else np.nan

    return {"shift": shift.name, **numbers, "ood_images": of("ood_images"), "id_images": of("id_images"),
            "classes": of("shift_classes"), "refused": why, "estimated": shift.estimated is not None}  # fmt: skip


def _notes(results: Sequence[ShiftResult]) -> Iterator[str]:
    for one in results:
        if one.estimated is not None and one.name != OWN and not one.refused:
            yield f"OOD scores on {one.name} are estimated without labels: {one.estimated.sentence}"
        if one.refused:
            yield f"no effective robustness on {one.name}: {one.refused}"
        elif one.aside == OTHER_TRIALS:
            yield f"{one.name} is not compared with the other shifts: {one.aside}"
