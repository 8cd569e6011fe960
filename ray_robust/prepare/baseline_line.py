"""What the baseline's points alone decide, as soon as they are there: whether they make a line, and what a sweep with
that line could find.

The analysis of the report judges them (`analysis.study.analyse`), so that a line that holds here holds there. No Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.formatting import interval, number, percent
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec

if TYPE_CHECKING:
    import pandas as pd

    from analysis.study import Analysis


@dataclass(frozen=True)
class BaselineLine:
    """The verdict on the baseline's points, before those of other groups.

    holds      whether some task has a line that ER can be measured from
    sentences  what to print, one or two for each task
    refusals   why there is none, for each task without one
    """

    holds: bool
    sentences: tuple[str, ...]
    refusals: tuple[str, ...] = ()


def baseline_trials(plan: Plan, spec: Spec) -> frozenset[str]:
    """Return the ids of the plan's baseline trials; none where the spec has no baseline."""
    return frozenset(trial.id for trial in plan if trial.group == spec.baseline.name)


def judge_baseline(sweep: Sweep, run: RunFolder) -> BaselineLine:
    """Return the verdict on the baseline's points in a run folder, read through a folder of its own.

    Raises UserError where the folder cannot be read.
    """
    from analysis.input.run_agreement import unlabelled_tests, with_estimates  # late: pandas
    from analysis.input.run_points import read_run
    from analysis.study import analyse

    spec = sweep.spec
    table, options = read_run(run.storage.address)
    own = table.points.loc[table.points["group"] == options.baseline]
    planned = baseline_trials(sweep.plan, spec)
    own = own.loc[own["trial"].isin(planned)]
    sentences, refusals, holds = [], [], False
    tasks = list(dict.fromkeys(own["task"])) or [""]
    for task in tasks:
        points = own.loc[own["task"] == task].reset_index(drop=True)
        points, estimated, _ = with_estimates(points, options, unlabelled_tests(table.runs, points))
        counts = table.counts(points)[0] if table.counts and len(points) and estimated is None else None
        analysis = analyse(task, points, options, counts=estimated or counts)
        prefix = f"{task}: " if len(tasks) > 1 else ""
        prefix += f"{analysis.mark}: " if analysis.mark else ""
        if missing := len(planned) - points["trial"].nunique():
            prefix += f"{missing} of its {len(planned)} trials have no scores; "
        if analysis.refusals:
            why = "; ".join(analysis.refusals)
            refusals.append(prefix + why)
            sentences.append(f"baseline  {prefix}no line, so no effective robustness: {why}{_id_range(points)}")
            continue
        holds = True
        sentences.append(f"baseline  {prefix}{_line_sentence(analysis)}")
        if able := _power_sentence(sweep, analysis):
            sentences.append(f"power     {prefix if len(tasks) > 1 else ''}{able}")
    return BaselineLine(holds, tuple(sentences), tuple(refusals))


def _line_sentence(analysis: Analysis) -> str:
    """R^2, range, slope, and whether the line bends; further checks of the line that fail."""
    from analysis.line.line_checks import FAILS

    own = analysis.trends.loc[
        (analysis.trends["group"] == analysis.options.baseline) & (analysis.trends["scale"] == analysis.options.scale)
    ].iloc[0]
    text = (
        f"a line: R² {number(own['r2'], 2)} (floor {analysis.options.min_r2:g}) over {own['n']:.0f} points, slope "
        f"{number(own['slope'], 2)} ({interval(own['slope_low'], own['slope_high'], 2)}); it gives ER at ID scores "
        f"from {percent(own['id_min'], 0)} to {percent(own['id_max'], 0)}"
    )
    verdicts = {one.check: one for one in analysis.line.verdicts} if analysis.line else {}
    bend = verdicts.pop("curvature", None)
    failed = [one.text for one in verdicts.values() if one.state == FAILS]
    return "; ".join([text, *([bend.text] if bend else []), *failed])


def _id_range(points: pd.DataFrame) -> str:
    if points.empty:
        return ""
    return f" (ID scores from {percent(points['id'].min(), 0)} to {percent(points['id'].max(), 0)})"


def _power_sentence(sweep: Sweep, analysis: Analysis) -> str:
    """Which differences the planned design could find, by how much the baseline's trials varied where that is enough
    to go by; "" where the plan has no other group, or not yet."""
    from analysis.predict.variances import of_baseline
    from ray_robust.prepare import power

    if sweep.spec.space.dimensions:  # which groups a search will have is not known yet
        return ""
    design = power.design_in(sweep)
    spread = of_baseline(analysis, design)
    able = power.line(design, spread)
    return f"{able}; the report goes by the scatter of all groups" if able and spread is not None else able
