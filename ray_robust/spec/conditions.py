"""Conditions on a mixture, as a spec writes them: `where: num_classes * images_per_class <= 100_000`.

The language: names of `pretrain`'s keys, `sources.NAME` (a source's share, 0-1), numbers (`100_000`, `64k`), text,
arithmetic, comparisons, `and`, `or`, `not`, `in`, and a few functions. An expression is parsed and walked here; nothing
of it is ever executed as Python.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ray_robust.errors import did_you_mean

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "log10": math.log10,
}
LONGEST = 500  # characters; a condition is a line
_SHORT_NUMBER = re.compile(r"(?<![\w.])(\d[\d_]*(?:\.\d+)?)([kM])\b")
_SCALE = {"k": "1000", "M": "1000000"}


class Undefined(Exception):
    """A condition has no answer for a mixture: it uses a number that the mixture does not give."""


@dataclass(frozen=True)
class Condition:
    """One condition, checked. Equal texts are equal conditions."""

    text: str
    names: tuple[str, ...]  # that it uses: `num_images`, `sources.species`

    def holds(self, mixture: Mapping[str, Any]) -> bool:
        """Return whether a mixture meets it. `mixture` has a value for each of `names`, as `namespace` makes them.

        Raise Undefined where a name has no number there, or the arithmetic has no result.
        """
        try:
            return bool(_value(_parsed(self.text), mixture))
        except TypeError:
            vague = [f"{n} is {mixture.get(n)}" for n in self.names if not isinstance(mixture.get(n), int | float)]
            raise Undefined(f"{', '.join(vague) or self.text}: there is no number to compare with") from None
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            raise Undefined(f"{self.text}: {error}") from None


def parse_condition(text: Any, keys: Iterable[str], sources: Iterable[str]) -> Condition:
    """Return the condition of a text. Raise ValueError with a message that says what is wrong and what would be right.

    keys     of `pretrain` that it may name
    sources  names of sources, for `sources.NAME`
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("must be a condition such as num_classes * images_per_class <= 100_000")
    if len(text) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters; write several conditions")
    try:
        tree = _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" near {text[max(0, (error.offset or 1) - 9) :].strip()!r}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{text!r} is no condition: it cannot be read{where}") from None
    names: list[str] = []
    _check(tree, text, tuple(keys), tuple(sources), names)
    if not isinstance(tree, ast.Compare | ast.BoolOp) and not (
        isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
    ):
        raise ValueError(f"{text!r} compares nothing; a condition has <=, <, ==, !=, >, >= or in")
    return Condition(text, tuple(dict.fromkeys(names)))


def namespace(values: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
    """Return the variables of conditions: the values of `pretrain`'s keys, and the shares of its sources.

    Of total, classes and images per class the third follows from two.
    """
    variables = dict(values) | {f"sources.{name}": share for name, share in shares.items()}
    total, classes, each = (variables.get(key) for key in ("num_images", "num_classes", "images_per_class"))
    if isinstance(classes, int) and classes > 0:
        if isinstance(total, int) and each is None:
            variables["images_per_class"] = total / classes
        elif isinstance(each, int) and not isinstance(total, int):
            variables["num_images"] = classes * each
    return variables


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.expr:
    plain = _SHORT_NUMBER.sub(lambda match: f"({match[1]} * {_SCALE[match[2]]})", text.strip())
    return ast.parse(plain, mode="eval").body


def _check(node: ast.AST, text: str, keys: tuple[str, ...], sources: tuple[str, ...], names: list[str]) -> None:
    """Raise ValueError at everything that is not in the language; collect the names."""
    if (source := _source(node)) is not None:
        if source not in sources:
            raise ValueError(f"no source {source!r} in {text!r}{did_you_mean(source, sources)}")
        names.append(f"sources.{source}")
        return
    if isinstance(node, ast.Name):
        if node.id not in keys:
            raise ValueError(f"unknown name {node.id} in {text!r}{did_you_mean(node.id, keys)}")
        names.append(node.id)
        return
    below: list[ast.AST]
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, int | float | str):
            raise ValueError(f"{node.value!r} in {text!r} is neither a number nor text")
        return
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        below = [node.left, *node.comparators]
    elif isinstance(node, ast.BoolOp):
        below = [*node.values]
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        below = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        below = [node.operand]
    elif isinstance(node, ast.List | ast.Tuple):
        below = [*node.elts]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and node.args:
        if node.func.id not in FUNCTIONS:
            raise ValueError(f"unknown function {node.func.id} in {text!r}{did_you_mean(node.func.id, FUNCTIONS)}")
        below = [*node.args]
    else:
        language = f"names, numbers, text, + - * / // %, comparisons, and, or, not, in, {', '.join(FUNCTIONS)}"
        raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not allowed: {language}")
    for part in below:
        _check(part, text, keys, sources, names)


def _source(node: ast.AST) -> str | None:
    """Return the name in `sources.NAME` or `sources["NAME"]`."""
    if not isinstance(node, ast.Attribute | ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    if node.value.id != "sources":
        return None
    if isinstance(node, ast.Attribute):
        return node.attr
    key = node.slice
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _value(node: ast.expr, mixture: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return mixture[node.id]
    if (source := _source(node)) is not None:
        return mixture.get(f"sources.{source}", 0.0)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, mixture), _value(node.right, mixture)
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise TypeError  # text times a number is no arithmetic here
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_value(node.operand, mixture))
    if isinstance(node, ast.BoolOp):
        each = (_value(part, mixture) for part in node.values)
        return all(each) if isinstance(node.op, ast.And) else any(each)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part, mixture) for part in node.elts]
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*(_value(part, mixture) for part in node.args))
    assert isinstance(node, ast.Compare)
    left = _value(node.left, mixture)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, mixture)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
