"""Parse the sections of a sweep's file into levels: one per combination of its axes that meets `search.where`.

What each key means is in `sections`; `grid` makes the combinations, `validation_messages` the messages. All errors are
collected in `SectionParser.problems`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ray_robust import registry
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.spec.conditions import Condition, Undefined, namespace, parse_condition
from ray_robust.spec.grid import POINTS, SOURCES, axes_in, combinations, without
from ray_robust.spec.keys import MODELS, belongs
from ray_robust.spec.section import Contradictions, Section
from ray_robust.spec.sections import Pretrain, SourceSection
from ray_robust.spec.validation_messages import (
    LISTS,
    Origins,
    as_grid,
    describe_error,
    dotted,
    first_per_key,
    origin_of,
)
from ray_robust.spec.values import number_for, parse_number, short_repr
from ray_robust.spec.yaml_lines import Document

S = TypeVar("S", bound=Section)

VARYING = ("task", "model", "pretrain", "finetune")  # the sections in which a value may be {grid: [...]}
DRAWN = ("pretrain", "finetune")  # those of them in which a search may draw a value
NO_SOURCE = SourceSection(kind="", options=None)  # stands for sources that are wrong: one error is not shown as two
NOTHING = "none"  # `pretrain: none`: the baseline alone


@dataclass(frozen=True)
class Level(Generic[S]):
    """One combination of a section's axes.

    axes   maps a key to its value there, both as text as it was written, in the file's order
    files  the name of every value that is a path, by the value: what tables call it
    """

    section: S
    axes: tuple[tuple[str, str], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`num_images=16000`, joined by commas; "" when the section has no axis."""
        return ", ".join(f"{key}={self.files.get(value, value)}" for key, value in self.axes)

    @property
    def short(self) -> str:
        """The values alone: `16000`; part of a trial's id."""
        return "-".join(value for _, value in self.axes)


class SectionParser:
    """Parses a document's sections and collects their problems. `drawn`: the values that a search has drawn.

    problems  each once
    paths     of the problems in the file
    excluded  how many combinations do not meet a condition
    """

    def __init__(self, document: Document, drawn: Mapping[str, Any] | None = None) -> None:
        self.document, self.drawn = document, drawn
        self.problems: list[Problem] = []
        self.paths: list[tuple] = []
        self._seen: set[str] = set()
        self.excluded = 0
        self.conditions: tuple[Condition, ...] = ()
        self.drawing = drawn is not None  # whether values left open are drawn, and so are no error
        if drawn is not None:  # the document has been read before: its conditions are known to be sound
            self.conditions = self.parse_conditions(mapping(document.tree.get("search")).get("where"))

    def parse_conditions(self, raw: Any) -> tuple[Condition, ...]:
        """Return the conditions of `search.where`; report those that cannot be read."""
        conditions = []
        sources = _source_names(mapping(self.document.tree.get("pretrain")).get("sources"))
        keys = [key for key in Pretrain.model_fields if key != "sources"]
        for i, text in enumerate(raw if isinstance(raw, list) else [] if raw is None else [raw]):
            try:
                conditions.append(parse_condition(text, keys, sources))
            except ValueError as error:
                self.report(("search", "where", i), f"search.where: {error}")
        return tuple(conditions)

    def meets(self, raw: Any) -> bool:
        """Return whether a mixture, as it was written, meets every condition."""
        if not self.conditions or not isinstance(raw, dict):
            return True
        raw = Pretrain.written_out(raw)
        values = {name: number_for(Pretrain.model_fields[name], raw.get(name, Pretrain.model_fields[name].default))
                  for name in Pretrain.model_fields if name != "sources"}  # fmt: skip
        parts = {name: part.get("weight", 1.0) if isinstance(part, dict) else part
                 for name, part in mapping(raw.get("sources")).items()}  # fmt: skip
        if not all(isinstance(_number(part), int | float) for part in parts.values()):
            return True  # an error that is reported elsewhere
        weights = {name: number if _positive(number := _number(part)) else 0.0 for name, part in parts.items()}
        whole = sum(weights.values()) or 1.0
        variables = namespace(values, {name: weight / whole for name, weight in weights.items()})
        try:
            return all(condition.holds(variables) for condition in self.conditions)
        except Undefined as error:
            self.report(("search", "where"), f"search.where: {error}")
            return True

    def report(self, path: tuple, what: str) -> None:
        """Collect a problem at a path in the file, each once: the same error occurs in every level of a grid."""
        problem = Problem(self.document.location(path), what)
        if str(problem) not in self._seen:
            self._seen.add(str(problem))
            self.problems.append(problem)
            self.paths.append(path)

    def report_misspelt(self, raw: Mapping[str, Any]) -> None:
        """Report `{chioce: [...]}` and the like, and correct them in `raw`, so that other errors are found as well."""
        for key in VARYING:
            for path, tree in _mappings(raw.get(key), (key,)):
                for name in [name for name, value in tree.items() if isinstance(value, list)]:
                    near = difflib.get_close_matches(str(name), LISTS, n=1, cutoff=0.75)
                    if near and name not in LISTS and (len(tree) == 1 or path == SOURCES):
                        what = f"{name!r} is no way to vary a value; did you mean {near[0]}?"
                        self.report((*path, name), f"{dotted(path)}: {what}")
                        tree[near[0]] = tree.pop(name)

    def fixed(self, key: str, raw: Any) -> Any:
        """Return a section in which nothing varies, None where it has an error, which is reported."""
        axes = [] if key == "baseline" else [path for path, _ in axes_in(raw, (key,))]
        for path in axes:
            what = f"cannot vary; {{grid: ...}} belongs to {', '.join(VARYING)}"
            self.report(path, f"{'.'.join(map(str, path))}: {what}")
        if (key,) in axes:
            return None
        section = self.section(key, without(raw, axes), (key,), broken=axes)
        return None if axes else section

    def levels(self, key: str, raw: Any, origins: Origins | None = None) -> tuple[Level, ...]:
        """Return every combination of a section's axes, checked; none where an axis is wrong, the rest of the section
        being checked nevertheless. See `grid.combinations`."""
        if key == "pretrain" and raw == NOTHING:
            return ()
        levels, broken = [], False
        points = points if isinstance(points := mapping(raw).get("points"), list) else []
        for path in self.document.overridden if points else ():
            if path[:1] == (key,) and path[1:] and all(path[1] in mapping(point) for point in points):
                self.report(path, f"{'.'.join(path[:2])}: has no effect: every one of pretrain.points sets it")
        for one in combinations(key, raw, origins or {}, self.report, self.drawn, self.drawing):
            broken = broken or bool(one.broken)
            if key == "pretrain" and not one.broken and not self.meets(one.raw):  # it may exclude what is invalid
                self.excluded += 1
            else:
                section = self.section(key, one.raw, (key,), one.origins, one.broken)
                levels.append(Level(section, _used(section, one.names)))
        return () if broken else tuple(levels)

    def section(
        self, key: str, raw: Any, path: tuple, origins: Origins | None = None, broken: Sequence[tuple] = ()
    ) -> Any:
        """Return a validated section, None where it has errors, which are reported.

        origins  parts of it that were written elsewhere in the file
        broken   paths of what was left out of `raw`, its error being reported already
        """
        origins = origins or {}
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            hint = as_grid(raw, origin_of(path, origins)) if key in VARYING else ""
            what = f"must be a mapping (key: value), not {short_repr(raw)}{hint}"
            self.report(origin_of(path, origins), f"{'.'.join(path)}: {what}")
            return None
        raw = dict(raw)
        if key == "pretrain":
            if (*path, "sources") in broken:
                raw["sources"] = {"": NO_SOURCE}
            elif "sources" in raw or raw.get("method") != "weights":  # ready-made weights need no images
                raw["sources"] = self.sources(raw.get("sources"), (*path, "sources"), origins, broken)
        elif key == "task":
            options = {name: value for name, value in raw.items() if name != "name"}
            raw = self.pool("task", raw.get("name"), options, path, origins, broken)
            if raw is None:
                return None
        elif key == "model":
            self.model_name(raw.get("name"), origin_of((*path, "name"), origins))
        try:
            return MODELS[key].model_validate(raw)
        except ValidationError as error:
            self.report_errors(MODELS[key], error, path, origins, broken)
            self._report_contradictions(key, raw, error, path, origins, broken)
            return None

    def _report_contradictions(
        self, key: str, raw: dict, error: ValidationError, path: tuple, origins: Origins, broken: Sequence[tuple]
    ) -> None:
        """Report what contradicts each other among the keys of a section that are right, where others are wrong:
        pydantic stops before it compares keys."""
        wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        if not wrong:
            return
        try:
            MODELS[key].model_validate({name: value for name, value in raw.items() if name not in wrong})
        except ValidationError as further:
            fields = MODELS[key].model_fields  # a misspelt key is what it is near to
            wrong |= {one for name in wrong - set(fields) for one in difflib.get_close_matches(name, fields, n=1)}
            wrong |= {part[len(path)] for part in broken if len(part) > len(path)}
            if POINTS in broken:
                return
            for detail in further.errors():
                clash = detail.get("ctx", {}).get("error")
                for keys, what in clash.all if isinstance(clash, Contradictions) and not detail["loc"] else ():
                    if not wrong & set(keys):
                        self.report(origin_of(path, origins), f"{dotted(path)}: {what}")

    def sources(
        self, raw: Any, path: tuple, origins: Origins, broken: Sequence[tuple] = ()
    ) -> dict[str, SourceSection]:
        """Return `pretrain.sources`, without sources of weight 0; report its errors."""
        if not isinstance(raw, dict) or not raw:
            names = [f"{name}: 1.0" for name in raw if isinstance(name, str)] if isinstance(raw, list) else []
            hint = as_grid(raw, origin_of(path, origins)) if raw and not names else ""
            what = f"must map at least one source to its weight, e.g. {{{', '.join(names) or 'species: 1.0'}}}{hint}"
            self.report(origin_of(path, origins), f"pretrain.sources: {what}")
            return {"": NO_SOURCE}
        sections = {}
        parts = {name: dict(part) if isinstance(part, dict) else {"weight": part} for name, part in raw.items()}
        weights = {name: _number(part.pop("weight", 1.0)) for name, part in parts.items()}
        some = any(_positive(weight) for weight in weights.values())
        for name, options in parts.items():
            pool = self.pool("source", name, options, (*path, name), origins, broken)
            if (some and weights[name] == 0) or (*path, name) in broken:  # absent from a mixture, or reported already
                continue
            if not _positive(weights[name]):
                origin = origin_of((*path, name, "weight"), origins)
                what = f"the weight must be a number above 0, not {short_repr(weights[name])}"
                self.report(origin, f"pretrain.sources.{name}: {what}{as_grid(weights[name], origin)}")
            if pool is None or not _positive(weights[name]):
                continue
            sections[name] = SourceSection(kind=pool["kind"], options=pool["options"], weight=weights[name])
        return sections or {"": NO_SOURCE}

    def pool(
        self, kind: str, name: Any, options: dict, path: tuple, origins: Origins, broken: Sequence[tuple] = ()
    ) -> dict | None:
        """Return the parts of a PoolSection, its options checked by the registered class; None where one is wrong."""
        if {(*path, "name"), (*path, "kind")} & set(broken):
            return None
        if not isinstance(name, str) or not name:
            meant = difflib.get_close_matches("name", options, n=1) if name is None else []
            missing = f"missing ({meant[0]} is no key of it); " if meant else "missing; " if name is None else ""
            origin = origin_of((*path, meant[0] if meant else "name"), origins)
            names = did_you_mean("", registry.KINDS[kind])
            self.report(origin, f"{dotted(path)}.name: {missing}must name a {kind}{names}{as_grid(name, origin)}")
            return None
        given = "kind" if "kind" in options else "name"
        registered = options.pop("kind", name)
        if not isinstance(registered, str):
            self.report(
                origin_of((*path, "kind"), origins), f"{dotted(path)}.kind: must be text, not {short_repr(registered)}"
            )
            return None
        try:
            cls = registry.find(kind, registered)
        except UserError as error:
            here = path if kind == "source" and given == "name" else (*path, given)
            meant = difflib.get_close_matches("kind", options, n=1) if given == "name" else []
            hint = f"; is {meant[0]} meant as kind?" if meant else ""
            what = f"{error.problems[0].what}{hint}"
            if (
                kind == "source"
                and given == "name"
                and (where := belongs(name, "pretrain.sources", self.document.tree))
            ):
                what = f"{name!r} is no known source{where}"
            self.report(origin_of(here, origins), f"{dotted(here)}: {what}")
            return None
        try:
            return {
                "name": name,
                "kind": registered,
                "options": cls.Options.model_validate(_numbers(cls, options)),
            }
        except ValidationError as error:
            self.report_errors(cls.Options, error, path, origins, broken)
            return None

    def model_name(self, name: Any, path: tuple) -> None:
        """Report a model that neither timm nor open_clip has."""
        names = registry.timm_models()
        base = str(name).partition(".")[0]
        if isinstance(name, str) and name.startswith(registry.OPEN_CLIP):
            base, names = name.removeprefix(registry.OPEN_CLIP).partition("/")[0], registry.open_clip_models()
            if base not in names:
                self.report(path, f"model.name: open_clip has no model {base!r}{did_you_mean(base, names)}")
        elif isinstance(name, str) and names and base not in names and not name.startswith(("hf_hub:", "hf-hub:")):
            self.report(path, f"model.name: timm has no model {name!r}{did_you_mean(base, names)}")

    def report_errors(
        self,
        model: type[BaseModel],
        error: ValidationError,
        path: tuple,
        origins: Origins,
        broken: Sequence[tuple] = (),
    ) -> None:
        """Report pydantic's errors, a line each; not those that follow from what is `broken`."""
        wrong = {part[len(path)] for part in broken if len(part) > len(path)}
        for detail in first_per_key(model, error):
            clash = detail.get("ctx", {}).get("error")
            if detail["loc"] and detail["loc"][0] in wrong:
                continue
            if isinstance(clash, Contradictions):
                kept = [(keys, what) for keys, what in clash.all if not wrong & set(keys) and POINTS not in broken]
                detail = {**detail, "ctx": {"error": Contradictions(kept)}}
            for line in describe_error(model, detail, path, origins, path[0] in VARYING, self.document.tree):
                self.report(*line)


def _used(section: Any, names: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the names of a combination without those of keys that its method ignores."""
    idle = section.idle(getattr(section, "method", "")) if isinstance(section, Section) and section.only_for else set()
    return tuple((key, value) for key, value in names if key.partition(".")[0] not in idle)


def mapping(raw: Any) -> dict:
    """Return the value where it is a mapping, else an empty one."""
    return raw if isinstance(raw, dict) else {}


def _mappings(raw: Any, path: tuple) -> Iterator[tuple[tuple, dict]]:
    """Yield every mapping within, with its path; not those in lists."""
    if isinstance(raw, dict):
        yield path, raw
        for key, value in list(raw.items()):
            yield from _mappings(value, (*path, key))


def _source_names(raw: Any) -> list[str]:
    """Return the sources that `pretrain.sources` names in any way of writing it."""
    if isinstance(raw, dict):
        listed = [value for way in ("simplex", "lattice", "grid", "choice") if isinstance(value := raw.get(way), list)]
        each = [name for value in listed for part in value for name in (part if isinstance(part, dict) else [part])]
        return list(dict.fromkeys(map(str, each))) if listed else [*map(str, raw)]
    return []


def _number(value: Any) -> Any:
    """Return the number that a text denotes, else the value itself."""
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else number


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _numbers(cls: Any, options: dict) -> dict:
    """Return options with their numbers read as in every section."""
    return {key: number_for(cls.Options.model_fields.get(key), value) for key, value in options.items()}
