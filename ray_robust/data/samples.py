"""Contact sheets and facts of a sweep's pools, for the report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Catalog, Pool, mix_bits, seed_of
from ray_robust.run.run_folder import RunFolder

COLUMNS, ROWS, TILE = 8, 3, 64  # of a sheet; the side of a picture in it, px


def describe(run: RunFolder, kind: str, store: ImageStore) -> dict[str, Any]:
    """Write the sheets of a pool into the run folder and return its entry of data.json."""
    pool, catalog = store.pool, store.pool.catalog
    if catalog.split is None:
        parts = {"images": np.arange(len(catalog))}
    else:
        parts = {part: catalog.rows(part) for part in catalog.parts}
    sheets, tiles = {}, {}
    for part, rows in parts.items():
        name = f"samples/{kind}-{safe(pool.name)}-{safe(part)}.png"
        picked = _pick(pool, rows, np.fromiter(store.broken, dtype=np.int64))
        if len(picked):
            store.fill(store.missing(picked))
            run.write(name, sheet_of(store.take(picked)))
            sheets[part], tiles[part] = name, tiles_of(catalog, picked)
    broken, shifts = store.broken, {**catalog.shifts, **getattr(pool, "corrupted_as", {})}
    reasons = zip(pool.keys(np.fromiter(broken, dtype=np.int64)) if broken else [], broken.values(), strict=True)
    return {
        **({"shifts": shifts} if shifts else {}),
        "kind": kind,
        "name": pool.name,
        "fingerprint": catalog.fingerprint,
        "identity": pool.identity,
        "licence": catalog.licence,
        "notes": list(catalog.notes),
        "warnings": list(pool.warnings),
        "images": len(catalog),
        "classes": len(catalog.classes),
        "groups": len(catalog.groups) - (len(catalog.shifts) if catalog.groups else 0),
        "splits": {} if catalog.split is None else {part: len(rows) for part, rows in parts.items()},
        "broken": [{"key": key, "reason": reason} for key, reason in reasons],
        "samples": sheets,
        "tiles": tiles,
    }


def _pick(pool: Pool, rows: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Return a sheet's worth of rows, the same ones every time, with groups side by side."""
    rows = np.setdiff1d(rows, np.concatenate([broken, pool.unmade(rows)]))
    ids = pool.catalog.ids[rows]
    rows = rows[np.argsort(mix_bits(ids, seed_of("sample", pool.name)), kind="stable")][: COLUMNS * ROWS]
    order = pool.catalog.group if pool.catalog.group is not None else pool.catalog.labels
    return rows[np.argsort(order[rows], kind="stable")]


def tiles_of(catalog: Catalog, rows: np.ndarray) -> dict[str, Any]:
    """Return what the pictures of a sheet show, by rows of it: how many stand in a row, what people call the class of
    each, and its group where the pool has groups."""
    names = (*catalog.called, "")  # the last is that of an image without a label, -1
    tiles: dict[str, Any] = {
        "columns": min(COLUMNS, len(rows)),
        "classes": [names[k] for k in catalog.labels[rows]],
    }
    if catalog.group is not None:
        tiles["groups"] = [catalog.groups[g] for g in catalog.group[rows]]
    return tiles


def sheet_of(images: np.ndarray) -> bytes:
    """Return PNG of uint8 [n, s, s, 3], at most COLUMNS in a row."""
    from PIL import Image

    columns = min(COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * (TILE + 2) - 2, -(-len(images) // columns) * (TILE + 2) - 2), (128, 128, 128))
    how = Image.Resampling.NEAREST if images.shape[1] <= TILE // 2 else Image.Resampling.LANCZOS
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        tile = Image.fromarray(image).resize((TILE, TILE), how)
        sheet.paste(tile, (column * (TILE + 2), row * (TILE + 2)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")  # `optimize` takes several times as long for half a percent fewer bytes
    return buffer.getvalue()


def safe(name: str) -> str:
    """Return a name as part of that of a file."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]
