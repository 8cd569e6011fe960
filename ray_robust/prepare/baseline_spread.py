"""`baseline: {spread: auto}`: fine-tunings from scratch whose ID scores spread evenly, chosen from a pilot of a few.

A rung is a fine-tuning by how much it sees, in octaves of the baseline's own length: -2 trains on a quarter of the
images, 2 on all of them four times as long. The pilot runs `PILOT` once per model; from its ID validation scores the
baseline's rungs follow by a fixed rule (`choose`), are kept in the run folder and are the baseline of every seed. They
are ordinary fine-tunings with ordinary ids, so that the pilot's are among them and are not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
from scipy.special import ndtr, ndtri

from analysis.scales import SCALES, clip
from ray_robust.plan.plan import Plan, hash_of, pool_key
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.work import PilotWork, finished_trials, open_work, remaining_of
from ray_robust.run.analysis_settings import BASELINE as SCRATCH
from ray_robust.run.analysis_settings import smallest_set
from ray_robust.run.run_folder import SPREAD, RunFolder
from ray_robust.spec.load import Finetune, Level, Spec

PILOT = (-4.0, -2.0, 0.0, 2.0)  # octaves
MOST = 8  # rungs of a baseline
EVEN = 0.2  # of the range of ID scores on the axis: no two neighbouring rungs lie farther apart, if they can be had
WIDE = 1.2  # probits of ID scores that a baseline covers. Rungs below its own length are there only as far as that
# takes: comparisons are made at its scores and above, while towards chance a line may bend
FLAT = 0.1  # probits at a score of 1/2: two lowest rungs that are nearer than this are both at chance: one is enough
SPENT = 0.05  # probits at a score of 1/2: a longest rung that gains less than this is not worth its length
STEP = 4  # octaves are chosen in such parts

Curve = Mapping[float, float]  # of one model on one task: octaves -> ID score on the axis


@dataclass(frozen=True)
class Choice:
    """The rungs of a baseline, in octaves. `decided`: by a pilot; else those of the pilot stand for what will be."""

    octaves: tuple[float, ...]
    decided: bool


def wanted(spec: Spec) -> bool:
    """Return whether the spec leaves its baseline's fine-tunings to a pilot."""
    return spec.baseline.spread == "auto"


def can_be_spread(spec: Spec) -> bool:
    """Return whether `baseline.spread: auto`, which is not set, would be accepted."""
    sizes = [size for level in spec.baseline_finetunes for size in (level.section.num_images, level.section.per_class)]
    return spec.baseline.name == SCRATCH and not wanted(spec) and all(size is None for size in sizes)


def with_choice(sweep: Sweep, choice: Choice, limit: int | None) -> Sweep:
    """Return a sweep whose baseline has the fine-tunings of these rungs besides those that its spec names, and those of
    the groups, so that raw scores can be compared at equal settings."""
    levels = {level.section: level for level in (*_rungs(sweep, choice.octaves), *own_and_of_groups(sweep.spec))}
    spec = replace(sweep.spec, baseline_finetunes=tuple(levels.values()))
    return replace(sweep, spec=spec, plan=sweep.plan_of(_planned(spec), limit))


def own_and_of_groups(spec: Spec) -> tuple[Level[Finetune], ...]:
    """Return the fine-tunings that a spread baseline has beside its rungs: its own, and those of the groups."""
    own = spec.baseline_finetunes
    methods = {level.section.method for level in own}  # a linear probe of random weights is no baseline of its own
    return (*own, *(level for level in spec.finetunes if level.section.method in methods))


def pilot_plan(sweep: Sweep) -> Plan:
    """Return the pilot's trials: of the baseline's first seed, one per model, with the rungs of `PILOT`."""
    baseline = sweep.spec.baseline.model_copy(update={"seeds": 1})
    levels = _rungs(sweep, PILOT)
    return sweep.plan_of(replace(sweep.spec, pretrains=(), baseline_finetunes=levels, baseline=baseline), None)


def recorded(sweep: Sweep, run: RunFolder) -> Choice:
    """Return the choice that the run folder keeps for this very pilot; without one, the pilot's rungs, undecided.

    `sweep` is one without a choice: what the pilot means names the choice, so that an edited baseline has another.
    """
    kept = run.storage.recall_json(SPREAD) or {}
    octaves = kept.get("octaves")
    if kept.get("pilot") == _meaning(pilot_plan(sweep)) and _could_be_chosen(octaves):
        return Choice(tuple(map(float, octaves)), True)
    return Choice(PILOT, False)


def _could_be_chosen(octaves: Any) -> TypeGuard[list[float]]:
    """Return whether `choose` could return these: a damaged file must neither end a command nor train for years."""
    if not isinstance(octaves, list) or not all(type(octave) in (int, float) for octave in octaves):
        return False
    within = all(PILOT[0] <= octave <= PILOT[-1] and (octave * STEP).is_integer() for octave in map(float, octaves))
    return within and 2 <= len(octaves) <= MOST and octaves == sorted(set(octaves))


def decide(sweep: Sweep, run: RunFolder) -> Choice | None:
    """Choose the rungs from the pilot's scores and keep them in the run folder; None where a trial of it is not done.

    `sweep` is one without a choice.
    """
    plan, scores, curves, floors = pilot_plan(sweep), list[dict[str, Any]](), list[Curve](), list[float]()
    octave_of = {_size(level.section): octave for octave, level in zip(PILOT, _rungs(sweep, PILOT), strict=True)}
    axis = SCALES[sweep.spec.analysis.scale]
    for trial in plan:
        if not run.has_rows(trial.id, [f.id for f in trial.finetunings]):
            return None
        rows = run.trial(trial.id).rows()
        for task in dict.fromkeys(f.task_label for f in trial.finetunings):
            finetunings = [f for f in trial.finetunings if f.task_label == task]
            own = {f.id: octave_of[_size(f.settings)] for f in finetunings}
            section = finetunings[0].task
            images = len(sweep.tasks[pool_key(section.name, section)].catalog.rows("id_val"))
            last = {own[row["finetune"]]: row["id_val"] for row in sorted(rows, key=lambda row: row["epoch"])
                    if row["finetune"] in own and row.get("wise_alpha") is None}  # fmt: skip
            curves.append(dict(zip(last, axis.of(list(last.values()), images).tolist(), strict=True)))
            highest = ndtr(ndtri(clip([max(last.values())], images)) - WIDE)  # of a score of 1 too
            floors += axis.of(np.minimum(last[0.0], highest), images).tolist()
            scores += [{"model": trial.model.name, "task": task, "octaves": octave, "id_val": score}
                       for octave, score in sorted(last.items())]  # fmt: skip
    octaves = choose(curves, floors, SCALES["probit"].rate(0.0).item() / axis.rate(axis.h(0.5)).item())
    kept = {"octaves": list(octaves), "pilot": _meaning(plan), "scores": scores}
    run.write(SPREAD, json.dumps(kept, indent=1, allow_nan=False) + "\n")
    return Choice(octaves, True)


def choose(curves: Sequence[Curve], floors: Sequence[float], probit: float = 1.0) -> tuple[float, ...]:
    """Return the rungs, in octaves, ascending. `floors`: of each curve the score down to which rungs are wanted;
    `probit`: how long one probit is on the axis, at a score of 1/2.

    Those of the pilot, less lowest ones that are not needed to reach the floors or are at chance (`FLAT`), and a
    longest one that gains nothing (`SPENT`); then, in the widest gap between neighbours that any curve has, one more in
    its middle, up to `MOST`, until no gap is wider than `EVEN` of its curve's range. Curves are taken as straight
    between rungs, and as never falling.
    """
    rising = [_rising(curve) for curve in curves]
    octaves = sorted(set.intersection(*map(set, rising))) if rising else list(PILOT)

    def apart(low: float, high: float) -> float:
        return max((curve[high] - curve[low] for curve in rising), default=0.0)

    def low_enough(octave: float) -> bool:
        return all(curve[octave] <= floor for curve, floor in zip(rising, floors, strict=True))

    while len(octaves) > 2 and (low_enough(octaves[1]) or apart(octaves[0], octaves[1]) < FLAT * probit):
        octaves.pop(0)
    if len(octaves) > 2 and apart(octaves[-2], octaves[-1]) < SPENT * probit:
        octaves.pop()
    refused = set[float]()
    while len(octaves) < MOST:
        gaps = [(_widest(rising, low, high, octaves), low, high)
                for low, high in pairwise(octaves) if low not in refused]  # fmt: skip
        width, low, high = max(gaps, default=(0.0, 0.0, 0.0))
        if width <= EVEN:
            break
        middle = round((low + high) / 2 * STEP) / STEP
        if not low < middle < high:
            refused.add(low)
            continue
        for curve in rising:
            curve[middle] = curve[low] + (curve[high] - curve[low]) * (middle - low) / (high - low)
        octaves = sorted([*octaves, middle])
    return tuple(octaves)


def pilot_work(sweep: Sweep, run: RunFolder, limit: int | None) -> PilotWork | None:
    """Return what is open while the pilot has not chosen; None where none is to, or it has. `sweep` is one without a
    choice."""
    if not wanted(sweep.spec) or recorded(sweep, run).decided:
        return None
    dearest = with_choice(sweep, Choice((*PILOT, *_dearest(PILOT[-1])), True), limit).plan
    plan = Plan(tuple(trial for trial in dearest if trial.pretrain is None))
    left = remaining_of(run, plan, finished_trials(run, plan)) if run.exists("trials") else None
    trainings = {(trial.id, f.id) for trial in pilot_plan(sweep) for f in trial.finetunings}
    apart = bool(sweep.spec.space.dimensions)  # of a search
    alone = apart or sweep.spec.baseline.stop_if_no_line
    return PilotWork(frozenset(trainings), tuple(open_work(plan, left)), alone, apart)


def spread_sentence(sweep: Sweep, choice: Choice) -> str:
    """Return what `--plan` prints of the baseline's rungs, with the cost while they are not decided."""
    if choice.decided:
        return f"chosen by the pilot: {_sizes(sweep, choice.octaves)}"
    pilot = sum(f.images for trial in pilot_plan(sweep) for f in trial.finetunings)
    least, most = (_images(sweep, octaves) for octaves in (PILOT, (*PILOT, *_dearest(PILOT[-1]))))
    return (
        f"a pilot of {len(_rungs(sweep, PILOT))} fine-tunings per model comes first, {pilot:,} images "
        f"({_sizes(sweep, PILOT)}). By its ID scores the baseline has these and up to {MOST - len(PILOT)} more for "
        f"every seed: {least:,} to {most:,} images in all, of which the plan counts the first and its time both"
    )


def _images(sweep: Sweep, octaves: Sequence[float]) -> int:
    """Training images of the baseline's fine-tunings with these rungs."""
    plan = with_choice(sweep, Choice(tuple(octaves), True), None).plan
    return sum(f.images for trial in plan if trial.pretrain is None for f in trial.finetunings)


def _dearest(full: float) -> tuple[float, ...]:
    """The most expensive rungs that a choice can add: below the longest one, halving the gap at each time."""
    return tuple(full - full / 2**k for k in range(1, MOST - len(PILOT) + 1))


def _planned(spec: Spec) -> Spec:
    """What a plan is made of: of a search the baseline alone."""
    return replace(spec, pretrains=()) if spec.space.dimensions else spec


def _rungs(sweep: Sweep, octaves: Sequence[float]) -> tuple[Level[Finetune], ...]:
    """The fine-tunings of these rungs, each once: of the spec's own baseline fine-tunings that of the middle rate."""
    facts = [task.catalog for task in sweep.tasks.values()]
    images = min(len(catalog.rows("train")) for catalog in facts)
    fewest = max(smallest_set(len(catalog.classes)) for catalog in facts)
    levels = sorted(sweep.spec.baseline_finetunes, key=lambda level: (level.section.epochs, level.section.lr))
    level = levels[len(levels) // 2]
    return tuple(
        Level(_rung(level.section, octave, images, fewest), (*level.axes, ("octaves", f"{octave:g}")))
        for octave in octaves
    )


def _rung(base: Finetune, octave: float, images: int, fewest: int) -> Finetune:
    if octave > 0:
        factor = 2**octave
        return base.model_copy(
            update={"epochs": round(base.epochs * factor), "evaluate_every": round(base.evaluate_every * factor)}
        )
    count = max(round(images * 2**octave), min(fewest, images))
    return base if count >= images else base.model_copy(update={"num_images": count})


def _size(settings: Finetune) -> tuple[int | None, int]:
    return settings.num_images, settings.epochs


def _sizes(sweep: Sweep, octaves: Sequence[float]) -> str:
    sizes = [_size(level.section) for level in _rungs(sweep, octaves)]
    return ", ".join(dict.fromkeys(f"{count:,} images" if count else f"all for {epochs} epochs"
                                   for count, epochs in sizes))  # fmt: skip


def _meaning(pilot: Plan) -> str:
    return hash_of(
        [[trial.key, sorted(f.id for f in trial.finetunings)] for trial in sorted(pilot, key=lambda t: t.key)]
    )


def _rising(curve: Curve) -> dict[float, float]:
    """The curve as never falling: each score is at least that of every lower rung."""
    highest, rising = float("-inf"), {}
    for octave in sorted(curve):
        highest = max(highest, curve[octave])
        rising[octave] = highest
    return rising


def _widest(rising: Sequence[Curve], low: float, high: float, octaves: Sequence[float]) -> float:
    """The largest share that the gap between two rungs has of a curve's range."""
    shares = [
        (curve[high] - curve[low]) / whole for curve in rising if (whole := curve[octaves[-1]] - curve[octaves[0]]) > 0
    ]
    return max(shares, default=0.0)
