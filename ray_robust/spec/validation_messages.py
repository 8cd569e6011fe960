"""How a mistake in a spec is told: pydantic's errors as lines in the words of the YAML, values as people write them.

Owns the wording. Hands on to `axes` and `spec`, which know where in the file a key stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ray_robust.errors import did_you_mean
from ray_robust.spec.sections import parse_number, types_in

LISTS = ("grid", "choice", "points", "lattice", "simplex", "uniform", "loguniform")  # of levels
_SIGNS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


Places = Mapping[tuple, tuple]  # a path -> where it stands in the file, if not there; see `in_file`


def in_file(path: tuple, places: Places) -> tuple:
    """Where in the file a path of the section that was read stands: what stands elsewhere brings along what is in it.
    Under () is the place of what is wrong with a section as a whole."""
    if len(path) == 1 and () in places:
        return places[()]
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return (*places[path[:length]], *path[length:])
    return path


def explain(model: type[BaseModel], detail: Any, path: tuple, places: Places, varies: bool) -> tuple[tuple, str]:
    """(where in the file, what is wrong) of one of `model`'s pydantic errors.

    path    of the section
    places  what of it stands elsewhere in the file
    varies  whether a value of this section may be an axis: said to whoever gives a mapping for a number
    """
    loc = _key_of(model, detail)
    place = in_file((*path, *loc), places)
    if detail["type"] == "extra_forbidden" and place[-2:-1] and place[-2] in LISTS:
        place = place[:-2]  # the key itself, not the first of its values
    key = dotted((*path, *loc) if place[:1] == path[:1] else place)
    what = _what(model, detail, loc)
    plain = detail["type"] not in ("value_error", "missing", "extra_forbidden")
    if isinstance(detail.get("input"), dict) and plain and varies:
        what += "; a value that varies is written {grid: [...]}"
    return place, f"{key}: {what}"


def one_per_key(model: type[BaseModel], error: ValidationError) -> list[Any]:
    """pydantic's errors, one per key: of "a number or a word" each arm has its own, and that for words says both."""
    found: dict[tuple, Any] = {}
    for detail in error.errors():
        key = _key_of(model, detail)
        if key not in found or detail["type"] == "literal_error":
            found[key] = detail
    return list(found.values())


def _key_of(model: type[BaseModel], detail: Any) -> tuple:
    """The key an error is about, without the arms of a union that pydantic went through."""
    first, *others = detail["loc"] or (None,)
    if first is None:
        return ()
    field = model.model_fields.get(first)
    below = {key for part in (types_in(field.annotation) if field else ())
             if isinstance(part, type) and issubclass(part, BaseModel) for key in part.model_fields}  # fmt: skip
    if below and others and detail["type"] == "extra_forbidden":
        below.add(others[-1])  # the key that is unknown
    return (first, *(part for part in others if isinstance(part, int) or part in below))


def _what(model: type[BaseModel], detail: Any, loc: tuple) -> str:
    value, context, kind = detail.get("input"), detail.get("ctx", {}), detail["type"]
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(loc[-1]), model.model_fields)}"
    if kind == "missing":
        return "missing"
    if kind.startswith("int_") or (kind.startswith("float_") and "inf" not in kind):
        return f"must be a {'whole ' if kind.startswith('int_') else ''}number, not {shown(value)}"
    if kind == "literal_error":
        names = [name.strip().strip("'") for name in context["expected"].replace(" or ", ",").split(",")]
        if len(detail["loc"]) > 1:  # one arm of "a number or a word": the arm for words says both
            return f"must be a whole number above 0 or {' or '.join(names)}, not {shown(value)}"
        return f"must be one of {', '.join(names)}, not {shown(value)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        which = next(k for k in _SIGNS if k in context)
        return f"must be {_SIGNS[which]} {text(context[which])}, not {shown(value)}"
    if kind == "finite_number":
        return f"must be a finite number, not {shown(value)}"
    if kind == "string_type":
        return f"must be text, not {shown(value)}" + ("" if isinstance(value, dict | list) else "; quote it")
    if kind.startswith("bool_"):
        return f"must be true or false, not {shown(value)}"
    if kind == "dict_type":
        return f"must be a mapping (key: value), not {shown(value)}"
    if kind in ("list_type", "tuple_type"):
        return f"must be a list, not {shown(value)}"
    if kind == "too_short":
        return f"must hold at least {context['min_length']}, not {context['actual_length']}"
    return str(context["error"]) if kind == "value_error" else detail["msg"]


def dotted(path: tuple) -> str:
    """A path as people write it, without its places in lists of levels."""
    following = (*path[1:], None)
    kept = [
        part for part, after in zip(path, following, strict=True) if part not in LISTS or not isinstance(after, int)
    ]
    return ".".join(str(part) for part in kept if not isinstance(part, int))


def shown(value: Any) -> str:
    """A value in a message: short, and what it is rather than what it holds."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    said = str(value).lower() if isinstance(value, bool) else repr(value)
    return said if len(said) <= 60 else said[:57] + "..."


def text(value: Any) -> str:
    """A value for names and tables: `16000`, `0.001`, `species:0.5+fractals:0.5`, `under:deer,cats`."""
    if isinstance(value, str):
        number = parse_number(value)
        return f"{number:.12g}" if isinstance(number, float) else str(number if number is not None else value)
    if isinstance(value, dict):
        return "+".join(f"{k}:{text(v.get('weight', 1) if isinstance(v, dict) else v)}" for k, v in value.items())
    if isinstance(value, list):
        return ",".join(map(text, value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)
