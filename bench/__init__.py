"""How fast, always as a ratio of two things measured side by side in one run: `python -m bench.<name>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_robust.errors import UserError


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], found: dict[str, Any]) -> None:
    """A table for people, then one JSON object in the last line."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=120, highlight=False).print(table)
    print(json.dumps(found), flush=True)


def write_table(path: Path, name: str, lines: Sequence[Sequence[str]]) -> None:
    """Put a Markdown table (header first) into a document, between the marks of that name; see `filled`."""
    rows = (f"| {' | '.join(line)} |" for line in (lines[0], ("---",) * len(lines[0]), *lines[1:]))
    path.write_text(filled(path.read_text("utf-8"), {name: "\n".join(rows)}), "utf-8")


def filled(text: str, pieces: Mapping[str, str]) -> str:
    """`text` with each piece between its marks, `<!-- name -->` and `<!-- /name -->`. Raises UserError for a piece that
    has none."""
    for name, piece in pieces.items():
        marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
        if not marks.search(text):
            raise UserError(f"the document has no place for {name}: <!-- {name} --> and <!-- /{name} -->")
        text = marks.sub(lambda found, piece=piece: f"{found[1]}{piece}\n{found[2]}", text)
    return text
