"""Reading the files of pools that nobody has read yet: what they contain is part of what trials are named by."""

from __future__ import annotations

import contextlib

from rich.console import Console

from ray_robust.data.images.form import form_of
from ray_robust.launch.cluster.connect import Cluster
from ray_robust.launch.ingest.ingest import read_files
from ray_robust.launch.monitor.image_progress import image_progress
from ray_robust.prepare.open_sweep import Sweep


def read_pool_files(sweep: Sweep, address: str | None, out: Console, stack: contextlib.ExitStack) -> Cluster | None:
    """Read, hash and decode the files of every pool that has unread ones; return the cluster that did it, if any."""
    pools = list({id(pool): pool for pool in sweep.unread()}.values())
    for pool in pools:
        out.print(f"{pool.name}: reads {len(pool.unread()):,} of {len(pool.catalog):,} files, which are new or were "
                  "touched since", markup=False, soft_wrap=True)  # fmt: skip
    forms = dict.fromkeys(form_of(level.section) for level in sweep.spec.models)
    with image_progress(out) as progress:
        return read_files([(pool, form, None) for pool in pools for form in forms], address, stack, progress)
