"""A spec given as Python values, and values that replace its own: checked to be what a YAML file could hold.

So that a dict means exactly what the file with the same keys means: numbers of numpy become Python's, tuples lists,
paths text; all else is an error that names its key.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ray_robust.errors import Problem, UserError
from ray_robust.spec.yaml_lines import DEEPEST, Document
from ray_robust.text.names import lone_surrogate

SPEC = "spec"  # where errors in a dict are
PLAIN = (str, bool, int, float, type(None))


def document_of(spec: Mapping[str, Any], name: str = SPEC) -> Document:
    """Return a dict as a document without lines. Raise UserError with every value that no YAML file could hold."""
    problems: list[Problem] = []
    tree = _plain(spec, (), SPEC, problems)
    if problems:
        raise UserError(*problems)
    return Document(SPEC, name, tree)


def is_of_dict(document: Document) -> bool:
    """Return whether a document was a dict. A file may have the same name; it has lines."""
    return document.file == SPEC and not document.lines


def overrides_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `{"pretrain.epochs": 2}` as the texts `dotted.key=value` that `--set` takes. Raise UserError."""
    problems: list[Problem] = []
    texts = []
    for key, value in values.items():
        if not isinstance(key, str):
            problems.append(Problem("set", f"{key!r}: a key is text, e.g. 'pretrain.epochs'"))
            continue
        plain = _plain(value, (key,), "set", problems)
        if not problems:
            texts.append(f"{key}={_yaml(plain)}")
    if problems:
        raise UserError(*problems)
    return tuple(texts)


def _yaml(value: Any) -> str:
    """A value in one line of YAML, as a user would write it where it is a single one."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any, path: tuple, where: str, problems: list[Problem]) -> Any:
    """A value as YAML would give it; what it could not is added to `problems`."""
    at = ".".join(map(str, path))
    if len(path) > DEEPEST:
        problems.append(Problem(where, f"{at[:80]}: is nested more than {DEEPEST} levels deep"))
        return None
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        problems += [Problem(where, f"{at}{': ' if at else ''}the key {key!r} must be text") for key in odd]
        return {key: _plain(one, (*path, key), where, problems) for key, one in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(one, (*path, i), where, problems) for i, one in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif not isinstance(value, PLAIN) and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of numpy's
    if not isinstance(value, PLAIN):
        problems.append(Problem(where, f"{at}: {type(value).__name__} is no value of a spec; give text, a number, "
                                       "true or false, a list or a dict"))  # fmt: skip
        return None
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(where, f"{at}: {value} is no number"))
    if isinstance(value, str) and (half := lone_surrogate(value)):
        problems.append(Problem(where, f"{at}: {json.dumps(value)[:60]} holds {half}, half of a character"))
    return value
