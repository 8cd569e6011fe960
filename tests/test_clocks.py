"""No test races a clock: nothing is asserted on elapsed time, a wait has the limit `deadlines.HANG` or none, and sleep
is for the time between two looks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
READINGS = {"time", "perf_counter", "monotonic", "process_time", "thread_time", "default_timer", "now", "utcnow"}
READINGS |= {f"{name}_ns" for name in READINGS}
ARITHMETIC = {"abs", "float", "int", "len", "max", "median", "min", "round", "sorted", "sum", "approx", "mean"}
LIMITS = {"timeout", "deadline"}
WAITS = {"acquire", "call", "check_call", "check_output", "communicate", "create_connection", "get", "join", "result",
         "run", "settings", "urlopen", "wait", "wait_for"}  # fmt: skip
BARE = {"acquire", "join", "result", "wait"}  # whose first argument may be the limit
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(node: ast.AST) -> str:
    """`wait` of `process.wait` and of `wait`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def timed(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression is a reading of a clock, or made of one. `names` are those of variables and functions that
    are. What another function makes of one is another matter."""
    if isinstance(node, ast.Lambda):
        return False
    if isinstance(node, ast.Call):
        if name_of(node.func) in names or (name_of(node.func) in READINGS and not node.args):
            return True
        return name_of(node.func) in ARITHMETIC and any(timed(part, names) for part in node.args)
    if isinstance(node, ast.Name):
        return node.id in names
    return any(timed(part, names) for part in ast.iter_child_nodes(node))


def readings(scope: ast.AST, known: set[str] = frozenset()) -> set[str]:
    """Names of variables that hold a reading of a clock, and of functions that return one; `known` do already."""
    names = set(known)
    while True:
        more = set(names)
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr) and timed(node.value, names):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                more |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            elif isinstance(node, Function):
                ends = (part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)
                more |= {node.name} if any(timed(value, names) for value in ends) else set()
        if more == names:
            return names
        names = more


def limits(call: ast.Call) -> Iterator[ast.expr]:
    """The limits in time that a call waits for something."""
    if name_of(call.func) in WAITS:
        yield from (word.value for word in call.keywords if word.arg in LIMITS)
    if name_of(call.func) in BARE and call.args and isinstance(getattr(call.args[0], "value", None), int | float):
        yield call.args[0]


def races(code: str) -> list[str]:
    """Where a test hangs on how fast something is: the line, and why."""
    tree = ast.parse(code)
    functions = {node.name for node in ast.walk(tree) if isinstance(node, Function)} & readings(tree)
    own = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]  # whose variables are theirs
    rest = ast.Module([node for node in tree.body if node not in own], [])
    found = [race for scope in (*own, rest) for race in _races(scope, readings(scope, functions))]
    return [f"{line}: {why}" for line, why in sorted(found)]


def _races(scope: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    polls = {id(node) for loop in ast.walk(scope) if isinstance(loop, ast.While) for node in ast.walk(loop)}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assert) and timed(node.test, names):
            yield node.lineno, "asserts on elapsed time: count the work (effort.py), or measure it in bench/"
        elif isinstance(node, ast.While) and timed(node.test, names):
            yield node.lineno, "has a deadline of its own: deadlines.wait_for"
        elif isinstance(node, ast.Call):
            if any(name_of(limit) != "HANG" and ast.unparse(limit) != "None" for limit in limits(node)):
                yield node.lineno, "waits for a limit of its own: deadlines.HANG"
            if name_of(node.func) == "sleep" and id(node) not in polls:
                yield node.lineno, "sleeps, and what then? deadlines.wait_for"


@pytest.mark.parametrize("file", sorted(HERE.glob("*.py")), ids=lambda file: file.name)
def test_no_test_races_a_clock(file):
    if file.name != "deadlines.py":
        assert races(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("begun = time.time()\nwork()\nassert time.time() - begun < 5", 3),
        ("begun = perf_counter()\nwork()\ntook = perf_counter() - begun\nassert took < seconds", 4),
        ("def took():\n  begun = time.process_time()\n  return time.process_time() - begun\nassert 9 / took() > 1", 4),
        ("times = [time.monotonic_ns() for _ in range(2)]\nassert max(times) - min(times) < 9", 2),
        ("assert (datetime.now() - begun).seconds < 3", 1),
        ("until = time.monotonic() + 60\nwhile not done() and time.monotonic() < until:\n  time.sleep(0.1)", 2),
        ("subprocess.run(command, timeout=5)", 1),
        ("LONG = 5\nsubprocess.run(command, timeout=LONG)", 2),
        ("thread.join(5)", 1),
        ("assert begun.wait(timeout=0.5)", 1),
        ("@settings(deadline=200)\ndef test(): pass", 1),
        ("start()\ntime.sleep(2)\nassert done()", 2),
    ],
)
def test_what_races_a_clock_is_found(code, line):
    (found,) = races(code)
    assert found.startswith(f"{line}: ")


@pytest.mark.parametrize(
    "code",
    [
        "folder.write({'time': time.time() - 300})\nassert folder.read() == 5",
        "begun = time.monotonic()\nclock['step'] = round(time.monotonic() - begun, 1)",
        "subprocess.run(command, timeout=HANG)\nassert begun.wait(deadlines.HANG)\nthread.join()\n','.join(names)",
        "while driver.poll() is None:\n  time.sleep(0.05)",
        "@settings(deadline=None)\ndef test(): pass",
        "connect(address, timeout=0.1)",  # a limit of the product, under test
        "def test(): begun = time.monotonic()\ndef other(): assert begun.wait()",
    ],
)
def test_what_races_no_clock_is_let_be(code):
    assert races(code) == []
