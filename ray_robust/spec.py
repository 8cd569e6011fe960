"""A sweep's YAML, read and checked: what varies, what is held fixed, and every mistake in it at once.

Hands on `Spec`. What each key means is in `sections`, how axes become combinations in `axes`, how a mistake is told in
`explain`, reading the file with its lines in `yaml_lines`; no torch, no ray, milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ray_robust import registry
from ray_robust.axes import axes_in, combinations, put
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.explain import dotted, explain, one_per_key, shown
from ray_robust.sections import (
    LARGEST_SEED,
    MOST_TRIALS,
    Analysis,
    Baseline,
    Finetune,
    ModelSection,
    PoolSection,
    Pretrain,
    Resources,
    Search,
    Section,
    SourceSection,
    TaskSection,
    Training,
    number_for,
    parse_number,
)
from ray_robust.yaml_lines import Document, parse

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Level(Generic[S]):
    """One combination of a section's axes. `axes` maps a key to its value there, both as text, in the file's order."""

    section: S
    axes: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """`num_images=16000`, joined by commas; "" when the section has no axis."""
        return ", ".join(f"{key}={value}" for key, value in self.axes)

    @property
    def short(self) -> str:
        """The values alone: `16000`."""
        return "-".join(value for _, value in self.axes)


@dataclass(frozen=True)
class Spec:
    """A whole sweep, checked. `resolved` is its YAML with every default filled in; `place` says where a key stands."""

    name: str
    question: str
    tasks: tuple[Level[TaskSection], ...]
    models: tuple[Level[ModelSection], ...]
    pretrains: tuple[Level[Pretrain], ...]
    finetunes: tuple[Level[Finetune], ...]
    baseline_finetunes: tuple[Level[Finetune], ...]
    seeds: tuple[int, ...]
    baseline: Baseline
    search: Search
    resources: Resources
    analysis: Analysis
    track: tuple[str, ...]
    resolved: str
    document: Document

    def place(self, *path: str) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        return self.document.place(path)


SECTIONS: dict[str, type[Section]] = {
    "task": TaskSection,
    "model": ModelSection,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "baseline": Baseline,
    "search": Search,
    "resources": Resources,
    "analysis": Analysis,
}
VARYING = ("task", "model", "pretrain", "finetune")  # the sections in which a value may be {grid: [...]}
TRACK = ["csv"]  # the logs that are kept where the spec names none
NOTHING = "none"  # `pretrain: none`: the baseline alone
OTHER_KEYS = ("seeds", "track", "question", "provenance")  # provenance: in a run's spec.yaml, ignored when read


def load_spec(file: str | Path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read and check a sweep's YAML; `overrides` are `dotted.key=value` texts that replace single values.

    Raises UserError with every problem found, each with file and line.
    """
    document = parse(Path(file))
    problems: list[Problem] = []
    for override in overrides:
        try:
            document.override(override)
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    return _Reader(document).read()


class _Reader:
    """Collects problems while it turns a document into a Spec."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.seen: set[str] = set()

    def read(self) -> Spec:
        raw = self.document.tree
        for key in raw:
            if key not in SECTIONS and key not in OTHER_KEYS:
                known = [*SECTIONS, *OTHER_KEYS]
                self.say((key,), f"{key}: unknown key{did_you_mean(key, known)}")
        raw = {key: value for key, value in raw.items() if key in SECTIONS or key in OTHER_KEYS}
        raw["baseline"] = _baseline(raw.get("baseline", "scratch"))
        for key in ("task", "pretrain"):
            if key not in raw:
                self.say((), f"{key}: missing; a sweep needs it")
        levels = {
            key: self.levels(key, raw.get(key, {})) for key in VARYING if key in raw or key in ("model", "finetune")
        }
        fixed = {key: self.fixed(key, raw.get(key, {})) for key in SECTIONS if key not in VARYING}
        seeds = self.seeds(raw.get("seeds", 1))
        track = self.track(raw.get("track", TRACK))
        baseline = fixed["baseline"]
        baseline_finetunes: tuple = ()
        if baseline is not None:
            merged = {**_mapping(raw.get("finetune")), **baseline.finetune}
            own = {name: ("baseline", "finetune", name) for name in baseline.finetune}
            baseline_finetunes = self.levels("finetune", merged, own)
            groups = [level.label for level in levels.get("pretrain", ()) if level.label]
            if raw.get("pretrain") == NOTHING and baseline.name != "scratch":
                self.say(("pretrain",), f"pretrain: none leaves nothing to run with baseline: {baseline.name}")
            elif baseline.name not in ("scratch", "none", *groups) and levels.get("pretrain"):
                known = ["scratch", "none", *groups]
                self.say(("baseline",), f"baseline: {baseline.name!r} is no group{did_you_mean(baseline.name, known)}")
            if baseline.name != "scratch" and (baseline.finetune or baseline.seeds):
                self.say(("baseline",), "baseline: seeds and finetune belong to the scratch baseline only")
        question = raw.get("question") or self.document.question
        if not isinstance(question, str):
            self.say(("question",), f"question: must be text, not {question!r}")
        counts = [len(levels[key]) for key in ("model", "pretrain") if key in levels]
        if (count := math.prod((*counts, len(seeds)))) > MOST_TRIALS:
            self.say((), f"models x mixtures x seeds make {count:,} trials; at most {MOST_TRIALS:,} are possible")
        for key in ("pretrain", "finetune"):
            self.unused(key, raw.get(key), [level.section for level in levels.get(key, ())])
        if self.problems:
            raise UserError(*self.problems)
        return Spec(
            name=self.document.name,
            question=question,
            tasks=levels["task"],
            models=levels["model"],
            pretrains=levels["pretrain"],
            finetunes=levels["finetune"],
            baseline_finetunes=baseline_finetunes if baseline.name == "scratch" else (),
            seeds=seeds,
            baseline=baseline,
            search=fixed["search"],
            resources=fixed["resources"],
            analysis=fixed["analysis"],
            track=track,
            resolved=_resolved(raw, levels, fixed, seeds, track, question),
            document=self.document,
        )

    def unused(self, key: str, raw: Any, sections: list[Any]) -> None:
        """Say which written keys belong to methods that no level of the section has."""
        if None in sections or not sections:
            return
        points = [name for point in _mapping(raw).get("points") or () for name in point]
        for name in dict.fromkeys([*_mapping(raw), *points]):
            methods = SECTIONS[key].only_for.get(name, ())
            if methods and not any(section.method in methods for section in sections):
                self.say((key, name), f"{key}.{name}: belongs to method {' or '.join(methods)}, which is not used here")

    def say(self, path: tuple, what: str) -> None:
        problem = Problem(self.document.place(path), what)
        if str(problem) not in self.seen:  # the same mistake shows in every level of a grid
            self.seen.add(str(problem))
            self.problems.append(problem)

    def fixed(self, key: str, raw: Any) -> Any:
        """A section in which nothing varies."""
        axes = list(axes_in(raw, (key,)))
        if axes and key != "baseline":
            path = ".".join(map(str, axes[0][0]))
            self.say(axes[0][0], f"{path}: cannot vary; {{grid: ...}} belongs to {', '.join(VARYING)}")
            return None
        return self.section(key, raw, (key,))

    def levels(self, key: str, raw: Any, own: Mapping[str, tuple] | None = None) -> tuple[Level, ...]:
        """Every combination of a section's axes, checked; see `axes.combinations`."""
        if key == "pretrain" and raw == NOTHING:
            return ()
        return tuple(
            Level(self.section(key, found.raw, (key,), found.places), found.names)
            for found in combinations(key, raw, own or {}, self.say)
        )

    def section(self, key: str, raw: Any, path: tuple, places: Mapping[str, tuple] | None = None) -> Any:
        """A validated section, or None with its problems said. `places`: where single keys stand, if not in `path`;
        under "" the place of what is wrong with the section as a whole."""
        places = places or {}
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            self.say(places.get("", path), f"{'.'.join(path)}: must be a mapping (key: value), not {shown(raw)}")
            return None
        raw = dict(raw)
        if key == "pretrain":
            if "sources" in raw or raw.get("method") != "weights":  # ready-made weights need no images
                raw["sources"] = self.sources(raw.get("sources"), places.get("sources", (*path, "sources")))
        elif key == "task":
            options = {name: value for name, value in raw.items() if name != "name"}
            raw = self.pool("task", raw.get("name"), options, places.get("", path), places)
            if raw is None:
                return None
        elif key == "model":
            self.model_name(raw.get("name"), places.get("name", (*path, "name")))
        try:
            return SECTIONS[key].model_validate(raw)
        except ValidationError as error:
            self.explain(SECTIONS[key], error, path, places)
            return None

    def sources(self, raw: Any, path: tuple) -> Any:
        if not isinstance(raw, dict) or not raw:
            self.say(path, "pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}")
            return {"": SourceSection(kind="", options=None)}  # keeps one mistake from showing as two
        found = {}
        parts = {name: dict(part) if isinstance(part, dict) else {"weight": part} for name, part in raw.items()}
        weights = {name: _number(part.pop("weight", 1.0)) for name, part in parts.items()}
        some = any(_positive(weight) for weight in weights.values())
        for name, options in parts.items():
            pool = self.pool("source", name, options, (*path, name))
            if pool is None or (some and weights[name] == 0):  # a source of weight 0 is absent from a mixture
                continue
            if not _positive(weights[name]):
                what = f"the weight must be a number above 0, not {shown(weights[name])}"
                self.say((*path, name, "weight"), f"pretrain.sources.{name}: {what}")
                continue
            found[name] = SourceSection(kind=pool["kind"], options=pool["options"], weight=weights[name])
        return found or {"": SourceSection(kind="", options=None)}

    def pool(
        self, kind: str, name: Any, options: dict, path: tuple, places: Mapping[str, tuple] | None = None
    ) -> dict | None:
        """The parts of a PoolSection; the options are checked by the registered class."""
        if not isinstance(name, str) or not name:
            missing = f"{dotted(path)}.name: {'missing; ' if name is None else ''}must name a {kind}"
            self.say((places or {}).get("name", (*path, "name")), missing + did_you_mean("", registry.KINDS[kind]))
            return None
        given = "kind" if "kind" in options else "name"
        registered = options.pop("kind", name)
        if not isinstance(registered, str):
            self.say((*path, "kind"), f"{dotted(path)}.kind: must be text, not {shown(registered)}")
            return None
        try:
            cls = registry.find(kind, registered)
        except UserError as error:
            here = path if kind == "source" and given == "name" else (*path, given)
            self.say((places or {}).get(given, here), f"{dotted(here)}: {error.problems[0].what}")
            return None
        try:
            return {
                "name": name,
                "kind": registered,
                "options": cls.Options.model_validate(_numbers(cls, options)),
            }
        except ValidationError as error:
            self.explain(cls.Options, error, path, places or {})
            return None

    def model_name(self, name: Any, path: tuple) -> None:
        known = registry.timm_models()
        base = str(name).partition(".")[0]
        if isinstance(name, str) and name.startswith(registry.OPEN_CLIP):
            base, known = name.removeprefix(registry.OPEN_CLIP).partition("/")[0], registry.open_clip_models()
            if base not in known:
                self.say(path, f"model.name: open_clip has no model {base!r}{did_you_mean(base, known)}")
        elif isinstance(name, str) and known and base not in known and not name.startswith(("hf_hub:", "hf-hub:")):
            self.say(path, f"model.name: timm has no model {name!r}{did_you_mean(base, known)}")

    def seeds(self, raw: Any) -> tuple[int, ...]:
        value = parse_number(raw) if isinstance(raw, str) else raw
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TRIALS:
            return tuple(range(1, value + 1))
        good = isinstance(value, list) and all(type(v) is int and 0 <= v < LARGEST_SEED for v in value)
        if isinstance(value, list) and value and good and len(set(value)) == len(value):
            return tuple(value)
        told = repr(raw)[:60] if isinstance(raw, list) else shown(raw)
        self.say(("seeds",), f"seeds: must be how many, at least 1, or a list of different whole numbers, not {told}")
        return ()

    def track(self, raw: Any) -> tuple[str, ...]:
        """The logs that a sweep keeps for other tools."""
        names = [raw] if isinstance(raw, str) else raw
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.say(("track",), f"track: must be a list of logs, e.g. [csv, tensorboard], not {shown(raw)}")
            return ()
        for name in names:
            if name not in registry.LOGS:
                self.say(("track",), f"track: {name!r} is no known log{did_you_mean(name, registry.LOGS)}")
        return tuple(dict.fromkeys(names))

    def explain(self, model: type[BaseModel], error: ValidationError, path: tuple, places: Mapping[str, tuple]) -> None:
        """pydantic's errors, a line each."""
        for detail in one_per_key(error):
            self.say(*explain(model, detail, path, places, path[0] in VARYING))


def _baseline(raw: Any) -> Any:
    """`baseline: scratch` is short for `baseline: {name: scratch}`; `none` and an empty value are alike."""
    if raw is None:
        return {"name": "none"}
    return {"name": raw} if isinstance(raw, str) else raw


def _number(value: Any) -> Any:
    """The number that a text stands for, else the value as it is."""
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else number


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _mapping(raw: Any) -> dict:
    return raw if isinstance(raw, dict) else {}


def _numbers(cls: Any, options: dict) -> dict:
    """Options with their numbers read as in every section."""
    return {key: number_for(cls.Options.model_fields.get(key), value) for key, value in options.items()}


def _resolved(
    raw: dict, levels: dict, fixed: dict, seeds: tuple[int, ...], track: tuple[str, ...], question: str
) -> str:
    """The spec with defaults filled in and its axes as they were written."""
    tree: dict[str, Any] = {"question": question} if question else {}
    for key in SECTIONS:
        if raw.get(key) == NOTHING:
            tree[key] = NOTHING
            continue
        section = levels[key][0].section if key in levels else fixed[key]
        tree[key] = _plain(key, section)
        written = _mapping(raw.get(key))
        if key == "pretrain":  # in their order, with those that the first mixture lacks
            known, sources = tree[key]["sources"], _mapping(written.get("sources"))
            tree[key]["sources"] = {name: known.get(name, part) for name, part in sources.items()} or known
        if key in ("pretrain", "finetune"):  # what only another level's method uses
            tree[key] |= {name: written[name] for name in section.idle(section.method) & set(written)}
        for path, axis in axes_in(written, (key,)):
            put(tree, path, axis)
        if key == "pretrain" and "points" in written:
            for name in {name: None for point in written["points"] for name in point}:
                tree[key].pop(name, None)
                if name in written:  # what holds where a point does not say otherwise
                    tree[key][name] = written[name]
            tree[key]["points"] = written["points"]
        if key in ("pretrain", "finetune"):
            for name in _of_methods([level.section for level in levels[key]], written):
                tree[key].pop(name, None)
    tree["seeds"] = list(seeds)
    tree["track"] = list(track)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _of_methods(sections: list[Any], written: dict) -> set[str]:
    """Keys that `resolved` leaves out: what no method there uses, and defaults that differ between methods."""
    each = list({section.method: section for section in sections}.values())
    unused = set.intersection(*(section.idle(section.method) for section in each))
    differing = {name for name in type(each[0]).model_fields if len({repr(getattr(s, name)) for s in each}) > 1}
    return unused | (differing - set(written))


def _plain(key: str, section: Section) -> dict:
    """A section as the user could have written it."""
    plain = section.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    if key == "task":
        return {"name": plain["name"], "kind": plain["kind"], **plain["options"]}
    if key == "pretrain":
        plain["sources"] = {
            name: {"kind": source["kind"], "weight": source["weight"], **source["options"]}
            for name, source in plain["sources"].items()
        }
    return plain


__all__ = ["Analysis", "Baseline", "Finetune", "Level", "ModelSection", "PoolSection", "Pretrain", "Resources",
           "Search", "Section", "SourceSection", "Spec", "TaskSection", "Training", "load_spec",
           "parse_number"]  # fmt: skip
