"""Results of `comparison` in the run folder: an entry of data.json with one line for people, a table and pictures.

`analysis.duplicates` reads them back.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ray_robust.data.duplicates.comparison import IDENTICAL, LABELS, Duplicates, Search, between, rule, skipped, within
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Pool
from ray_robust.run import shifts
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.run.run_folder import RunFolder
from ray_robust.text import safe_csv

TESTS = tuple(SCORE_SPLITS.values())
LISTED, PICTURED = 200, 8  # rows of a table that data.json repeats, pairs that are shown
TILE, GAP = 96, 6  # px of a picture's side, and between the two of a pair


def examine(
    run: RunFolder,
    tasks: Sequence[ImageStore],
    sources: Sequence[ImageStore],
    log: Callable[[str], None] = Search.log,
) -> Iterator[dict[str, Any]]:
    """Compare every pool with itself and every task with every source; write tables and pictures into the run folder
    and yield each comparison's entry of data.json. Stores must be filled; several of one pool are of several sizes.
    `log` is called with a line now and then while a long one goes on."""
    for kind, store in (*(("task", s) for s in _largest(tasks)), *(("source", s) for s in _largest(sources))):
        name = f"{kind} {store.pool.name}"
        yield entry(run, name, store, None) if skipped(store.pool) else entry(run, name, store, within(store, log))
    for task in _largest(tasks):
        for pool in {id(store.pool): store.pool for store in sources}.values():
            both = [
                (a, b) for a in tasks for b in sources if a.pool is task.pool and b.pool is pool and a.size == b.size
            ]
            if both:
                own, other = max(both, key=lambda pair: pair[0].size)
                name = f"task {task.pool.name} in source {pool.name}"
                compared = None if skipped(task.pool) or skipped(pool) else between(own, other, log)
                yield entry(run, name, own, compared, pool)


def renewed(
    run: RunFolder,
    tasks: Sequence[ImageStore],
    sources: Sequence[ImageStore],
    pools: Iterable[Pool],
    log: Callable[[str], None] = Search.log,
) -> list[dict[str, Any]]:
    """Return the entries of all comparisons: those that can be made with these stores, and earlier ones of the run
    whose pools are still in use (`pools`) but have nothing left to be read."""
    entries = {_key(one): one for one in examine(run, tasks, sources, log)}
    used = {pool.catalog.fingerprint for pool in pools}
    for old in run.data().get("duplicates", ()):
        if {old["pool"]["fingerprint"], old["among"]["fingerprint"]} <= used:
            entries.setdefault(_key(old), old)
    return list(entries.values())


def _key(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["name"], one["pool"]["fingerprint"], one["among"]["fingerprint"]


def _largest(stores: Sequence[ImageStore]) -> list[ImageStore]:
    best: dict[int, ImageStore] = {}
    for store in stores:
        if id(store.pool) not in best or best[id(store.pool)].size < store.size:
            best[id(store.pool)] = store
    return list(best.values())


def entry(
    run: RunFolder, name: str, store: ImageStore, compared: Duplicates | None, among: Pool | None = None
) -> dict[str, Any]:
    """Write one comparison into the run folder and return its entry of data.json; None: it was skipped."""
    pool, among = store.pool, among or store.pool
    head = {
        "name": name,
        "pool": {"name": pool.name, "fingerprint": pool.catalog.fingerprint},
        "among": {"name": among.name, "fingerprint": among.catalog.fingerprint},
    }
    if compared is None:
        return {**head, "skipped": "; ".join(filter(None, dict.fromkeys([skipped(pool), skipped(among)])))}
    table = named(compared)
    stem = f"duplicates/{_safe(name)}-{_safe(pool.catalog.fingerprint)[:8]}"
    counts = compared.counts
    head |= {
        "rule": rule(store.size),
        "note": compared.note,
        "images": compared.images,
        "affected": {split: int(own["image"].nunique()) for split, own in table.groupby("split", sort=False)},
        "counts": counts.to_dict("records"),
        "line": summary(compared),
    }
    if table.empty:
        return head
    run.write(f"{stem}.csv", safe_csv.text_of(table).encode())  # as bytes: names stay as they are
    return {**head, "file": f"{stem}.csv", "list": table.head(LISTED).to_dict("records"),
            "pictures": list(_pictures(run, stem, store, compared, table))}  # fmt: skip


def named(compared: Duplicates) -> pd.DataFrame:
    """Return the table with the images' keys in place of their rows."""
    table = compared.table
    return table.assign(
        image=compared.pool.keys(table["image"].to_numpy(np.int64)) if len(table) else [],
        other=compared.among.keys(table["other"].to_numpy(np.int64)) if len(table) else [],
        likeness=table["likeness"].round(3),
    )


def summary(compared: Duplicates) -> str:
    """Return the numbers and an example in one line, "" where nothing was found."""
    counts, table = compared.counts, named(compared)
    if table.empty:
        return ""
    clauses = []
    order = {split: i for i, split in enumerate((*TESTS, "ood_val", "id_val", "train", ""))}
    elsewhere = counts[counts["where"] != LABELS]
    groups = elsewhere.groupby(["split", "where"], sort=False)
    for (split, where), own in sorted(groups, key=lambda group: order.get(group[0][0], len(order))):
        total = int(own["images"].sum())
        be = "is" if total == 1 else "are"
        of = f"{total:,} of {compared.images[split]:,} {shifts.named(split)} images"
        clauses.append(f"{of} {be} also in {shifts.named(where)} ({_kinds(own)})")
    if len(two := counts[counts["where"] == LABELS]):
        total = int(two["images"].sum())
        what = "image is" if total == 1 else "images are"
        clauses.append(f"{total:,} {what} there under another label too ({_kinds(two)})")
    tested = table[table["split"].isin(TESTS)] if table["split"].isin(TESTS).any() else table
    first = tested.iloc[0]
    same = "equals" if first["kind"] == IDENTICAL else "is nearly"
    pair = f"{first['image']} ({first['label']}) {same} {first['other']} ({first['other_label']})"
    return f"{'; '.join(clauses)}; e.g. {pair}"


def _kinds(counts: pd.DataFrame) -> str:
    return ", ".join(f"{own['images'].sum():,} {kind}" for kind, own in counts.groupby("kind"))


def _pictures(
    run: RunFolder, stem: str, store: ImageStore, compared: Duplicates, table: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield pairs side by side, of each kind and place in turn."""
    turn = table.groupby(["split", "where", "kind"], sort=False).cumcount()
    shown = table.assign(turn=turn, test=~table["split"].isin(TESTS)).sort_values(["turn", "test"], kind="stable")
    other = ImageStore.open(store.root, compared.among, store.form)
    for number, index in enumerate(shown.index[:PICTURED], 1):
        rows = compared.table.loc[index]
        pair = np.concatenate([store.take(np.array([rows["image"]])), other.take(np.array([rows["other"]]))])
        file = f"{stem}-{number:02d}.png"
        run.write(file, _side_by_side(pair))
        yield {"file": file, **table.loc[index].to_dict()}


def _side_by_side(pair: np.ndarray) -> bytes:
    from PIL import Image  # late: a sweep without duplicates needs no pictures

    sheet = Image.new("RGB", (2 * TILE + GAP, TILE), (128, 128, 128))
    how = Image.Resampling.NEAREST if pair.shape[1] <= TILE // 2 else Image.Resampling.LANCZOS
    for i, image in enumerate(pair):
        sheet.paste(Image.fromarray(image).resize((TILE, TILE), how), (i * (TILE + GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
