"""The sections of a sweep's file, read level by level: what varies put in, conditions asked, every mistake collected.

Owns `Reader` and `Level`. What each key means is in `sections`, how axes become combinations in `axes`, how a mistake
is told in `explain`. Hands on to `drawing`, which reads what a search draws, and to `spec`, which makes a whole of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ray_robust import registry
from ray_robust.axes import axes_in, combinations
from ray_robust.conditions import Condition, Unknown, namespace, read_condition
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.explain import dotted, explain, one_per_key, shown
from ray_robust.searching import Search
from ray_robust.sections import (
    Analysis,
    Baseline,
    Finetune,
    ModelSection,
    Pretrain,
    Resources,
    Section,
    SourceSection,
    TaskSection,
    number_for,
    parse_number,
)
from ray_robust.yaml_lines import Document

S = TypeVar("S", bound=Section)

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
DRAWN = ("pretrain", "finetune")  # those of them in which a search may draw a value
NOTHING = "none"  # `pretrain: none`: the baseline alone


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


class Reader:
    """Collects problems while it reads a document's sections. `drawn` has the values that a search has drawn."""

    def __init__(self, document: Document, drawn: Mapping[str, Any] | None = None) -> None:
        self.document, self.drawn = document, drawn
        self.problems: list[Problem] = []
        self.paths: list[tuple] = []  # of the problems
        self.seen: set[str] = set()
        self.fallen = 0
        self.conditions: tuple[Condition, ...] = ()
        if drawn is not None:  # the document has been read before: its conditions are known to be sound
            self.conditions = self.where(mapping(document.tree.get("search")).get("where"))

    def where(self, raw: Any) -> tuple[Condition, ...]:
        """The conditions of `search.where`."""
        found = []
        sources = _source_names(mapping(self.document.tree.get("pretrain")).get("sources"))
        known = [key for key in Pretrain.model_fields if key != "sources"]
        for text in raw if isinstance(raw, list) else [] if raw is None else [raw]:
            try:
                found.append(read_condition(text, known, sources))
            except ValueError as error:
                self.say(("search", "where"), f"search.where: {error}")
        return tuple(found)

    def meets(self, raw: Any) -> bool:
        """Whether a mixture, as it was written, meets every condition."""
        if not self.conditions or not isinstance(raw, dict):
            return True
        values = {name: number_for(Pretrain.model_fields[name], raw.get(name, Pretrain.model_fields[name].default))
                  for name in Pretrain.model_fields if name != "sources"}  # fmt: skip
        parts = {name: part.get("weight", 1.0) if isinstance(part, dict) else part
                 for name, part in mapping(raw.get("sources")).items()}  # fmt: skip
        weights = {name: number if _positive(number := _number(part)) else 0.0 for name, part in parts.items()}
        whole = sum(weights.values()) or 1.0
        known = namespace(values, {name: weight / whole for name, weight in weights.items()})
        try:
            return all(condition.holds(known) for condition in self.conditions)
        except Unknown as error:
            self.say(("search", "where"), f"search.where: {error}")
            return True

    def say(self, path: tuple, what: str) -> None:
        problem = Problem(self.document.place(path), what)
        if str(problem) not in self.seen:  # the same mistake shows in every level of a grid
            self.seen.add(str(problem))
            self.problems.append(problem)
            self.paths.append(path)

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
        levels = []
        for found in combinations(key, raw, own or {}, self.say, self.drawn):
            if key == "pretrain" and not self.meets(found.raw):  # before it is checked: this may rule a clash out
                self.fallen += 1
            else:
                levels.append(Level(self.section(key, found.raw, (key,), found.places), found.names))
        return tuple(levels)

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

    def explain(self, model: type[BaseModel], error: ValidationError, path: tuple, places: Mapping[str, tuple]) -> None:
        """pydantic's errors, a line each."""
        for detail in one_per_key(error):
            self.say(*explain(model, detail, path, places, path[0] in VARYING))


def mapping(raw: Any) -> dict:
    """The value where it is a mapping, else an empty one."""
    return raw if isinstance(raw, dict) else {}


def _source_names(raw: Any) -> list[str]:
    """The sources that `pretrain.sources` names in any way of writing it."""
    if isinstance(raw, dict):
        listed = [value for way in ("simplex", "lattice", "grid", "choice") if isinstance(value := raw.get(way), list)]
        each = [name for value in listed for part in value for name in (part if isinstance(part, dict) else [part])]
        return list(dict.fromkeys(map(str, each))) if listed else [*map(str, raw)]
    return []


def _number(value: Any) -> Any:
    """The number that a text stands for, else the value as it is."""
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else number


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _numbers(cls: Any, options: dict) -> dict:
    """Options with their numbers read as in every section."""
    return {key: number_for(cls.Options.model_fields.get(key), value) for key, value in options.items()}
