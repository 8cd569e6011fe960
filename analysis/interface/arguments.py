"""What `analyse` was given from Python: its types checked, and messages in the words of its arguments.

The command and Python share every check of the data, whose messages name the command's flags; owns how these are called
from Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ray_robust.errors import Problem, UserError

TEXT, COLUMNS = "the name of a column", "the name of a column, or several"
WANTED = {
    "id": COLUMNS, "ood": TEXT, "group": TEXT, "cluster": TEXT, "title": "text", "percent": "True or False",
    "unit": '{column: "percent" or "fraction"}', "id_min": "a number", "margin": "a number", "scale": "text",
    "look": "text",
}  # fmt: skip
OPTIONAL = ("cluster", "title", "unit", "id_min", "scale", "margin", "look")  # None: not given
FLAGS = ("id", "ood", "group", "baseline", "cluster", "percent", "unit", "id-min", "scale", "margin", "look", "title")
_UNITS = re.compile(r"--unit (?P<column>.+?)=(?P<unit>percent|fraction)")
_CLUSTER = re.compile(r"(?P<say>\bsay |\bby )--cluster ('(?P<quoted>[^']*)'|(?P<bare>[^\s;,:)]+))")
_FLAG = re.compile(rf"--({'|'.join(sorted(FLAGS, key=len, reverse=True))})(?![\w-])")


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise UserError with every argument that has a value of another type than it takes."""
    problems = [Problem("", f"{name}: must be {WANTED[name]}, not {value!r}") for name, value in given.items()
                if name in WANTED and not _fits(name, value)]  # fmt: skip
    if problems:
        raise UserError(*problems)


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name in OPTIONAL
    if name == "percent":
        return isinstance(value, bool | np.bool_)
    if name in ("margin", "id_min"):
        return isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if name == "unit":
        return isinstance(value, Mapping) and all(isinstance(part, str) for item in value.items() for part in item)
    if name == "id" and isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, str) for one in value)
    return isinstance(value, str)


def in_python(text: str) -> str:
    """Return a message of the command in the words of Python: `--id-min` is `id_min`, `say --cluster none` is
    `say cluster='none'`, `--unit val=percent` is `unit={'val': 'percent'}`."""
    if units := list(_UNITS.finditer(text)):
        pieces = list(_pieces(text, units))
        text = "".join(pieces)
    text = _CLUSTER.sub(lambda m: f"{m['say']}cluster={m['quoted'] if m['bare'] is None else m['bare']!r}", text)
    text = text.replace("--percent", "percent=True")
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), text)


def _pieces(text: str, units: list[re.Match[str]]) -> Iterator[str]:
    """Yield the text with flags that follow each other as one mapping."""
    end, together = 0, dict[str, str]()
    for i, unit in enumerate(units):
        if not together:
            yield text[end : unit.start()]
        together[unit["column"]] = unit["unit"]
        end = unit.end()
        if i + 1 == len(units) or text[end : units[i + 1].start()].strip():
            yield f"unit={together}"
            together = {}
    yield text[end:]
