"""A YAML file read with the line of every key, so that a mistake can be shown where it stands.

Owns what PyYAML gets wrong for people: `no` is text, not false; two equal keys are a mistake with both lines named;
`3e-4` stays text until a field says that it wants a number. Hands on `Document`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_robust.errors import Problem, UserError


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


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # YAML 1.1 would read 010 as eight


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


@dataclass
class Document:
    """A parsed file: `tree` (plain dicts, lists and scalars) and the line of every path in it."""

    file: str
    name: str  # the file's stem: the sweep's name
    tree: dict[str, Any]
    question: str = ""
    lines: dict[tuple, int] = field(default_factory=dict)
    overridden: dict[tuple, str] = field(default_factory=dict)

    def place(self, path: tuple) -> str:
        """`file:line` of a path, of the nearest path above it, or the `--set` that wrote it."""
        for written, text in self.overridden.items():
            if path and written[: len(path)] == path:
                return f"--set {text}"
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return f"--set {self.overridden[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return self.file

    def override(self, text: str) -> None:
        """Apply `dotted.key=value`; the value is read as YAML. Raises UserError when the text is no such thing."""
        dotted, equals, value = text.partition("=")
        path = tuple(part.strip() for part in dotted.split("."))
        if not equals or not all(path):
            raise UserError(Problem(f"--set {text}", "must be KEY=VALUE, e.g. pretrain.epochs=2"))
        tree = self.tree
        for key in path[:-1]:
            below = tree.get(key)
            if key == "baseline" and isinstance(below, str):
                below = {"name": below}
            tree[key] = below if isinstance(below, dict) else {}
            tree = tree[key]
        try:
            tree[path[-1]] = parse_scalar(value)
        except yaml.YAMLError as error:
            raise UserError(Problem(f"--set {text}", f"the value is no YAML: {_reason(error)}")) from None
        self.overridden[path] = text


def parse_scalar(text: str) -> Any:
    """A value as it would be read after a colon in the file."""
    return yaml.load(text, Loader=_Loader)


def parse(file: Path) -> Document:
    """Read a sweep's file. Raises UserError: absent, not text, no YAML, no mapping, or keys that stand twice."""
    shown = str(file)
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(Problem(shown, "no such file")) from None
    except IsADirectoryError:
        raise UserError(Problem(shown, "is a folder; give a sweep's YAML file")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(Problem(shown, f"cannot be read as UTF-8 text: {error}")) from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise UserError(Problem(where, f"no valid YAML: {_reason(error)}")) from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(Problem(shown, "must be a mapping of task, model, pretrain, ... at the top"))
    document = Document(shown, file.stem, {}, _question(text))
    problems: list[Problem] = []
    _walk(node, (), shown, document.lines, problems)
    if not problems:
        try:
            document.tree = loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problems.append(Problem(f"{shown}:{mark.line + 1}" if mark else shown, f"no valid YAML: {_reason(error)}"))
    if problems:
        raise UserError(*problems)
    return document


def _walk(node: yaml.Node, path: tuple, file: str, lines: dict[tuple, int], problems: list[Problem]) -> None:
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
                problems.append(Problem(f"{file}:{line}", f"{dotted}: stands twice, first in line {own[key.value]}"))
            own[key.value] = lines[here] = line
            _walk(value, here, file, lines, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), file, lines, problems)


def _question(text: str) -> str:
    """The line `# Question: ...` of the header comment, with its continuation lines."""
    match = re.search(r"^#\s*Question:\s*(.+(?:\n#\s{3,}\S.*)*)", text, re.MULTILINE)
    return " ".join(match.group(1).replace("\n#", " ").split()) if match else ""


def _reason(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
