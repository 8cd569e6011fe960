"""How values are written in a spec: whole numbers, shares, rates and sizes, and the numbers that their texts denote."""

from __future__ import annotations

import math
import re
import typing
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

MOST = 10**12  # of whole numbers that have no other limit
Positive = Annotated[int, Field(gt=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def number_for(field: Any, value: Any) -> Any:
    """Return `value` as the number that `field` wants, where its text is one; pydantic judges anything else."""
    if field is None:
        return value
    wanted = types_in(field.annotation)
    if isinstance(value, bool) and bool not in wanted and wanted & {int, float}:
        return str(value).lower()  # pydantic would take true for 1
    if not isinstance(value, str) or not wanted & {int, float}:
        return value
    number = parse_number(value)
    return value if number is None else number


def is_whole(field: Any) -> bool:
    """Return whether a field's numbers are whole ones."""
    wanted = types_in(field.annotation)
    return int in wanted and float not in wanted


def types_in(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    parts = typing.get_args(annotation)
    return set().union(*map(types_in, parts)) if parts else {annotation}


def parse_number(text: str) -> int | float | None:
    """Return the number of a text: `64k` is 64000, `1.2M` 1200000, `1_000` 1000, `3e-4` 0.0003; None where it is
    no finite number."""
    text = text.strip().replace("_", "")
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = Decimal(text if scale == 1 else text[:-1]) * scale
    except ArithmeticError:  # no number, or one beyond all numbers
        return None
    if not math.isfinite(value) or not math.isfinite(float(value)):
        return None
    return int(value) if abs(value) >= 1 and value == int(value) else float(value)


def parse_size(text: Any) -> Any:
    """Return `20G`, `1.5 TB` or `500MB` in bytes; pydantic judges anything else."""
    match = re.fullmatch(r"([\d_.]+)\s*([kMGT])B?", text.strip()) if isinstance(text, str) else None
    number = parse_number(match[1]) if match else None
    return text if number is None or match is None else round(number * 1000 ** ("kMGT".index(match[2]) + 1))


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
