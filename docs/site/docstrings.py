"""The project's docstrings as Markdown: aligned lists of fields and arguments become lists.

labels   int32 [n], index into `classes`
classes  the class names,
         in a fixed order
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*) {2,}(\S.*)")


def as_markdown(text: str) -> str:
    """Return the docstring with every `name  meaning` and its indented further lines as an item of a list."""
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        if match := ENTRY.fullmatch(line):
            names = ", ".join(f"`{name}`" for name in match[1].split(", "))
            lines += [*([] if listing else [""]), f"- {names}: {match[2]}"]
            listing = True
        elif listing and line.startswith(" "):
            lines.append("    " + line.strip())
        else:
            lines += [*([""] if listing and line else []), line]
            listing = False
    return "\n".join(lines).strip("\n")


class AlignedLists(griffe.Extension):
    """Rewrites each docstring before mkdocstrings renders it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of a module, class, function or attribute that was read."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
