"""`seeds: {first, until, most}`: the seeds of a second stage, planned from the results of the first.

The first stage's trials are those of `seeds: <first>`, with the same ids; the second's are ordinary trials of further
seeds. What the first one gave decides how many (`analysis.predict.second_stage`); the run folder keeps the plan, and
one that is lost is made again from the same results. No Ray.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ray_robust.plan.plan import Plan, hash_of
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.work import OpenWork, finished_trials, open_work, remaining_of
from ray_robust.run import seed_plan
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.seed_plan import BONFERRONI, FILE, GROUPS, TREND, Need, SeedPlan
from ray_robust.text.names import count_noun


def wanted(sweep: Sweep) -> bool:
    """Return whether a sweep's seeds come in two stages."""
    return sweep.spec.stages is not None


def first_stage(sweep: Sweep, limit: int | None = None) -> Sweep:
    """Return the sweep with the trials of its first stage alone."""
    spec = replace(sweep.spec, seeds_of={})
    return replace(sweep, spec=spec, plan=sweep.plan_of(spec, limit))


def with_plan(sweep: Sweep, seeds: Mapping[str, int], limit: int | None) -> Sweep:
    """Return the sweep with so many seeds of every group."""
    spec = replace(sweep.spec, seeds_of=dict(seeds))
    return replace(sweep, spec=spec, plan=sweep.plan_of(spec, limit))


def recorded(sweep: Sweep, run: RunFolder) -> SeedPlan | None:
    """Return the plan that the run folder keeps for this very first stage and rule, None without one."""
    rule, plan = sweep.spec.stages, seed_plan.recorded(run.storage)
    if rule is None or plan is None or plan.meaning != _meaning(first_stage(sweep)) or plan.rule != rule:
        return None
    first, most = _first(sweep), _most(sweep)
    possible = set(plan.seeds) == set(first) and all(first[g] <= n <= most[g] for g, n in plan.seeds.items())
    return plan if possible else None


def later_work(sweep: Sweep, run: RunFolder, limit: int | None) -> list[OpenWork]:
    """Return the most work that the second stage can add to the first; none where it is planned, or there is none."""
    if not wanted(sweep) or recorded(sweep, run) is not None:
        return []
    dearest = with_plan(sweep, _most(sweep), limit).plan
    first = {trial.id for trial in first_stage(sweep, limit).plan}
    plan = Plan(tuple(trial for trial in dearest if trial.id not in first))
    left = remaining_of(run, plan, finished_trials(run, plan)) if run.exists("trials") else None
    return open_work(plan, left)


def missing(sweep: Sweep, run: RunFolder) -> int:
    """Return how many trials of the first stage are not done."""
    plan = first_stage(sweep).plan
    return len(plan) - len(finished_trials(run, plan))


def decide(sweep: Sweep, run: RunFolder) -> SeedPlan:
    """Plan the second stage from the first, which is done, and keep the plan in the run folder.

    Raises UserError where the folder cannot be read.
    """
    from analysis.input.run_agreement import unlabelled_tests, with_estimates  # late: pandas
    from analysis.input.run_points import first_stage_of, read_run
    from analysis.predict.second_stage import Stage, plan_seeds, targets

    rule, plan = sweep.spec.stages, first_stage(sweep).plan
    assert rule is not None
    table, options = read_run(run.storage.address)
    options = replace(options, first_stage=first_stage_of({**run.spec(), **_of_spec(sweep)}))
    points = table.points.loc[table.points["trial"].isin({trial.id for trial in plan})]
    first, groups = _first(sweep), {trial.id: trial.group for trial in plan}
    costs = {group: sum(trial.cost for trial in plan if trial.group == group) / first[group] for group in first}
    stage = Stage(first, _most(sweep), costs, options.margin)
    seeds, needs = dict(first), list[Need]()
    tasks = list(dict.fromkeys(points["task"]))
    for task in tasks:
        own = points.loc[points["task"] == task].reset_index(drop=True)
        own, estimated, _ = with_estimates(own, options, unlabelled_tests(table.runs, own))
        if own.empty:  # nothing can be estimated
            continue
        counts = estimated or (table.counts(own)[0] if table.counts else None)
        goals = targets(own, options, rule, counts)
        of_trials = own.groupby("group")["trial"].first().map(groups).to_dict()  # of points between weights too
        goals = [replace(one, groups={name: of_trials.get(group, group) for name, group in one.groups.items()})
                 for one in goals]  # fmt: skip
        more, own_needs = plan_seeds(goals, rule, stage, task if len(tasks) > 1 else "")
        seeds = {group: max(count, more[group]) for group, count in seeds.items()}
        needs += own_needs
    trials = {group: count // first[group] for group, count in Counter(groups.values()).items()}
    made = SeedPlan(_meaning(first_stage(sweep)), rule, seeds, trials, tuple(needs), _most(sweep))
    run.write(FILE, json.dumps(made.plain(), indent=1, allow_nan=False) + "\n")
    return made


def sentence(sweep: Sweep) -> str:
    """Return what `--plan` prints while the second stage is not planned."""
    rule = sweep.spec.stages
    assert rule is not None
    first, dearest = len(first_stage(sweep).plan), len(with_plan(sweep, _most(sweep), None).plan)
    return (
        f"{rule.first} of every group first, {count_noun(first, 'trial')}; then by their scatter as many as give "
        f"{rule.asked}, up to {rule.most}: {first} to {dearest} trials in all. {_outlook(sweep)}"
    )


def _outlook(sweep: Sweep) -> str:
    """How many seeds that takes at the published scatter, or how far the most fall short."""
    from analysis.predict.power import kinds, parts
    from analysis.predict.spread import published
    from analysis.stats.estimates import LEVEL, TWO_SIDED, quantile
    from ray_robust.prepare.power import design_in

    rule, design = sweep.spec.stages, design_in(first_stage(sweep))
    assert rule is not None
    pair = "two groups" if rule.of != GROUPS and sweep.spec.baseline.name not in rule.of else "a group"
    starts = "trend" if rule.of == TREND else pair
    number = next((i for i, kind in enumerate(kinds(design)) if kind.name.startswith(starts)), None)
    if number is None:
        return "Nothing of that kind is compared, so no seed will be added"
    spread, margin = published(design), rule.until is None
    bonferroni = BONFERRONI["late"] if margin else 1.0
    levels = [1 - (1 - level) / bonferroni for level in ((TWO_SIDED, LEVEL) if margin else (TWO_SIDED, TWO_SIDED))]
    reach = sum(quantile(level, rule.first - 1.0) for level in levels)
    goal = design.margin if rule.until is None else rule.until

    def span(seeds: int) -> float:
        planned = design.with_seeds(seeds)
        return reach * sum(part.variance for part in parts(kinds(planned)[number], planned, spread)) ** 0.5

    assumed = f"Assumed that ER varies by {spread.trials:.1f} points between seeds"
    for seeds in range(rule.first, rule.most + 1):
        if span(seeds) <= goal:
            return f"{assumed}, about {seeds} seeds are enough"
    least = "" if margin else f" come to {span(rule.most):.1f} points, not {goal:g}"
    return f"{assumed}, {rule.most} seeds {least.strip() or 'would often not decide it'}"


def _of_spec(sweep: Sweep) -> dict[str, object]:
    """What of the sweep's spec decides its first stage, as its resolved YAML has it."""
    import yaml

    resolved = yaml.safe_load(sweep.spec.resolved)
    return {key: resolved[key] for key in ("seeds", "baseline") if key in resolved}


def _first(sweep: Sweep) -> dict[str, int]:
    """Seeds of every group in the first stage."""
    seeds: dict[str, set[int]] = {}
    for trial in first_stage(sweep).plan:
        seeds.setdefault(trial.group, set()).add(trial.seed)
    return {group: len(own) for group, own in seeds.items()}


def _most(sweep: Sweep) -> dict[str, int]:
    """The most seeds that every group can have; a baseline whose seeds the spec fixes has these."""
    rule, spec = sweep.spec.stages, sweep.spec
    assert rule is not None
    fixed = spec.baseline.name if spec.baseline.seeds is not None else None
    return {group: count if group == fixed else rule.most for group, count in _first(sweep).items()}


def _meaning(sweep: Sweep) -> str:
    settings = [sweep.spec.baseline.name, sweep.spec.analysis.model_dump(mode="json")]
    trials = sorted((trial.key, sorted(f.id for f in trial.finetunings)) for trial in sweep.plan)
    return hash_of([settings, trials])
