"""How the images of a sweep are stored where its spec leaves it open (`store: auto`): decoded where there is room.

Scores differ between the forms, so that the choice is part of what trials mean: it is made once, before a run begins,
and kept in its folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray_robust.data.images.form import Form, form_of
from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.pool import Pool
from ray_robust.data.published import StandIn
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Level, Spec
from ray_robust.spec.store import Store

FILE = "store.json"  # in the run folder, where compact was chosen
SHARE = 0.8  # of the free disk, and of the memory, that decoded images may take


@dataclass(frozen=True)
class StoredForm:
    """What was chosen for the models whose `store` is open, and a line on why where it is not what always was."""

    compact: bool = False
    why: str = ""


DECODED = StoredForm()


def recorded(run: RunFolder) -> StoredForm | None:
    """Return what a run began with; None for one that has yet to begin. Raises Damaged."""
    if (kept := run.storage.read_json(FILE, dict)) is not None:
        return StoredForm(True, str(kept.get("why", "")))
    return DECODED if run.exists("trials") else None


def record(run: RunFolder, form: StoredForm) -> None:
    """Keep what a run begins with."""
    if form.compact and recorded(run) is None:
        run.write(FILE, json.dumps({"store": "compact", "why": form.why}, indent=1) + "\n")


def choose(spec: Spec, pools: Sequence[Pool]) -> StoredForm:
    """Return how images are stored where the spec leaves it open: decoded where the disk of the store has room for what
    is yet to be decoded, and memory for all, or where all are decoded already; else compact."""
    forms = dict.fromkeys(form_of(level.section) for level in spec.models if level.section.store is None)
    wanted = [(pool, form) for pool in dict.fromkeys(pools) if not pool.rendered for form in forms]
    whole = sum(form.bytes_of(len(pool.catalog)) for pool, form in wanted)
    free, memory = _free_disk(default_root()), _memory()
    if whole <= SHARE * min(free, memory):
        return DECODED
    missing = sum(form.bytes_of(_missing(pool, form)) for pool, form in wanted)
    if not missing:
        return DECODED
    lacks = [
        f"{room / 1e9:,.0f} GB of {where}"
        for need, room, where in ((missing, free, "free disk"), (whole, memory, "memory"))
        if need > SHARE * room
    ]
    if not lacks:
        return DECODED
    why = f"{whole / 1e9:,.0f} GB of decoded images would not fit into {' and '.join(lacks)}"
    return StoredForm(True, f"{why} here; model.store settles it for every machine (raw: decoded all the same)")


def with_form(spec: Spec, form: StoredForm) -> Spec:
    """Return the spec with what was chosen."""
    if not form.compact:
        return spec
    levels = (
        Level(level.section.model_copy(update={"store": Store()}), level.axes) if level.section.store is None else level
        for level in spec.models
    )
    return replace(spec, models=tuple(levels))


def _missing(pool: Pool, form: Form) -> int:
    if isinstance(pool, StandIn) or len(pool.unread()):
        return len(pool.catalog)
    store = ImageStore(default_root(), pool, form)
    return len(store.missing()) if store.folder.is_dir() else store.n


def _memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory that this process may use: what the machine has, or less by the limit of a container or a job,
    which is that of its control group (v2, or v1 by the controller `memory`) or of one above it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines() if line.count(":") >= 2]
    except OSError:
        return whole
    limits = [whole]
    for _, controllers, path in lines:
        if "memory" in controllers.split(",") or not controllers:
            top, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            group = top / path.strip("/")
            for one in (group, *group.parents):
                if one.is_relative_to(top):
                    limits += _limit(one / name)
    return min(limits)


def _limit(file: Path) -> list[int]:
    """Return the bytes that a file of the kernel's limits memory to; none where there is no limit, or no such file."""
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):  # no such file, or "max"
        return []


def _free_disk(root: Path) -> int:
    return shutil.disk_usage(next(part for part in (root, *root.parents) if part.is_dir())).free
