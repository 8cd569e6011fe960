"""Which classes to pre-train on and how finely to label them: the keys `classes` and `granularity` of a spec.

Owns what may be written, and its text in tables. `data.labels.class_labels` applies it to a pool's classes; no files
are read here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer

from ray_robust.spec.builtin import builtin_file

CLASSES = (
    "must be all, a list of class names, {under: NAME}, {nearest: K, to: NAME}, {farthest: K, to: NAME} or a .csv file"
)
LABELLING = re.compile(r"(depth|labels|random|map):(.*)", re.DOTALL)


class ClassSelection(BaseModel):
    """A selection of classes, in one of five ways.

    `names` are those of a list, `file` is a CSV with the column `class`; the others are keys of a mapping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(default=(), json_schema_extra={"written": False})
    under: tuple[str, ...] = Field(
        default=(),
        description="every class below one of these nodes of the hierarchy, by any path",
        examples=["classes: {under: [order1, order2]}"],
    )
    nearest: int | None = Field(
        default=None,
        description="so many classes, by their distance in the tree to the nearest class below one of `to`; "
        "classes below them are at distance 0 and come first",
        examples=["classes: {nearest: 50, to: order1}"],
    )
    farthest: int | None = Field(
        default=None,
        description="so many classes, by the same distance from the far end",
        examples=["classes: {farthest: 50, to: order1}"],
    )
    to: tuple[str, ...] = Field(
        default=(),
        description="what `nearest` and `farthest` are measured from: nodes of the hierarchy",
        examples=["classes: {nearest: 50, to: [order1, order2]}"],
    )
    file: str | None = Field(default=None, json_schema_extra={"written": False})

    @model_serializer
    def written(self) -> Any:
        """Return it as a user could have written it."""
        if self.file is not None:
            return self.file
        if self.names:
            return list(self.names)
        if self.under:
            return {"under": list(self.under)}
        how = {"nearest": self.nearest} if self.nearest is not None else {"farthest": self.farthest}
        return {**how, "to": list(self.to)}

    @property
    def number(self) -> int:
        """How many classes `nearest` or `farthest` asks for; 0 for the other ways."""
        return self.nearest or self.farthest or 0

    @property
    def text(self) -> str:
        """Its text in a table: `under animal`, `nearest 50 to dog`, `tench, goldfish`, `12 classes (tench ...)`."""
        if self.file is not None:
            return _stem(self.file)
        if self.names:
            return ", ".join(self.names) if len(self.names) <= 3 else f"{len(self.names)} classes ({self.names[0]} ...)"
        if self.under:
            return f"under {', '.join(self.under)}"
        if self.nearest is not None:
            return f"nearest {self.nearest} to {', '.join(self.to)}"
        return f"farthest {self.farthest} to {', '.join(self.to)}"


def parse_classes(raw: Any) -> ClassSelection | None:
    """Return `pretrain.classes`; None for all. Raise ValueError with a message that says what would be right."""
    if raw is None or raw == "all" or isinstance(raw, ClassSelection):
        return None if raw == "all" else raw
    if isinstance(raw, str) and raw.endswith(".csv"):
        return ClassSelection(file=absolute(raw))
    if isinstance(raw, list | tuple):
        return ClassSelection(names=_names(raw))
    if not isinstance(raw, dict):
        raise ValueError(f"{CLASSES}, not {raw!r}")
    if set(raw) == {"under"}:
        return ClassSelection(under=_names(raw["under"]))
    if set(raw) in ({"nearest", "to"}, {"farthest", "to"}):
        if "nearest" in raw:
            return ClassSelection(nearest=_count("nearest", raw["nearest"]), to=_names(raw["to"]))
        return ClassSelection(farthest=_count("farthest", raw["farthest"]), to=_names(raw["to"]))
    raise ValueError(f"{CLASSES}, not a mapping of {', '.join(map(str, raw)) or 'nothing'}")


def parse_granularity(raw: Any) -> Any:
    """Return `pretrain.granularity` in one form: a whole number is `labels:N`, paths are absolute. Raise ValueError."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = f"labels:{raw}"
    if not isinstance(raw, str):
        return raw
    if raw.isdecimal():
        raw = f"labels:{raw}"
    match = LABELLING.fullmatch(raw)
    if match is None:
        return raw
    how, value = match[1], match[2].strip()
    if how == "map":
        if not value.endswith(".csv"):
            raise ValueError(f"map: must name a .csv file with the columns class and label, not {value!r}")
        return f"map:{absolute(value)}"
    least = 2 if how == "random" else 1
    if not value.isdecimal() or int(value) < least:
        raise ValueError(f"{how}: must be followed by a whole number of at least {least}, not {value!r}")
    return f"{how}:{int(value)}"


def granularity_text(granularity: str) -> str:
    """Return it for a table: a map by its file's name."""
    return f"map:{_stem(granularity)}" if granularity.startswith("map:") else granularity


def _names(raw: Any) -> tuple[str, ...]:
    names = tuple(raw) if isinstance(raw, list | tuple) else (raw,)
    if odd := [name for name in names if not isinstance(name, str) or not name]:
        raise ValueError(f"names must be text, not {odd[0]!r}; quote it")
    if not names:
        raise ValueError("names no class; give at least one, or leave the key out for all")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{name!r} is given twice")
    return tuple(sorted(names))  # in any order they mean the same


def _count(how: str, raw: Any) -> int:
    text = str(raw).replace("_", "")
    if isinstance(raw, bool) or not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{how} must be a whole number of classes above 0, not {raw!r}")
    return int(text)


def parse_weights(raw: Any) -> Any:
    """Return `pretrain.weights` in one form: the path of a file or folder that exists is absolute, a tag stays as it
    is."""
    if not isinstance(raw, str) or not raw.strip():
        return raw
    path = absolute(raw)
    return path if os.path.exists(path) else raw


def absolute(path: str) -> str:
    """Return a path that a user wrote, absolute: `~` and $VARIABLES expanded, relative to the working directory, or
    where there is none the file of the built-in sweeps."""
    here = os.path.abspath(os.path.expanduser(os.path.expandvars(path)))
    own = None if os.path.exists(here) else builtin_file(path)
    return here if own is None else str(own)


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".csv")
