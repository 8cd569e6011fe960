"""No module, function or list of arguments is longer than a reader can take in at once; the exceptions have reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_MODULE_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 400, 60, 8

# `file` or `file::function`, and why it is longer
EXCEPTIONS = {
    "bench/overhead/bare.py::bare_fit": "the loop that the product is compared with, as anyone would write it",
}


def too_long(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, what is too long) of a module and its functions; a method's first argument does not count."""
    if (lines := len(text.splitlines())) > MOST_MODULE_LINES:
        yield name, f"{lines} lines, at most {MOST_MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = f"{name}::{node.name}"
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES:
                yield own, f"{lines} lines, at most {MOST_FUNCTION_LINES}"
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if (count := len(names) - (names[:1] in (["self"], ["cls"]))) > MOST_ARGUMENTS:
                yield own, f"{count} arguments, at most {MOST_ARGUMENTS}"


@pytest.mark.parametrize("folder", ["ray_robust", "analysis", "bench", "tests"])
def test_modules_and_functions_are_short(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    long = [one for file in files for one in too_long(str(file.relative_to(ROOT)), file.read_text("utf-8"))]
    assert [f"{name}: {what}" for name, what in long if name not in EXCEPTIONS] == []


def test_what_is_too_long_is_seen():
    text = (
        "def f(self, a, b, c, d, e, f, g, h):\n" + "    pass\n" * 60 + "def g(a, b, c, d, e, f, g, h, i): ...\n" * 400
    )
    seen = [(name, what.partition(",")[0]) for name, what in too_long("x.py", text)]
    assert seen[:3] == [("x.py", "461 lines"), ("x.py::f", "61 lines"), ("x.py::g", "9 arguments")]


def test_every_exception_is_one():
    for name in EXCEPTIONS:
        path = name.partition("::")[0]
        assert name in dict(too_long(path, (ROOT / path).read_text("utf-8")))


def test_locals_are_named_for_what_they_hold():
    """`found`, `told` and `known` say how a value came, not what it is."""
    vague = re.compile(r"\b(?:found|told|known) =")
    files = [file for folder in ("ray_robust", "analysis") for file in (ROOT / folder).rglob("*.py")]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines() if vague.search(line)]
    assert lines == []
