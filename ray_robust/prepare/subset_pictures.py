"""Pictures of the OOD images on which better ID means worse OOD, in a run folder: for the report, which reads no pool.

Owns which are shown. What the images are is found by the analysis (`analysis.subsets.hidden`), by the names that the
predictions have.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import open_store
from ray_robust.data.pool import Pool
from ray_robust.plan.plan import pool_key
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.run.run_folder import RunFolder


def write_subset_pictures(sweep: Sweep, run: RunFolder, root: Path) -> None:
    """Write a sheet of such images for every task that has some, and its entry in data.json. `root` is that of the
    image stores."""
    from analysis.input.run_points import read_run  # late: pandas
    from analysis.subsets.hidden import hidden_subset

    table, options = read_run(run.storage.address)
    if table.interim is not None:
        return
    entries = {}
    pools = _pools(sweep)
    for task in dict.fromkeys(table.points["task"]):
        points = table.points.loc[table.points["task"] == task].reset_index(drop=True)
        subset = hidden_subset(table, points, options)
        if subset.found and task in pools:
            pool, size = pools[task]
            if (entry := _sheet(run, task, open_store(root, pool, size), list(subset.images["image"]))) is not None:
                entries[task] = entry
    data = run.data()
    if data.get("reversed", {}) != entries:
        run.write("data.json", json.dumps({**data, "reversed": entries}, indent=1) + "\n")


def _pools(sweep: Sweep) -> dict[str, tuple[Pool, int]]:
    """The pool of every task and the largest size that its images are trained at, by the name that its results have."""
    pools: dict[str, tuple[Pool, int]] = {}
    for trial in sweep.plan:
        for finetuning in trial.finetunings:
            pool = sweep.tasks[pool_key(finetuning.task.name, finetuning.task)]
            size = max(trial.model.image_size, pools.get(finetuning.task_label, (pool, 0))[1])
            pools[finetuning.task_label] = pool, size
    return pools


def _sheet(run: RunFolder, task: str, store: ImageStore, names: list[str]) -> dict[str, object] | None:
    from ray_robust.data import samples  # late: it needs Pillow

    catalog = store.pool.catalog
    rows = catalog.rows("ood_test")
    place = dict(zip(store.pool.keys(rows), rows, strict=True))
    shown = names[: samples.COLUMNS * samples.ROWS]
    if not set(shown) <= set(place):  # of other images than the run was made of
        return None
    picked = np.array([place[name] for name in shown])
    store.fill(store.missing(picked))
    file = f"samples/reversed-{samples.safe(task)}.png"
    run.write(file, samples.sheet_of(store.take(picked)))
    return {"file": file, "images": shown, "tiles": samples.tiles_of(catalog, picked)}
