"""How fast, always as a ratio of two things measured side by side in one run: `python -m bench.<name>`."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_robust.errors import UserError


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], found: dict[str, Any]) -> None:
    """A table for people, then one JSON object in the last line."""
    print_table(columns, rows)
    print(json.dumps(found), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people."""
    from rich.table import Table

    from ray_robust.text.console import console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def write_table(
    path: Path, name: str, lines: Sequence[Sequence[str]], command: str = "", where: str | None = None
) -> None:
    """Put a Markdown table (header first) into a document, between the marks of that name; see `filled`. With a
    `command`, that made it, it is followed by that, and by when and where: here and now unless it is said."""
    rows = [f"| {' | '.join(line)} |" for line in (lines[0], ("---",) * len(lines[0]), *lines[1:])]
    if command:
        rows += ["", f"`python -m {command}`, {where or here_and_now()}"]
    path.write_text(filled(path.read_text("utf-8"), {name: "\n".join(rows)}), "utf-8")


def write_rows(path: Path, name: str, head: Sequence[str], rows: Sequence[Sequence[str]], order: Sequence[str]) -> None:
    """Put rows into the table of that name, each in the place of the one that it has the first cell of: so a long
    simulation is run in pieces. Rows of the same columns are kept, those that `order` does not name are dropped."""
    before = table_in(path, name)
    old = before[1:] if before and before[0] == list(head) else []
    by_name = {row[0]: row for row in [*old, *rows]}
    write_table(path, name, [head, *(by_name[one] for one in order if one in by_name)])


def table_in(path: Path, name: str) -> list[list[str]]:
    """The rows of the table between the marks of that name, header first; none where there is no table yet."""
    inside = path.read_text("utf-8").partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    lines = [line.strip().strip("|") for line in inside.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return rows[:1] + rows[2:]


def command_of(module: str, argv: Sequence[str]) -> str:
    """The command, as it is told in a document: without where it was to write, and where files lay meanwhile."""
    words = list(argv)
    for option in {"--write", "--folder", "--kept"} & set(words):
        del words[words.index(option) : words.index(option) + 2]
    return shlex.join([module, *words])


def here_and_now() -> str:
    """The day, this machine, and the versions of what the speed hangs on, in a line."""
    from ray_robust.prepare.provenance import processor

    card = sys.modules["torch"].cuda if "torch" in sys.modules else None
    place = f"{processor()} ({instruction_sets()}), {os.cpu_count()} cores"
    if card is not None and card.is_available():
        place += f", {card.get_device_name()}"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm", "ray") if _installed(name))
    return f"{datetime.now(UTC):%Y-%m-%d}: {place}, {versions}"


def instruction_sets() -> str:
    """What the processor computes with, as PyTorch and oneDNN may use it, and the precision that `auto` is there:
    `AVX-512, bf16`; without PyTorch the instructions that it has."""
    if "torch" not in sys.modules:
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
        return next((name for name in ("AVX512", "AVX2") if name.lower() in flags), "neither AVX-512 nor AVX2").replace(
            "AVX512", "AVX-512"
        )
    import torch

    from ray_robust.train.context import computes_in_bf16

    names = {"AVX512": "AVX-512", "DEFAULT": "neither AVX-512 nor AVX2"}
    capability = torch.backends.cpu.get_cpu_capability()
    precision = "bf16" if computes_in_bf16(torch.device("cpu")) else "float32"
    return f"{names.get(capability, capability)}, {precision}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def filled(text: str, pieces: Mapping[str, str]) -> str:
    """`text` with each piece between its marks, `<!-- name -->` and `<!-- /name -->`. Raises UserError for a piece that
    has none."""
    for name, piece in pieces.items():
        marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
        if not marks.search(text):
            raise UserError(f"the document has no place for {name}: <!-- {name} --> and <!-- /{name} -->")
        text = marks.sub(lambda found, piece=piece: f"{found[1]}{piece}\n{found[2]}", text)
    return text
