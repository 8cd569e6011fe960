"""Messages for errors in a spec: pydantic's errors as lines in the words of the YAML, values as people write them.

Owns the wording. `section_parser`, `grid` and `space_parser` add the path in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ray_robust.errors import did_you_mean
from ray_robust.spec.sections import parse_number, types_in

LISTS = ("grid", "choice", "points", "lattice", "simplex", "uniform", "loguniform")  # of levels
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
    model: type[BaseModel], detail: Any, path: tuple, origins: Origins, varies: bool
) -> tuple[tuple, str]:
    """Return (path in the file, message) of one of `model`'s pydantic errors.

    path     of the section
    origins  parts of it that were written elsewhere in the file
    varies   whether a value of this section may be an axis, which the message of a mapping for a number then adds
    """
    loc = _key_of(model, detail)
    origin = origin_of((*path, *loc), origins)
    if detail["type"] == "extra_forbidden" and origin[-2:-1] and origin[-2] in LISTS:
        origin = origin[:-2]  # the key itself, not the first of its values
    key = dotted((*path, *loc) if origin[:1] == path[:1] else origin)
    what = _sentence(model, detail, loc)
    plain = detail["type"] not in ("value_error", "missing", "extra_forbidden")
    if isinstance(detail.get("input"), dict) and plain and varies:
        what += "; a value that varies is written {grid: [...]}"
    return origin, f"{key}: {what}"


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
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(loc[-1]), model.model_fields)}"
    if kind == "missing":
        return "missing"
    if kind.startswith("int_") or (kind.startswith("float_") and "inf" not in kind):
        return f"must be a {'whole ' if kind.startswith('int_') else ''}number, not {short_repr(value)}"
    if kind == "literal_error":
        names = [name.strip().strip("'") for name in context["expected"].replace(" or ", ",").split(",")]
        if len(detail["loc"]) > 1:  # one arm of "a number or a word": the arm for words names both
            return f"must be a whole number above 0 or {' or '.join(names)}, not {short_repr(value)}"
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


def short_repr(value: Any) -> str:
    """Return a value for a message: short; of a mapping or list what it is, not what it holds."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    whole = str(value).lower() if isinstance(value, bool) else repr(value)
    return whole if len(whole) <= 60 else whole[:57] + "..."


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
