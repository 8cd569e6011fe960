"""`advise(analysis, table) -> [Advice]`: what to do next, the most important first, never empty."""

from __future__ import annotations

from collections.abc import Callable

from analysis.advice.advice import Advice
from analysis.advice.pretraining import unlearned
from analysis.advice.remaining import fragile, outside, weak_line
from analysis.advice.remedies import for_refused
from analysis.advice.run_design import RunDesign
from analysis.advice.seeds import undecided
from analysis.advice.tuned import equal_cost
from analysis.findings import findings
from analysis.formatting import listed, name
from analysis.input.table import Table
from analysis.stats.chosen_points import TRIAL
from analysis.study import Analysis
from ray_robust.run.interim import Interim
from ray_robust.text.names import count_noun

MOST = 4


def advise(analysis: Analysis, table: Table | None = None) -> list[Advice]:
    """Return what to do next about one task: at most `MOST` pieces of advice, at least one.

    `table` is what the analysis was made of; of a run folder its spec is read, so that the advice has YAML and a cost.
    The YAML of each holds that of those before it, and the cost is what comes on top.
    """
    run = RunDesign.of(table, analysis.points) if table is not None else None
    if analysis.interim is not None:
        return _of_interim(analysis, analysis.interim, unlearned(analysis, run), run)[:MOST]
    claims = findings(analysis)
    stages: list[Callable[[RunDesign | None], list[Advice]]] = [lambda now: unlearned(analysis, now)]
    if analysis.refused:
        stages += [lambda now: for_refused(analysis, now), lambda now: equal_cost(analysis, now)]
    else:
        stages += [
            lambda now: equal_cost(analysis, now),
            lambda now: undecided(analysis, claims, now),
            lambda now: outside(analysis, now),
            lambda now: weak_line(analysis, now),
            lambda now: fragile(analysis, claims, now),
        ]
    advice = [_alone(analysis, run)] if len(analysis.groups) < 2 and not analysis.refused else []
    for stage in stages:
        own = stage(run)
        advice += own
        run = run and run.after([one.yaml for one in own])
    return advice[:MOST] or [_settled(analysis)]


def _of_interim(analysis: Analysis, interim: Interim, first: list[Advice], run: RunDesign | None) -> list[Advice]:
    """Return the advice on a run that is not complete: to complete it, but for a line that the whole baseline does not
    make."""
    action = (
        f"Wait for the missing trials; if the sweep was stopped (`{interim.ask}` tells), run the same command again."
        if interim.running
        else "Run the same command again: it runs what is missing."
    )
    complete = Advice("interim", interim.missing, action)
    baseline = analysis.options.baseline
    if not analysis.refused and len(analysis.groups) < 2 and not interim.running:
        return [_alone(analysis, run), *first]
    if (
        analysis.refused
        and len(analysis.points)
        and not any(name.partition(" (")[0] == baseline for name in interim.groups)
    ):
        return [*first, *for_refused(analysis, run), complete]
    return [complete]  # what the pre-trainings learned is judged on the whole


def _alone(analysis: Analysis, run: RunDesign | None) -> Advice:
    line = analysis.baseline.line.r2 if analysis.baseline else float("nan")
    evidence = f"The line of {name(analysis.options.baseline)} holds (R² {line:.2f}), and no other group has scores."
    if run is not None and (run.draws or any(row["group"] != analysis.options.baseline for row in run.plan)):
        action = (
            "Run the same command again: it runs the groups that are missing, and tries again what failed; reasons and "
            "logs are listed in Failures."
        )
        return Advice("no_group", evidence, action)
    return Advice("no_group", evidence, "Add groups to compare: in a sweep, a `pretrain` section with a grid.")


def _settled(analysis: Analysis) -> Advice:
    kinds = [finding.kind for finding in findings(analysis)]
    counts = [(kinds.count("differs"), "established"), (kinds.count("equivalent"), "shown to lie within the margin")]
    decided = [f"{count_noun(n, 'finding')} {'is' if n == 1 else 'are'} {what}" for n, what in counts if n]
    evidence = f"{listed(decided)}; none is open."
    action = (
        "Nothing is left to decide in this design. It speaks of this task and model: the same sweep on another task "
        "(`task`) or model (`model`) shows whether it holds there."
        if analysis.options.unit == TRIAL
        else "ER is decided for the models and the test of this table; another test shows whether it holds there."
    )
    return Advice("settled", evidence, action)
