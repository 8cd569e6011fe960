"""What benches that simulate worlds have in common: their arguments, and the table with a row for each world."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench import print_table, show, write_rows


class Named(Protocol):
    """A world."""

    @property
    def name(self) -> str:
        """What its row begins with."""


def arguments(
    module: str, doc: str | None, count: str, default: int, worlds: Sequence[Named]
) -> argparse.ArgumentParser:
    """Return a parser of `--COUNT N`, of how much is simulated in each world, `--only`, `--processes`, `--write`."""
    parser = argparse.ArgumentParser(f"python -m {module}", description=(doc or "").splitlines()[0])
    parser.add_argument(f"--{count}", type=int, default=default)
    parser.add_argument("--only", action="append", choices=[world.name for world in worlds], help="these worlds")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", metavar="FILE", type=Path, help="put each row into the table there")
    return parser


def simulate_worlds(
    args: argparse.Namespace,
    table: str,
    head: Sequence[str],
    worlds: Sequence[Any],
    row_of: Callable[[Any, Callable[..., list]], tuple[Sequence[str], dict[str, float]]],
) -> dict[str, dict[str, float]]:
    """Print a table of the worlds that are asked for, each row and the document's as soon as it is there, then the JSON
    line; return its numbers. `row_of(world, map)` returns the cells after the world's name, and the numbers."""
    rows, numbers = [], {}
    with multiprocessing.Pool(args.processes) as pool:
        for world in (one for one in worlds if not args.only or one.name in args.only):
            cells, numbers[world.name] = row_of(world, pool.map)
            rows.append((world.name, *cells))
            print_table(head, rows[-1:])
            if args.write:
                write_rows(args.write, table, head, rows, [one.name for one in worlds])
    show(head, rows, numbers)
    return numbers
