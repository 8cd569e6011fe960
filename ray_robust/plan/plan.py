"""Every trial of a sweep before anything runs: ids, seeds, groups and cost.

Pure: no ray, no files, and no torch but where a tag of open_clip is looked up. A trial's identity hashes its scientific
meaning only - never a path, a worker count, the sweep's name or the order of keys - so an edited spec keeps every trial
whose own meaning did not change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray_robust.registry import has_quick_gelu
from ray_robust.run.analysis_settings import BASELINE as SCRATCH
from ray_robust.run.throughput import EVALUATION_COST
from ray_robust.spec.class_selection import granularity_text
from ray_robust.spec.load import (
    UNLABELLED,
    Finetune,
    Level,
    ModelSection,
    PoolSection,
    Pretrain,
    Section,
    Spec,
    TaskSection,
)

RECIPE = 1  # raised when the training code changes the scores of a trial


@dataclass(frozen=True)
class PoolFacts:
    """What a plan needs of a pool: its meaning (see `Pool.meaning`; of a task `Task.scored`) and its size in images, of
    a task the images per split and per further test, the training images per class, and what it means without further
    tests ("" where it has none)."""

    meaning: str
    images: int
    splits: Mapping[str, int] = field(default_factory=dict)
    train: tuple[int, ...] = ()
    without_shifts: str = ""


@dataclass(frozen=True)
class WeightsFacts:
    """What a plan needs of published weights: their meaning, which is never a path, and their model ("" where the
    weights do not name it)."""

    meaning: str
    model: str = ""


@dataclass(frozen=True)
class MixtureDetails:
    """What a plan needs of a mixture and only the data has: by key what a trial means in place of what the spec says (a
    hash of the contents of a CSV, of the column that images are selected by), and how many images the mixture draws
    under a subset seed, None where that cannot be told."""

    tables: Mapping[str, Any]
    images: Callable[[int], int | None]


@dataclass(frozen=True)
class Finetuning:
    """One fine-tuning of a trial. `id` names it within any trial by its settings and its task, and by nothing else.
    `training` is the id that it has without further shifts: it names the random draws, so that a shift more changes no
    other score."""

    id: str
    training: str
    task: TaskSection
    task_label: str
    settings: Finetune
    images: int  # training images processed
    evaluated: int  # test images, over all evaluations


@dataclass(frozen=True)
class Trial:
    """One mixture x one model x one seed: pre-train once (`pretrain` is None from scratch), then every fine-tuning."""

    id: str
    key: str  # the hash in `id`: what the trial means
    group: str
    model: ModelSection
    pretrain: Pretrain | None
    seed: int
    subset_seed: int
    pretrain_images: int  # processed, over all epochs
    finetunings: tuple[Finetuning, ...]
    model_label: str = ""  # the model's name in results, where that alone is not enough
    weights: str = ""  # the meaning of published weights, with which what is loaded is compared

    def joined(self, other: Trial | None) -> Trial:
        """Return the trial with the fine-tunings of another one of the same pre-training, too."""
        more = other.finetunings if other is not None else ()
        return replace(self, finetunings=tuple({f.id: f for f in (*self.finetunings, *more)}.values()))

    @property
    def draws(self) -> bool:
        """Whether it pre-trains on images here: not from scratch, and not with published weights."""
        return self.pretrain is not None and bool(self.pretrain.sources)

    @property
    def cost(self) -> float:
        """The cost in training images. An evaluated image counts as `EVALUATION_COST` of one: its forward pass's share
        of a step."""
        return self.pretrain_images + sum(f.images + EVALUATION_COST * f.evaluated for f in self.finetunings)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the results table that identify a trial."""
        mixture = self.pretrain
        return {
            "trial": self.id,
            "group": self.group,
            "status": "planned",
            "model": self.model_label or self.model.name,
            "seed": self.seed,
            "subset_seed": self.subset_seed if mixture else None,
            "num_images": _number(mixture.num_images) if mixture else 0,
            "num_classes": _number(mixture.num_classes) if mixture else 0,
            "images_per_class": mixture.images_per_class if mixture else None,
            "granularity": granularity_text(mixture.granularity) if mixture else "",
            "semantics": (mixture.classes.text if mixture.classes else "all") if mixture else "",
            "sources": json.dumps({n: s.weight for n, s in mixture.sources.items()} if mixture else {}),
            "pretrain_method": mixture.method if mixture else SCRATCH,
            "pretrain_epochs": (None if mixture.min_images_seen else mixture.epochs) if mixture else 0,
            "pretrain_images_seen": self.pretrain_images,
            "upstream_accuracy": None,
            "seconds_pretrain": None,
            "select": mixture.select.text if mixture and mixture.select else None,
            "dedupe": mixture.dedupe.text if mixture and mixture.dedupe else None,
            "label_noise": mixture.label_noise.text if mixture and mixture.label_noise else None,
        }


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, the costliest first, so that no long one runs alone at the end."""

    trials: tuple[Trial, ...]

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def pretrainings(self) -> int:
        """The number of different pre-trainings that the trials need."""
        return sum(trial.pretrain is not None for trial in self.trials)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per trial, for plan.csv."""
        return [
            {
                **trial.columns(),
                "finetunes": json.dumps({f.id: f.task_label for f in trial.finetunings}),
                "trainings": json.dumps({f.id: f.training for f in trial.finetunings if f.training != f.id}),
                "cost_images": round(trial.cost),
            }
            for trial in self.trials
        ]


@dataclass(frozen=True)
class Configuration:
    """What a search runs for one draw: `values` by dimension, and a trial per seed, model and level of a grid."""

    values: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def key(self) -> str:
        """A hash, equal for two draws exactly when their trials mean the same."""
        return hash_of(sorted([trial.key, sorted(f.id for f in trial.finetunings)] for trial in self.trials))

    @property
    def group(self) -> str:
        """Its name in tables: that of its first trial's group."""
        return self.trials[0].group


def make_plan(
    spec: Spec,
    sources: Mapping[str, PoolFacts],
    tasks: Mapping[str, PoolFacts],
    limit: int | None = None,
    weights: Mapping[str, WeightsFacts] | None = None,
    details: Callable[[Pretrain], MixtureDetails] | None = None,
) -> Plan:
    """Return every trial of `spec`; two combinations that mean the same are one trial.

    sources, tasks  facts of the pools, by `pool_key`
    limit           keep the first so many trials
    weights         facts of published weights, by their tag or path; weights that name their model decide the model
    details         called with a mixture of which only the data tells what it means, or how many images it has
    """
    by_key: dict[str, Trial] = {}
    scratch = tuple(Level(level.section.in_full(), level.axes) for level in spec.baseline_finetunes)
    baseline, after = (_finetunings(spec, levels, tasks) for levels in (scratch, spec.finetunes))
    for model in spec.models:
        if baseline:
            seeds = _first(spec.seeds, spec.baseline.seeds)
            for trial in _trials(spec, model, None, seeds, baseline, sources, {}):
                by_key.setdefault(trial.key, trial)
        for pretrain in spec.pretrains:
            for trial in _trials(spec, model, pretrain, spec.seeds, after, sources, weights or {}, details):
                by_key.setdefault(trial.key, trial)
    trials = list(by_key.values())[:limit]
    return Plan(tuple(sorted(trials, key=lambda trial: -trial.cost)))


def pool_key(name: str, section: PoolSection) -> str:
    """Return a text that is equal for two sections exactly when they mean the same source or task."""
    return f"{name}|{section.kind}|{section.options.model_dump_json()}"


def task_label(level: Level[TaskSection]) -> str:
    """Return a task's name in results: `camera-traps`, then what varies: `camera-traps[shift=0]`."""
    axes = ", ".join(f"{key}={value}" for key, value in level.axes if key not in ("name", "kind"))
    return f"{level.section.name}[{axes}]" if axes else level.section.name


def model_label(level: Level[ModelSection], levels: Sequence[Level[ModelSection]]) -> str:
    """Return a model's name in results: `resnet18`, and where a sweep has it in several forms what varies:
    `resnet18[image_size=64]`."""
    name = level.section.name
    several = sum(one.section.name == name for one in levels) > 1
    axes = ", ".join(f"{key}={value}" for key, value in level.axes if key not in ("name", "compile"))
    return f"{name}[{axes}]" if several and axes else name


def hash_of(meaning: Any, length: int = 10) -> str:
    """Return a hash of plain values, in `length` hex digits; the order of keys does not matter."""
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:length]


def _trials(
    spec: Spec,
    model: Level[ModelSection],
    pretrain: Level[Pretrain] | None,
    seeds: tuple[int, ...],
    finetunings: tuple[Finetuning, ...],
    sources: Mapping[str, PoolFacts],
    published: Mapping[str, WeightsFacts],
    details: Callable[[Pretrain], MixtureDetails] | None = None,
) -> Iterator[Trial]:
    """Yield the trials of one mixture (None: from scratch) on one model, one per seed."""
    several_models = len(spec.models) > 1
    mixture = pretrain.section if pretrain else None
    weights = published.get(mixture.weights or "") if mixture else None
    if weights and weights.model:
        model = Level(model.section.model_copy(update={"name": weights.model}), model.axes)
    meaning: dict[str, Any] = {"recipe": RECIPE, "model": _model_meaning(model.section)}
    if mixture:
        meaning["pretrain"] = _meaning(mixture, {"sources", "subset_seed", "match"})
        meaning["sources"] = {
            name: [section.weight, sources[pool_key(name, section)].meaning]
            for name, section in mixture.sources.items()
        }
        if weights:
            meaning["pretrain"]["weights"] = weights.meaning
    more = MixtureDetails({}, lambda _: None)
    if details and mixture:
        more = details(mixture)
    if mixture:
        meaning["pretrain"] |= more.tables
    group = _group(pretrain, model, several_models)
    seeds = _first(seeds, spec.seeds_of.get(group, len(seeds)))
    names = [_safe(part) for part in (spec.name, model.short if several_models else "", _short(pretrain)) if part]
    for seed in seeds:
        subset_seed = seed if mixture is None or mixture.subset_seed is None else mixture.subset_seed
        key = hash_of({**meaning, "seed": seed, **({"subset_seed": subset_seed} if mixture else {})})
        yield Trial(
            id="-".join((*names, f"s{seed}", key)),
            key=key,
            group=group,
            model=model.section,
            pretrain=mixture,
            seed=seed,
            subset_seed=subset_seed,
            pretrain_images=_pretrain_images(mixture, sources, partial(more.images, subset_seed)) if mixture else 0,
            finetunings=finetunings,
            model_label=model_label(model, spec.models),
            weights=weights.meaning if weights else "",
        )


def _finetunings(
    spec: Spec, levels: tuple[Level[Finetune], ...], tasks: Mapping[str, PoolFacts]
) -> tuple[Finetuning, ...]:
    finetunings = [
        _finetuning(level, task, tasks[pool_key(task.section.name, task.section)])
        for task in spec.tasks
        for level in levels
    ]
    return tuple({finetuning.id: finetuning for finetuning in finetunings}.values())  # equal meanings are one


def _finetuning(level: Level[Finetune], task: Level[TaskSection], facts: PoolFacts) -> Finetuning:
    label, settings = task_label(task), level.section
    evaluations = -(-settings.epochs // settings.evaluate_every) + len(settings.wise_ft)

    def named(task_meaning: str) -> str:
        meaning = {"recipe": RECIPE, "finetune": _meaning(settings, set()), "task": [task.section.name, task_meaning]}
        return f"lr{settings.lr:g}-e{settings.epochs}-{hash_of(meaning, 8)}"

    return Finetuning(
        id=named(facts.meaning),
        training=named(facts.without_shifts or facts.meaning),
        task=task.section,
        task_label=label,
        settings=settings,
        images=settings.passes * settings.training_images(facts.train or (facts.splits.get("train", 0),)),
        evaluated=evaluations * sum(images for split, images in facts.splits.items() if split != "train"),
    )


def _meaning(section: Section, without: set[str]) -> dict[str, Any]:
    """Return what of a section decides a result, without defaults: a key added later changes no old identity."""
    return section.model_dump(mode="json", exclude=without, exclude_defaults=True)


def _model_meaning(model: ModelSection) -> dict[str, Any]:
    """Return what of a model decides a result: of how images are stored what is not decoded squares of its size, as
    they always were before there was a choice; of activations the one that a tag of open_clip asks for, since such
    models ran with their own before."""
    meaning = _meaning(model, {"compile", "store"})
    if model.stored_side is not None and model.store is not None:
        meaning["store"] = {"size": model.stored_side, "quality": model.store.quality}
    if has_quick_gelu(model.name):
        meaning["activation"] = "quick_gelu"
    return meaning


def _pretrain_images(mixture: Pretrain, sources: Mapping[str, PoolFacts], drawn: Callable[[], int | None]) -> int:
    """Return how many images a pre-training processes; `drawn` tells how many different ones it has."""
    if mixture.method == "weights":
        return 0
    if mixture.images_seen is not None:
        return mixture.images_seen
    total = mixture.num_images
    if total == "all" and mixture.images_per_class is not None and isinstance(mixture.num_classes, int):
        total = mixture.images_per_class * mixture.num_classes
    if total == "all":
        whole = sum(sources[pool_key(name, section)].images for name, section in mixture.sources.items())
        total = whole if (images := drawn()) is None else images
    return max(int(total) * (mixture.epochs or 1), mixture.min_images_seen or 0)


def _group(pretrain: Level[Pretrain] | None, model: Level[ModelSection], several_models: bool) -> str:
    if pretrain is None:
        return SCRATCH
    return pretrain.label or (f"model={model.section.name}" if several_models else UNLABELLED)


def _short(pretrain: Level[Pretrain] | None) -> str:
    return SCRATCH if pretrain is None else pretrain.short


def _safe(text: str, length: int = 40) -> str:
    """Return the text as a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9._+]+", "_", text)[:length]


def _number(value: int | str) -> int | None:
    return value if isinstance(value, int) else None


def _first(seeds: tuple[int, ...], count: int | None) -> tuple[int, ...]:
    """Return `count` seeds: the sweep's own, then the numbers after them."""
    if count is None:
        return seeds
    more = tuple(range(max(seeds) + 1, max(seeds) + 1 + max(0, count - len(seeds))))
    return (seeds + more)[:count]
