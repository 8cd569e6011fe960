"""Every key of a spec, by the parent that it belongs under, from the models; where a misplaced one belongs."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ray_robust import registry
from ray_robust.errors import UserError, did_you_mean
from ray_robust.spec.mixture_axes import MIXTURE_AXES
from ray_robust.spec.pool_sections import TaskSection
from ray_robust.spec.run_sections import Analysis, Baseline, OtherKeys, Resources, Seeds
from ray_robust.spec.search_section import Search
from ray_robust.spec.section import Section
from ray_robust.spec.sections import Finetune, ModelSection, Pretrain
from ray_robust.spec.values import types_in

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
MODELS: dict[str, type[Section]] = {**SECTIONS, "seeds": Seeds}  # what may be written as a section
TOP = (*SECTIONS, *OtherKeys.model_fields)  # the keys at the top of a file
FEW = 6  # keys of a section that the message for a misplaced one lists
NEAR = 0.7  # how near a key must be to one of its own section, to be perhaps misspelt though it belongs elsewhere
CLOSE = 0.8  # how near to one of another section, to be that one misspelt and misplaced


@dataclass(frozen=True)
class Parent:
    """A place in a spec, dotted ("" for the top of the file), the keys that it takes, and their model, if it is one."""

    path: str
    keys: tuple[str, ...]
    model: type[BaseModel] | None = None


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model that a spec may name; those marked `written: False` are made of others."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return {
        name: field
        for name, field in model.model_fields.items()
        if not (isinstance(extra := extras[name], dict) and extra.get("written") is False)
    }


def parents(tree: Mapping[str, Any]) -> Iterator[Parent]:
    """Yield every place of a spec; `tree` is one as it was written, whose task and sources add their own keys."""
    yield Parent("", TOP, OtherKeys)
    for name, model in MODELS.items():
        yield from _below(name, model)
    yield Parent("pretrain", ("points",))
    axes = {key: None for axis in MIXTURE_AXES.values() for key in keys_of(axis) if key != "grid"}
    yield Parent("pretrain.sources", tuple(axes))
    yield Parent("baseline.finetune", tuple(keys_of(Finetune)))
    yield from _pools(tree)


def unknown_key(key: str, parent: str, known: Mapping[str, Any] | tuple[str, ...], tree: Mapping[str, Any]) -> str:
    """Return the message for a key that `parent` does not have: which of its own is meant, or where it belongs."""
    where = [one.path for one in _nearest_first(parents(tree), parent) if key in one.keys]
    near = difflib.get_close_matches(key, list(map(str, known)), n=1, cutoff=NEAR)
    if where and near:
        return f"unknown key; did you mean {near[0]}? ({key} belongs {_under(where)})"
    if where:
        here = f"; known here: {', '.join(sorted(known))}" if len(known) <= FEW else ""
        return f"unknown key; {key} belongs {_under(where)}{here}"
    hint = did_you_mean(key, known)
    if "did you mean" not in hint:
        others = {name: None for one in parents(tree) if one.path != parent for name in one.keys}
        if meant := difflib.get_close_matches(key, list(others), n=1, cutoff=CLOSE):
            where = [one.path for one in _nearest_first(parents(tree), parent) if meant[0] in one.keys]
            return f"unknown key; did you mean {meant[0]}, which belongs {_under(where)}?"
    return f"unknown key{hint}"


def belongs(key: str, parent: str, tree: Mapping[str, Any]) -> str:
    """Return `; num_images belongs under pretrain, ...` for a key of other places than `parent`, else ""."""
    where = [one.path for one in _nearest_first(parents(tree), parent) if key in one.keys]
    return f"; {key} belongs {_under(where)}" if where else ""


def _nearest_first(places: Iterator[Parent], parent: str) -> list[Parent]:
    """Return the places but `parent`, those first that have most of its path in common."""
    shared = [one for one in places if one.path != parent]
    here = parent.split(".")

    def common(place: Parent) -> int:
        pairs = zip(place.path.split("."), here, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    return sorted(shared, key=lambda place: -common(place))


def _under(paths: list[str]) -> str:
    """Return `under pretrain, finetune or baseline.finetune`; the top of the file by these words."""
    *others, last = dict.fromkeys(path for path in paths if path) or [""]
    under = f"under {', '.join(others)} or {last}" if others else f"under {last}" if last else ""
    return " or ".join(filter(None, ["at the top of the file" if "" in paths else "", under]))


@cache
def _below(path: str, model: type[BaseModel]) -> tuple[Parent, ...]:
    """Return a section and the sections within it."""
    own = [Parent(path, tuple(keys_of(model)), model)]
    for name, field in keys_of(model).items():
        types = types_in(field.annotation)
        for part in types:
            if isinstance(part, type) and issubclass(part, BaseModel):
                own += _below(f"{path}.{name}.NAME" if str in types else f"{path}.{name}", part)
    return tuple(own)


def _pools(tree: Mapping[str, Any]) -> Iterator[Parent]:
    """Yield what the task and the sources that a spec names take."""
    task, pretrain = tree.get("task"), tree.get("pretrain")
    sources = pretrain.get("sources") if isinstance(pretrain, dict) else None
    named = [("task", "task", task.get("name"), task)] if isinstance(task, dict) else []
    listed = sources if isinstance(sources, dict) and not set(sources) & set(MIXTURE_AXES) else {}
    named += [("source", f"pretrain.sources.{name}", name, part) for name, part in listed.items()]
    for kind, path, name, part in named:
        registered = part.get("kind", name) if isinstance(part, dict) else name
        try:
            options = registry.find(kind, registered).Options if isinstance(registered, str) else None
        except (UserError, ImportError):
            continue
        if options is not None:
            yield Parent(path, tuple(options.model_fields), options)
