"""data.json of a run: what every pool holds, and the images that are there more than once."""

from __future__ import annotations

import json

from ray_robust.data.images.store import ImageStore
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.run.run_folder import RunFolder


def write_data_entries(sweep: Sweep, run: RunFolder, stores: list[ImageStore]) -> list[str]:
    """Write data.json; return a line for every pair of pools that share images.

    A pool of which no store was opened, since nothing is left to read of it, keeps the entry of an earlier command.
    """
    from ray_robust.data.duplicates.entries import renewed  # late: it needs Pillow, as does the next one
    from ray_robust.data.samples import describe

    earlier = {
        (entry.get("kind"), entry.get("name"), entry.get("fingerprint")): entry for entry in run.data().get("pools", ())
    }
    opened = {id(store.pool): store for store in stores}
    entries = []
    for kind, pool in sweep.pools():
        if id(pool) in opened:
            entries.append(describe(run, kind, opened[id(pool)]))
        elif (entry := earlier.get((kind, pool.name, pool.catalog.fingerprint))) is not None:
            entries.append(entry)
    tasks, sources = (
        [store for store in stores if any(store.pool is pool for pool in pools.values())]
        for pools in (sweep.tasks, sweep.sources)
    )
    duplicates = renewed(run, tasks, sources, (pool for _, pool in sweep.pools()))
    run.write("data.json", json.dumps({"pools": entries, "duplicates": duplicates}, indent=1) + "\n")
    return [
        f"{entry['name']}: {entry['line']}; listed in data.json, and ER is also given without them"
        for entry in duplicates
        if entry.get("line")
    ]
