"""How long images take to list: `python -m bench.listing [--rows N] [--files N] [--rounds N]`.

The task `folder` lists an index.csv of so many rows (a million) whose images are named in a zip archive: read, checked,
numbered and fingerprinted, and once more where every row but one names an image that is not there, which ends in a few
lines for all of them. Beside it pandas reads the same table and zipfile the same names: no listing can do without.
A tenth of the rows is listed as well: seconds per row that grow with the rows would show.

The source `folder` lists so many files in class folders of 200: for the first time, again by the listing that was
kept, and beside both one look at each file (`os.stat`), which no listing that sees every change can do without. Seconds
are of the processor. A listing is kept of folders that nothing has changed in for a minute, so that a minute is waited.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from bench import command_of, print_table, show, write_table
from ray_robust import registry
from ray_robust.data.images import files
from ray_robust.data.pool import SPLITS
from ray_robust.data.readers import listing_cache
from ray_robust.errors import UserError
from ray_robust.spec.load import parse_number

PER_CLASS = 200


def main(argv: list[str]) -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.listing", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=parse_number, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the tables are written (default: the temporary folder)")
    parser.add_argument("--files", type=parse_number, default=200_000, help="in class folders")
    parser.add_argument("--write", type=Path, help="put the table of the folder into this document")
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"rounds": args.rounds}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder) as folder:
        if args.rows:
            list_tables(Path(folder), args, found)
        if args.files:
            lines = list_folders(Path(folder), args, found)
            print_table(*lines[:1], lines[1:])
            if args.write:
                write_table(args.write, "listings", lines, command_of("bench.listing", argv))
    show((), (), found)


def list_tables(folder: Path, args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the table of tables."""
    sizes = {"": args.rows, "_tenth": args.rows // 10}
    seconds: dict[str, list[float]] = {f"{way}{size}": [] for way in ("plain", "listed", "refused") for size in sizes}
    for size, rows in sizes.items():
        make_table(folder / f"rows{size}", rows)
    for _ in range(args.rounds):
        for size in sizes:
            place = folder / f"rows{size}"
            for way, work in {"plain": read_plainly, "listed": listed, "refused": refused}.items():
                seconds[f"{way}{size}"].append(taken(work, place))
    found["rows"], rows = args.rows, []
    for way in ("listed", "refused"):
        pairs = zip(seconds[way], seconds["plain"], seconds[f"{way}_tenth"], strict=True)
        over = [(whole / plain, whole / tenth / 10) for whole, plain, tenth in pairs]
        found[f"{way}_over_plain"] = round(median(plain for plain, _ in over), 2)
        found[f"{way}_per_row_over_tenth"] = round(median(growth for _, growth in over), 2)
        rows.append((way, f"{median(seconds[way]):.1f} s", f"{found[f'{way}_over_plain']:.2f}",
                     f"{found[f'{way}_per_row_over_tenth']:.2f}"))  # fmt: skip
    print_table(("rows", "seconds", "over a plain read", "per row, over a tenth"), rows)


def list_folders(folder: Path, args: argparse.Namespace, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of folders."""
    tree, store = folder / "tree", folder / "store"
    for i in range(args.files):
        path = tree / f"n{i // PER_CLASS:08d}" / f"n{i // PER_CLASS:08d}_{i}.JPEG"
        if i % PER_CLASS == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%d" % i)
    time.sleep(listing_cache.SETTLED / 1e9)
    os.environ["RAY_ROBUST_STORE"] = str(store)
    cls = registry.find("source", "folder")

    def catalog() -> None:
        assert len(cls("bench", cls.Options(path=str(tree))).catalog) == args.files

    def look() -> None:
        for path, _, names in os.walk(tree):
            for name in names:
                os.stat(f"{path}/{name}")

    seconds: dict[str, list[float]] = {"one look at each file": [], "for the first time": [], "again": []}
    for _ in range(args.rounds):
        shutil.rmtree(store, ignore_errors=True)
        for way, work in zip(seconds, (look, catalog, catalog), strict=True):
            begun = time.process_time()
            work()
            seconds[way].append(time.process_time() - begun)
    first = seconds["for the first time"]
    rows = [("a folder of class folders is listed", "s of a core", "for a million", "over the first time")]
    for way, of in seconds.items():
        ratio = median(a / b for a, b in zip(of, first, strict=True))
        found[way] = round(ratio, 3)
        rows.append((way, f"{median(of):.2f}", f"{median(of) / args.files * 1e6:.1f}", f"{ratio:.2f}"))
    return rows


def make_table(folder: Path, rows: int) -> None:
    """index.csv, few.csv (the same rows) and archives with the images of all of them, and of one."""
    folder.mkdir(parents=True)
    number = pd.Series(np.arange(rows))
    frame = pd.DataFrame({
        "path": "a/" + number.astype(str) + ".jpg",
        "label": "c" + (number // len(SPLITS) % 1000).astype(str),
        "split": np.array(SPLITS)[number % len(SPLITS)],
    })  # fmt: skip
    frame.to_csv(folder / "index.csv", index=False)
    for name, paths in (("all.zip", frame["path"]), ("one.zip", frame["path"][:1])):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in paths:
                archive.writestr(path, b"")


def taken(work: Callable[[Path], None], folder: Path) -> float:
    """Seconds of it."""
    begun = time.perf_counter()
    work(folder)
    return time.perf_counter() - begun


def read_plainly(folder: Path) -> None:
    """The table and the archive's names, and whether each is there."""
    frame = pd.read_csv(folder / "index.csv", dtype=str)
    with zipfile.ZipFile(folder / "all.zip") as archive:
        assert frame["path"].isin(archive.namelist()).all()


def opened(folder: Path, archive: str) -> Any:
    """The task of that table and archive, not listed yet, its archive's names not read yet."""
    files._open_zip.cache_clear()
    cls = registry.find("task", "folder")
    return cls("bench", cls.Options(path=str(folder / "index.csv"), images=str(folder / archive)))


def listed(folder: Path) -> None:
    """As a spec's task."""
    assert len(opened(folder, "all.zip").catalog)


def refused(folder: Path) -> None:
    """As a spec's task whose images are not there."""
    with suppress(UserError):
        _ = opened(folder, "one.zip").catalog
        raise AssertionError("images that are not there were listed")


if __name__ == "__main__":
    main(sys.argv[1:])
