"""A sweep's YAML, read and checked: what varies, what is held fixed, and every mistake in it at once.

Owns the axes, in which every `{grid: [...]}` becomes levels, and how a mistake is told; hands on `Spec`. What each key
means is in `sections`, reading the file with its lines in `yaml_lines`; no torch, no ray, milliseconds.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ray_robust import registry
from ray_robust.errors import Problem, UserError, did_you_mean
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
POINTS = ("pretrain", "points")  # the axis of combinations that are no product
VARYING = ("task", "model", "pretrain", "finetune")  # the sections in which a value may be {grid: [...]}
OTHER_KEYS = ("seeds", "question", "provenance")  # provenance: written into a run's spec.yaml, ignored when read


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
        baseline = fixed["baseline"]
        baseline_finetunes: tuple = ()
        if baseline is not None:
            merged = {**_mapping(raw.get("finetune")), **baseline.finetune}
            own = {name: ("baseline", "finetune", name) for name in baseline.finetune}
            baseline_finetunes = self.levels("finetune", merged, own)
            groups = [level.label for level in levels.get("pretrain", ()) if level.label]
            if baseline.name not in ("scratch", "none", *groups) and levels.get("pretrain"):
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
            resolved=_resolved(raw, levels, fixed, seeds, question),
            document=self.document,
        )

    def say(self, path: tuple, what: str) -> None:
        problem = Problem(self.document.place(path), what)
        if str(problem) not in self.seen:  # the same mistake shows in every level of a grid
            self.seen.add(str(problem))
            self.problems.append(problem)

    def fixed(self, key: str, raw: Any) -> Any:
        """A section in which nothing varies."""
        axes = list(_axes(raw, (key,)))
        if axes and key != "baseline":
            path = ".".join(map(str, axes[0][0]))
            self.say(axes[0][0], f"{path}: cannot vary; {{grid: ...}} belongs to {', '.join(VARYING)}")
            return None
        return self.section(key, raw, (key,))

    def levels(self, key: str, raw: Any, own: Mapping[str, tuple] | None = None) -> tuple[Level, ...]:
        """Every combination of a section's axes, in the file's order, the last axis fastest.

        `own` says where those keys stand that are not below `key` itself: a baseline's fine-tuning is `finetune` with
        some keys replaced.
        """
        found_axes = [*_axes(raw, (key,))]
        places = dict(own or {})
        axes: list[tuple[tuple, list]] = []
        for where, values in found_axes:
            place = (*places[where[1]], *where[2:]) if where[1:] and where[1] in places else where
            if problem := _bad_grid(values):
                self.say(place, f"{'.'.join(map(str, place))}.grid: {problem}")
                return ()
            axes.append((where, [((*place, "grid", i), value) for i, value in enumerate(values)]))
        raw = copy.deepcopy(raw)
        if isinstance(raw, dict) and "points" in raw and key == "pretrain":
            points = raw.pop("points")
            if not isinstance(points, list) or not points or not all(isinstance(p, dict) and p for p in points):
                self.say((key, "points"), "pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}")
                return ()
            for i, point in enumerate(points):
                if point in points[:i]:
                    self.say((key, "points", i), "pretrain.points: the same point stands there twice")
                for name in point:
                    if (key, name) in [where[:2] for where, _ in axes]:
                        self.say(
                            (key, "points", i, name), f"pretrain.points: {name} is also a grid; vary it in one place"
                        )
            axes.append((POINTS, [((key, "points", i), point) for i, point in enumerate(points)]))
        if (count := math.prod(len(values) for _, values in axes)) > MOST_TRIALS:
            self.say((key,), f"{key}: its grids make {count:,} combinations; at most {MOST_TRIALS:,} are possible")
            return ()
        found = []
        for combination in itertools.product(*(values for _, values in axes)):
            tree, names, here = {key: copy.deepcopy(raw)}, [], dict(places)
            for (where, _), (place, value) in zip(axes, combination, strict=True):
                if where is POINTS:
                    tree[key].update(value)
                    names += [(str(k), _text(v)) for k, v in value.items()]
                    here |= {"": place, **{name: (*place, name) for name in value}}
                else:
                    _put(tree, where, value)
                    whole = len(where) == 1 and isinstance(value, dict)  # the section itself varies: named by its keys
                    names += [(str(k), _text(v)) for k, v in (value.items() if whole else [(where[-1], value)])]
                    here["" if len(where) == 1 else where[1]] = place if len(where) < 3 else where[:2]
            found.append(Level(self.section(key, tree[key], (key,), here), tuple(names)))
        return tuple(found)

    def section(self, key: str, raw: Any, path: tuple, places: Mapping[str, tuple] | None = None) -> Any:
        """A validated section, or None with its problems said. `places`: where single keys stand, if not in `path`;
        under "" the place of what is wrong with the section as a whole."""
        places = places or {}
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            self.say(places.get("", path), f"{'.'.join(path)}: must be a mapping (key: value), not {_shown(raw)}")
            return None
        raw = dict(raw)
        if key == "pretrain":
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
            for detail in _one_per_key(error):
                self.explain(SECTIONS[key], detail, path, places)
            return None

    def sources(self, raw: Any, path: tuple) -> Any:
        if not isinstance(raw, dict) or not raw:
            self.say(path, "pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}")
            return {"": SourceSection(kind="", options=None)}  # keeps one mistake from showing as two
        found = {}
        for name, value in raw.items():
            options = dict(value) if isinstance(value, dict) else {"weight": value}
            weight = options.pop("weight", 1.0)
            pool = self.pool("source", name, options, (*path, name))
            if pool is not None:
                number = parse_number(weight) if isinstance(weight, str) else weight
                if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
                    place = (*path, name, "weight") if isinstance(value, dict) else (*path, name)
                    self.say(
                        place, f"pretrain.sources.{name}: the weight must be a number above 0, not {_shown(weight)}"
                    )
                    continue
                found[name] = SourceSection(kind=pool["kind"], options=pool["options"], weight=number)
        return found or {"": SourceSection(kind="", options=None)}

    def pool(
        self, kind: str, name: Any, options: dict, path: tuple, places: Mapping[str, tuple] | None = None
    ) -> dict | None:
        """The parts of a PoolSection; the options are checked by the registered class."""
        if not isinstance(name, str) or not name:
            missing = f"{_dotted(path)}.name: {'missing; ' if name is None else ''}must name a {kind}"
            self.say((places or {}).get("name", (*path, "name")), missing + did_you_mean("", registry.KINDS[kind]))
            return None
        given = "kind" if "kind" in options else "name"
        registered = options.pop("kind", name)
        if not isinstance(registered, str):
            self.say((*path, "kind"), f"{_dotted(path)}.kind: must be text, not {_shown(registered)}")
            return None
        try:
            cls = registry.find(kind, registered)
        except UserError as error:
            here = path if kind == "source" and given == "name" else (*path, given)
            self.say((places or {}).get(given, here), f"{_dotted(here)}: {error.problems[0].what}")
            return None
        try:
            return {
                "name": name,
                "kind": registered,
                "options": cls.Options.model_validate(_numbers(cls, options)),
            }
        except ValidationError as error:
            for detail in _one_per_key(error):
                self.explain(cls.Options, detail, path, places)
            return None

    def model_name(self, name: Any, path: tuple) -> None:
        known = registry.timm_models()
        base = str(name).partition(".")[0]
        if isinstance(name, str) and known and base not in known and not name.startswith(("hf_hub:", "hf-hub:")):
            self.say(path, f"model.name: timm has no model {name!r}{did_you_mean(base, known)}")

    def seeds(self, raw: Any) -> tuple[int, ...]:
        value = parse_number(raw) if isinstance(raw, str) else raw
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TRIALS:
            return tuple(range(1, value + 1))
        good = isinstance(value, list) and all(type(v) is int and 0 <= v < LARGEST_SEED for v in value)
        if isinstance(value, list) and value and good and len(set(value)) == len(value):
            return tuple(value)
        shown = repr(raw)[:60] if isinstance(raw, list) else _shown(raw)
        self.say(("seeds",), f"seeds: must be how many, at least 1, or a list of different whole numbers, not {shown}")
        return ()

    def explain(
        self, model: type[BaseModel], detail: Any, path: tuple, places: Mapping[str, tuple] | None = None
    ) -> None:
        """One pydantic error as one line."""
        loc = tuple(part for i, part in enumerate(detail["loc"]) if i == 0 or isinstance(part, int))
        place = (places or {}).get(str(loc[0]) if loc else "", (*path, *loc))
        key = _dotted((*path, *loc) if place[:1] == path[:1] else place)
        value, context = detail.get("input"), detail.get("ctx", {})
        kind = detail["type"]
        if kind == "extra_forbidden":
            what = f"unknown key{did_you_mean(str(loc[-1]), model.model_fields)}"
        elif kind == "missing":
            what = "missing"
        elif kind.startswith("int_") or (kind.startswith("float_") and "inf" not in kind):
            what = f"must be a {'whole ' if kind.startswith('int_') else ''}number, not {_shown(value)}"
        elif kind == "literal_error":
            names = [name.strip().strip("'") for name in context["expected"].replace(" or ", ",").split(",")]
            if len(detail["loc"]) > 1:  # one arm of "a number or a word": the arm for words says both
                what = f"must be a whole number above 0 or {' or '.join(names)}, not {_shown(value)}"
            else:
                what = f"must be one of {', '.join(names)}, not {_shown(value)}"
        elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
            sign = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
            which = next(k for k in sign if k in context)
            what = f"must be {sign[which]} {_text(context[which])}, not {_shown(value)}"
        elif kind == "finite_number":
            what = f"must be a finite number, not {_shown(value)}"
        elif kind == "string_type":
            what = f"must be text, not {_shown(value)}" + ("" if isinstance(value, dict | list) else "; quote it")
        elif kind.startswith("bool_"):
            what = f"must be true or false, not {_shown(value)}"
        elif kind == "dict_type":
            what = f"must be a mapping (key: value), not {_shown(value)}"
        elif kind == "value_error":
            what = str(context["error"])
        else:
            what = detail["msg"]
        if isinstance(value, dict) and kind not in ("value_error", "missing", "extra_forbidden") and path[0] in VARYING:
            what += "; a value that varies is written {grid: [...]}"
        self.say(place, f"{key}: {what}")


def _one_per_key(error: ValidationError) -> list[Any]:
    """pydantic's errors, one per key: of "a number or a word" each arm has its own, and that for words says both."""
    found: dict[tuple, Any] = {}
    for detail in error.errors():
        key = tuple(part for i, part in enumerate(detail["loc"]) if i == 0 or isinstance(part, int))
        if key not in found or detail["type"] == "literal_error":
            found[key] = detail
    return list(found.values())


def _baseline(raw: Any) -> Any:
    """`baseline: scratch` is short for `baseline: {name: scratch}`; `none` and an empty value are alike."""
    if raw is None:
        return {"name": "none"}
    return {"name": raw} if isinstance(raw, str) else raw


def _mapping(raw: Any) -> dict:
    return raw if isinstance(raw, dict) else {}


def _numbers(cls: Any, options: dict) -> dict:
    """Options with their numbers read as in every section."""
    return {key: number_for(cls.Options.model_fields.get(key), value) for key, value in options.items()}


def _axes(raw: Any, path: tuple) -> Iterator[tuple[tuple, Any]]:
    """(path, levels) of every `{grid: [...]}` below `raw`, in the file's order."""
    if isinstance(raw, dict):
        if set(raw) == {"grid"}:
            yield path, raw["grid"]
            return
        for key, value in raw.items():
            if key != "points":
                yield from _axes(value, (*path, key))


def _bad_grid(values: Any) -> str:
    """What is wrong with the values of an axis, or ""."""
    if not isinstance(values, list) or not values:
        return "must be a list with at least one value"
    seen = [repr(parse_number(value) if isinstance(value, str) else value) for value in values]
    seen = [repr(values[i]) if text == "None" else text for i, text in enumerate(seen)]
    twice = [values[i] for i, text in enumerate(seen) if text in seen[:i]]
    return f"{_shown(twice[0])} stands there twice" if twice else ""


def _dotted(path: tuple) -> str:
    """A path as people write it, without its places in lists of levels."""
    following = (*path[1:], None)
    kept = [part for part, after in zip(path, following, strict=True) if not isinstance(after, int)]
    return ".".join(str(part) for part in kept if not isinstance(part, int))


def _put(tree: dict, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _text(value: Any) -> str:
    """An axis value for names and tables: `16000`, `0.001`, `species:0.5+fractals:0.5`."""
    if isinstance(value, str):
        number = parse_number(value)
        return f"{number:.12g}" if isinstance(number, float) else str(number if number is not None else value)
    if isinstance(value, dict):
        return "+".join(f"{k}:{_text(v.get('weight', 1) if isinstance(v, dict) else v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _resolved(raw: dict, levels: dict, fixed: dict, seeds: tuple[int, ...], question: str) -> str:
    """The spec with defaults filled in and its axes as they were written."""
    tree: dict[str, Any] = {"question": question} if question else {}
    for key in SECTIONS:
        section = levels[key][0].section if key in levels else fixed[key]
        tree[key] = _plain(key, section)
        written = _mapping(raw.get(key))
        for path, values in _axes(written, (key,)):
            if path == (key,):
                tree[key] = {"grid": values}
            else:
                _put(tree, path, {"grid": values})
        if key == "pretrain" and "points" in written:
            for name in {name: None for point in written["points"] for name in point}:
                tree[key].pop(name, None)
                if name in written:  # what holds where a point does not say otherwise
                    tree[key][name] = written[name]
            tree[key]["points"] = written["points"]
    tree["seeds"] = list(seeds)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


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
