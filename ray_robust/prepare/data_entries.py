"""data.json of a run: what every pool holds, and the images that are there more than once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Task
from ray_robust.plan.plan import pool_key, task_label
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.run.run_folder import RunFolder


def write_data_entries(
    sweep: Sweep, run: RunFolder, stores: list[ImageStore], log: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Write data.json; return a line for every pair of pools that share images. `log` is called with a line now and
    then while many images are compared.

    A pool of which no store was opened, since nothing is left to read of it, keeps the entry of an earlier command.
    """
    from ray_robust.data.duplicates.entries import renewed  # late: it needs Pillow, as does the next one
    from ray_robust.data.samples import describe

    earlier = {
        (entry.get("kind"), entry.get("name"), entry.get("fingerprint")): entry for entry in run.data().get("pools", ())
    }
    opened, called = {id(store.pool): store for store in stores}, _called(sweep)
    entries = []
    for kind, pool in sweep.pools():
        if id(pool) in opened:
            entries.append(describe(run, kind, opened[id(pool)]))
        elif (entry := earlier.get((kind, pool.name, pool.catalog.fingerprint))) is not None:
            entries.append(entry)
    for one in entries:
        one |= called.get(one["fingerprint"], {}) if one["kind"] == "task" else {}
    tasks, sources = (
        [store for store in stores if any(store.pool is pool for pool in pools.values())]
        for pools in (sweep.tasks, sweep.sources)
    )
    duplicates = renewed(run, tasks, sources, (pool for _, pool in sweep.pools()), log)
    for one in duplicates:
        names = called.get(one["pool"]["fingerprint"], {}).get("tasks")
        one |= {"tasks": names} if names and one["name"].startswith("task ") else {}
    run.write("data.json", json.dumps({"pools": entries, "duplicates": duplicates}, indent=1) + "\n")
    return [
        f"{entry['name']}: {entry['line']}; listed in data.json, and ER is also given without them"
        for entry in duplicates
        if entry.get("line")
    ]


def _called(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """By the fingerprint of each task's pool what results call it, since draws of one task have one name and may have
    as many images, and the fingerprint that it has without shifts, by which runs on the same images are known."""
    called: dict[str, dict[str, Any]] = {}
    for level in sweep.spec.tasks:
        pool = sweep.tasks[pool_key(level.section.name, level.section)]
        own = pool.without_shifts.catalog.fingerprint if isinstance(pool, Task) else pool.catalog.fingerprint
        entry = called.setdefault(pool.catalog.fingerprint, {"own": own, "tasks": []})
        entry["tasks"].append(task_label(level))
    return called
