"""Messages for errors in a spec: pydantic's errors as lines in the words of the YAML, values as people write them.

Owns the wording. `section_parser`, `grid` and `space_parser` add the path in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ray_robust.spec.keys import unknown_key
from ray_robust.spec.section import Contradictions
from ray_robust.spec.values import parse_number, short_repr, types_in

LISTS = ("grid", "choice", "points", "lattice", "simplex", "uniform", "loguniform")  # of levels
MAPPINGS = ("shifts", "corruptions")  # types of errors in values that are mappings by themselves
LONGEST_LIST = 120  # characters of a list that a message repeats
_SIGNS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


Origins = Mapping[tuple, tuple]  # a path in a section -> the path in the file where it was written, if another


def origin_of(path: tuple, origins: Origins) -> tuple:
    """Return the path in the file where a path of a section was written; what was written elsewhere takes along all
    that is below it. `origins[()]` is the path for errors of the section as a whole."""
    if len(path) == 1 and () in origins:
        return origins[()]
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return (*origins[path[:length]], *path[length:])
    return path


def describe_error(
    model: type[BaseModel], detail: Any, path: tuple, origins: Origins, varies: bool, tree: Mapping[str, Any]
) -> Iterator[tuple[tuple, str]]:
    """Yield (path in the file, message) of one of `model`'s pydantic errors: one, or one per contradiction.

    path     of the section
    origins  parts of it that were written elsewhere in the file
    varies   whether a value of this section may be an axis, which the message of a list for a number then adds
    tree     the whole spec as it was written
    """
    loc = _key_of(model, detail)
    origin = origin_of((*path, *loc), origins)
    if detail["type"] == "extra_forbidden" and origin[-2:-1] and origin[-2] in LISTS:
        origin = origin[:-2]  # the key itself, not the first of its values
    whole = (*path, *loc) if origin[:1] == path[:1] else origin
    key, error = dotted(whole), detail.get("ctx", {}).get("error")
    if detail["type"] == "extra_forbidden":
        keys = tuple(_model_of(model, loc[:-1]).model_fields)
        yield origin, f"{key}: {unknown_key(str(loc[-1]), dotted(whole[:-1]), keys, tree)}"
    elif isinstance(error, Contradictions):
        yield from ((origin, f"{key}: {what}") for _, what in error.all)
    else:
        hint = as_grid(detail.get("input"), origin) if varies and detail["type"] != "missing" else ""
        right = detail["type"] in MAPPINGS or (
            detail["type"] == "value_error" and not _holds_mappings(detail.get("input"))
        )
        if right:
            hint = ""  # a list or mapping is right here, and something in it is wrong
        yield origin, f"{key}: {_sentence(model, detail, loc)}{hint}"


def as_grid(value: Any, origin: tuple) -> str:
    """Return `; a value that varies is written {grid: [1k, 4k]}` for a list or mapping where one value belongs."""
    if not isinstance(value, dict | list) or not value:
        return ""
    if any(isinstance(part, int) for part in origin):  # within a value that varies, where no other can
        return "; in points nothing varies: write a point for each value" if "points" in origin else ""
    if isinstance(value, dict):
        return "; a value that varies is written {grid: [...]}"
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    return f"; a value that varies is written {{grid: {text if len(text) <= LONGEST_LIST else '[...]'}}}"


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict | list) for part in value)


def _model_of(model: type[BaseModel], loc: tuple) -> type[BaseModel]:
    """Return the model that a path within a model leads to."""
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        within = [one for one in (types_in(field.annotation) if field else ())
                  if isinstance(one, type) and issubclass(one, BaseModel)]  # fmt: skip
        model = within[0] if within else model
    return model


def first_per_key(model: type[BaseModel], error: ValidationError) -> list[Any]:
    """Return pydantic's errors, one per key: each arm of the union "a number or a word" has its own, and the message
    of the arm for words covers both."""
    errors: dict[tuple, Any] = {}
    for detail in error.errors():
        key = _key_of(model, detail)
        if key not in errors or detail["type"] == "literal_error":
            errors[key] = detail
    return list(errors.values())


def _key_of(model: type[BaseModel], detail: Any) -> tuple:
    """Return the key that an error is about, without the arms of a union that pydantic went through."""
    first, *others = detail["loc"] or (None,)
    if first is None:
        return ()
    field = model.model_fields.get(first)
    below = {key for part in (types_in(field.annotation) if field else ())
             if isinstance(part, type) and issubclass(part, BaseModel) for key in part.model_fields}  # fmt: skip
    if below and others and detail["type"] == "extra_forbidden":
        below.add(others[-1])  # the key that is unknown
    return (first, *(part for part in others if isinstance(part, int) or part in below))


def _sentence(model: type[BaseModel], detail: Any, loc: tuple) -> str:
    value, context, kind = detail.get("input"), detail.get("ctx", {}), detail["type"]
    if kind == "missing":
        return "missing"
    if kind.startswith("int_") or (kind.startswith("float_") and "inf" not in kind):
        return f"must be a {'whole ' if kind.startswith('int_') else ''}number, not {short_repr(value)}"
    if kind == "literal_error":
        names = [name.strip().strip("'") for name in context["expected"].replace(" or ", ",").split(",")]
        if len(detail["loc"]) > len(loc):  # one arm of "a number or a word": the arm for words names both
            field = _model_of(model, loc[:-1]).model_fields.get(loc[-1])
            other = "true, false" if field and bool in types_in(field.annotation) else "a whole number above 0"
            return f"must be {other} or {' or '.join(names)}, not {short_repr(value)}"
        return f"must be one of {', '.join(names)}, not {short_repr(value)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        which = next(k for k in _SIGNS if k in context)
        return f"must be {_SIGNS[which]} {format_value(context[which])}, not {short_repr(value)}"
    if kind == "finite_number":
        return f"must be a finite number, not {short_repr(value)}"
    if kind == "string_type":
        return f"must be text, not {short_repr(value)}" + ("" if isinstance(value, dict | list) else "; quote it")
    if kind.startswith("bool_"):
        return f"must be true or false, not {short_repr(value)}"
    if kind == "dict_type":
        return f"must be a mapping (key: value), not {short_repr(value)}"
    if kind in ("list_type", "tuple_type"):
        return f"must be a list, not {short_repr(value)}"
    if kind == "too_short":
        return f"must hold at least {context['min_length']}, not {context['actual_length']}"
    return str(context["error"]) if kind == "value_error" else detail["msg"]


def dotted(path: tuple) -> str:
    """Return a path as people write it, without the indices of values in lists."""
    following = (*path[1:], None)
    kept = [
        part for part, after in zip(path, following, strict=True) if part not in LISTS or not isinstance(after, int)
    ]
    return ".".join(str(part) for part in kept if not isinstance(part, int))


def format_value(value: Any) -> str:
    """Return a value as text for names and tables: `16000`, `0.001`, `species:0.5+fractals:0.5`, `under:deer,cats`."""
    if isinstance(value, str):
        number = parse_number(value)
        return f"{number:.12g}" if isinstance(number, float) else str(number if number is not None else value)
    if isinstance(value, dict):
        return "+".join(
            f"{k}:{format_value(v.get('weight', 1) if isinstance(v, dict) else v)}" for k, v in value.items()
        )
    if isinstance(value, list):
        return ",".join(map(format_value, value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)
