"""How fast, always as a ratio of two things measured side by side in one run: `python -m bench.<name>`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    """Put a Markdown table (header first) between `<!-- name -->` and `<!-- /name -->` of a document."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, _, rest = path.read_text("utf-8").partition(begin)
    if end not in rest:
        raise ValueError(f"{path} has no place for {name}: {begin.strip()} and {end}")
    rows = "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], ("---",) * len(lines[0]), *lines[1:]))
    path.write_text(head + begin + rows + end + rest.partition(end)[2], "utf-8")
