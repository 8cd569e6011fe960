"""Parse a YAML file with the line of every key, so that an error can name its line.

Corrects PyYAML where it surprises people: `no` is text, not false; two equal keys are an error that names both lines;
`3e-4` stays text until a field wants a number.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import Unreadable, read_file, without_content
from ray_robust.spec.validation_messages import LISTS
from ray_robust.spec.values import short_repr
from ray_robust.text.names import lone_surrogate


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 booleans: only true and false are."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    text = loader.construct_scalar(node)
    return int(text) if len(text) < 400 else text  # YAML 1.1 would read 010 as eight; Python refuses 5,000 digits


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)

MOST_BYTES = 8_000_000  # of a file: a sweep needs a few thousand
LONGEST = 100_000  # characters of one value
DIGITS = 300  # of a whole number: beyond, it is no number that can be computed with
DEEPEST = 30  # levels of nesting: a sweep needs six
MOST_NODES = 200_000  # values with every alias written out: a few hundred bytes of aliases can stand for billions


@dataclass
class Document:
    """A parsed file: `tree` (plain dicts, lists and scalars) and the line of every path in it."""

    file: str
    name: str  # the file's stem: the sweep's name
    tree: dict[str, Any]
    question: str = ""
    lines: dict[tuple, int] = field(default_factory=dict)
    overridden: dict[tuple, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)  # with which the file can still be read: keys given twice

    def location(self, path: tuple) -> str:
        """Return `file:line` of a path or of the nearest path above it, or the `--set` that wrote it; both where a
        `--set` changed something below it."""
        changed = ", ".join(_flag(text) for written, text in self.overridden.items() if _inside(path, written))
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return _flag(self.overridden[path[:length]])
            if path[:length] in self.lines:
                line = f"{self.file}:{self.lines[path[:length]]}"
                return f"{line} with {changed}" if changed else line
        return changed or self.file

    def override(self, text: str) -> None:
        """Apply `dotted.key=value`; the value is read as YAML. Raise UserError where the text is no such thing."""
        dotted, equals, value = text.partition("=")
        path = tuple(part.strip() for part in dotted.split("."))
        if not equals or not all(path):
            raise UserError(Problem(_flag(text), "must be KEY=VALUE, e.g. pretrain.epochs=2"))
        self.replace(path, read_value(value, _flag(text)), text)

    def replace(self, path: tuple, wanted: Any, text: str) -> None:
        """Put a value in the place of another; `text` is the `dotted.key=value` that errors name."""
        tree = self.tree
        for depth, key in enumerate(path[:-1], 1):
            tree[key] = _opened(path[:depth], tree.get(key), path[depth], text)
            tree = tree[key]
        if len(path) == 2 and path[1] != "grid" and set(tree) == {"grid"}:
            what = f"{path[0]} is a grid of whole sections, which takes no key; give it anew: --set {path[0]}={{...}}"
            raise UserError(Problem(_flag(text), what))
        tree[path[-1]] = wanted
        self.lines = {other: line for other, line in self.lines.items() if other[: len(path)] != path}
        self.overridden = {other: old for other, old in self.overridden.items() if other[: len(path)] != path}
        self.overridden[path] = text


SHORT_FORMS = {  # values that stand for a mapping: the key that they are the value of, "" where any other key says more
    ("baseline",): "name",
    ("pretrain", "label_noise"): "share",
    ("pretrain", "select"): "",
    ("pretrain", "dedupe"): "",
    ("model", "store"): "",
}


def _opened(path: tuple, below: Any, key: Any, text: str) -> dict:
    """What lies at `path` as the mapping that `--set` puts a key into: a short form is written out. Raise UserError
    where something else would go without a word."""
    if isinstance(below, dict):
        return below
    if below is None or key in LISTS:  # in place of the one value
        return {}
    if path in SHORT_FORMS:
        return {SHORT_FORMS[path]: below} if SHORT_FORMS[path] else {}
    if path[:-1] == ("pretrain", "sources"):
        return {"weight": below}
    dotted = ".".join(map(str, path))
    what = f"{dotted} is {short_repr(below)}, which has no keys; give the whole of it: --set {dotted}={{{key}: ...}}"
    raise UserError(Problem(_flag(text), what))


def read_value(text: str, where: str) -> Any:
    """Return the value of a YAML text on the command line. Raise UserError, at `where`, where it is invalid or too
    large."""
    try:
        return _read(text, "", {})
    except UserError as error:
        raise UserError(*(Problem(where, problem.what) for problem in error.problems)) from None


def _flag(text: str) -> str:
    return f"--set {text}" if len(text) <= 80 else f"--set {text[:77]}..."


def _inside(path: tuple, written: tuple) -> bool:
    return bool(path) and len(written) > len(path) and written[: len(path)] == path


def parse(file: Path) -> Document:
    """Read a sweep's file. Raise UserError where it is absent, not text, no YAML, no mapping, or has a key twice."""
    shown = str(file)
    try:
        data = read_file(file, MOST_BYTES)
    except FileNotFoundError:
        raise UserError(Problem(shown, "no such file")) from None
    except IsADirectoryError:
        raise UserError(Problem(shown, "is a folder; give a sweep's YAML file")) from None
    except Unreadable as error:
        raise UserError(Problem(shown, f"{error}; wanted: a sweep's YAML file")) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(Problem(shown, f"cannot be read: {getattr(error, 'strerror', None) or error}")) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        raise UserError(Problem(f"{shown}:{line}", what)) from None
    document = Document(shown, file.stem, {}, _question(text))
    tree = _read(text, shown, document.lines, document.problems)
    if not isinstance(tree, dict):
        raise UserError(Problem(shown, "must be a mapping of task, model, pretrain, ... at the top"))
    document.tree = tree
    return document


def _read(text: str, file: str, lines: dict[tuple, int], twice: list[Problem] | None = None) -> Any:
    """Return the value of a YAML text; fill in the line of every path in it. Raise UserError with every problem, but
    for keys that are given twice: those problems are added to `twice`, if it is given."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise UserError(_invalid(file, text, error)) from None
    except RecursionError:
        raise UserError(Problem(file, f"is nested more than {DEEPEST} levels deep")) from None
    if node is None:
        return None
    _check_size(node, file)
    problems: list[Problem] = []
    repeated: list[Problem] = []
    _walk(node, (), file, lines, problems, repeated)
    if problems or (repeated and twice is None):
        raise UserError(*repeated, *problems)
    if twice is not None:
        twice += repeated
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(_invalid(file, text, error)) from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # !!float, !!bool, !!timestamp before a text
        # that is none: PyYAML trusts tags
        what = without_content(error) if isinstance(error, ValueError) else "a tag (!!...) before a value that is none"
        raise UserError(Problem(file, f"no valid YAML: {what}")) from None


def _check_size(top: yaml.Node, file: str) -> None:
    """Refuse what could not be walked: an alias inside its own anchor, or far too much. Raise UserError."""
    count, stack = 0, [(top, 1, frozenset[int]())]
    while stack:
        node, depth, above = stack.pop()
        count += 1
        location = f"{file}:{node.start_mark.line + 1}"
        if id(node) in above:
            raise UserError(Problem(location, "an alias (*name) lies inside the value that it names"))
        if depth > DEEPEST:
            raise UserError(Problem(location, f"is nested more than {DEEPEST} levels deep"))
        if count > MOST_NODES:
            raise UserError(Problem(file, f"holds more than {MOST_NODES:,} values once its aliases are written out"))
        if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST:
            raise UserError(
                Problem(location, f"a value of {len(node.value):,} characters; at most {LONGEST:,} are possible")
            )
        if isinstance(node, yaml.CollectionNode):
            pairs = isinstance(node, yaml.MappingNode)
            below = itertools.chain.from_iterable(node.value) if pairs else node.value
            stack += [(part, depth + 1, above | {id(node)}) for part in below]


def _walk(
    node: yaml.Node, path: tuple, file: str, lines: dict[tuple, int], problems: list[Problem], twice: list[Problem]
) -> None:
    if isinstance(node, yaml.ScalarNode) and (half := lone_surrogate(node.value)):
        where = f"{file}:{node.start_mark.line + 1}"
        problems.append(
            Problem(where, f"{node.value[:60]!r} holds {half}, half of a character, which no file can keep")
        )
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int" and len(node.value) > DIGITS:
        what = f"a number of {len(node.value)} digits; at most {DIGITS} are possible"
        problems.append(Problem(f"{file}:{node.start_mark.line + 1}", what))
    if isinstance(node, yaml.MappingNode):
        own: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                problems.append(Problem(f"{file}:{line}", "a key must be plain text"))
                continue
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problems.append(Problem(f"{file}:{line}", f"the key {key.value} must be text; quote it"))
            here = (*path, key.value)
            if key.value in own:
                dotted = ".".join(here)
                twice.append(Problem(f"{file}:{line}", f"{dotted}: is given twice, first in line {own[key.value]}"))
            own[key.value] = lines[here] = line
            _walk(key, here, file, lines, problems, twice)
            _walk(value, here, file, lines, problems, twice)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), file, lines, problems, twice)


BEGUN = {  # what a problem of PyYAML is within -> what its first line lacks
    "while scanning a simple key": "a line without ': '; wanted: `key: value`",
    "while parsing a flow sequence": "a list that begins here with '[' does not go on with ',' or end with ']'{0}",
    "while parsing a flow mapping": "a mapping that begins here with '{{' does not go on with ',' or end with '}}'{0}",
    "while scanning a quoted scalar": "a quotation mark that opens here is never closed",
}
MISPLACED = {
    "mapping values are not allowed": "a ': ' inside a value; quote a text that holds one, or give each key a line of "
    "its own, indented like its neighbours",
}
UNEXPECTED = {  # the token that PyYAML finds where a mapping or list might go on -> what is wrong
    "}": "a '{}' that closes nothing",
    "]": "a '{}' that closes nothing",
    "-": "a list item among keys, or a key among list items",
    "block sequence start": "a list item among keys, or a key among list items",
    "": "the line is indented unlike its neighbours, or goes on behind a closing quotation mark or bracket",
}


def _question(text: str) -> str:
    """Return the line `# Question: ...` of the header comment, with its continuation lines."""
    match = re.search(r"^#\s*Question:\s*(.+(?:\n#\s{3,}\S.*)*)", text, re.MULTILINE)
    return " ".join(match.group(1).replace("\n#", " ").split()) if match else ""


def _invalid(file: str, text: str, error: yaml.YAMLError) -> Problem:
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if getattr(error, "context", None) in BEGUN:  # what lacks its end is wrong where it begins, not where it is missed
        mark = getattr(error, "context_mark", None) or mark
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if position is not None else None
    return Problem(f"{file}:{line}" if line else file, f"no valid YAML: {_reason(error)}")


def _reason(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    if "'\\t'" in problem:
        return "a tab where only spaces are allowed; indent with spaces"
    context = getattr(error, "context", None)
    if context in BEGUN and "document separator" not in problem:
        begin, end = (mark.line + 1 if (mark := getattr(error, of, None)) else 0
                      for of in ("context_mark", "problem_mark"))  # fmt: skip
        return BEGUN[context].format(f" (seen in line {end})" if end > begin else "")
    if part := next((start for start in MISPLACED if problem.startswith(start)), None):
        return MISPLACED[part]
    if problem.startswith("expected <block end>, but found '"):
        token = problem.split("'")[1]
        return UNEXPECTED.get(token, UNEXPECTED[""]).format(token)
    return f"{context}, {problem}" if context and problem.startswith("but ") else problem
