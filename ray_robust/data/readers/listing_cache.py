"""Listings of large folders, kept in the store's folder: made once, not by every command.

Kept is what follows from the names of files and folders, and from what the caller says besides. It holds as long as
every folder of the tree is the one that it was, with the same times: the kernel notes in them each file that is added,
removed, renamed or replaced. What is written into a file they do not show, so that files are looked at each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ray_robust.data
from ray_robust.data.images.files import Folder, Walk
from ray_robust.data.images.store import default_root
from ray_robust.data.pool import Catalog
from ray_robust.data.readers.file_pool import Listing
from ray_robust.errors import UserError
from ray_robust.files.storage import Storage

WORTH = 10_000  # images from which a listing is kept: fewer take a tenth of a second
SETTLED = 60_000_000_000  # ns that no folder has changed for: clocks of servers differ, and some note whole seconds
# file systems that note every change of a folder in its times; of others, such as mounted buckets, nothing is kept
NOTING = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "nfs", "nfs4", "lustre", "gpfs",
          "ceph", "beegfs"}  # fmt: skip
FOLDER = np.dtype([(name, "<i8") for name in ("device", "inode", "changed", "status_changed")])  # times in ns


def cached(folder: Folder, what: str, make: Callable[[Walk], Listing]) -> Listing:
    """Return the listing that `make` makes of a folder's files: as it was kept, where no folder of it has changed.

    what  all that decides it beside the names of files and folders and this package's code

    Raises what `make` does: a listing with errors is never kept.
    """
    code = _code()
    name = hashlib.blake2b("\0".join([folder.where, code, what]).encode(), digest_size=16).hexdigest()
    path = default_root() / "listings" / f"{name}.npz"
    if code and (kept := _kept(path, folder)) is not None:
        return kept
    begun = time.time_ns()
    walk = folder.walk()
    listing = make(walk)
    if code and len(listing.keys) >= WORTH and not walk.links:
        looked = _look(folder, walk.folders)  # after the walk: a change since would show as too recent
        if looked is not None and _holds_still(looked, begun):
            _keep(path, listing, walk.folders, looked)
    return listing


def _kept(path: Path, folder: Folder) -> Listing | None:
    """Return the listing of that file, if it holds and no image has gone; its files are looked at now."""
    try:
        with np.load(path, allow_pickle=False) as arrays:  # each one's checksum is verified
            looked = _look(folder, _texts(arrays["folders"]))
            if looked is None or not np.array_equal(looked, arrays["looked"]):
                return None
            facts: dict[str, Any] = {name[8:]: arrays[name] for name in arrays if name.startswith("catalog.")}
            texts = json.loads(str(arrays["facts"]))
            facts |= {key: tuple(value) if isinstance(value, list) else value for key, value in texts.items()}
            keys, digests = _texts(arrays["keys"]), arrays["key_digests"]
    except FileNotFoundError:
        return None
    except Exception:  # damaged, or another's: it is made again
        return None
    stamps = folder.stamps(keys)
    if (stamps["size"] < 0).any():
        return None  # `make` reports what is wrong
    return Listing(Catalog(**facts), pd.Series(keys, dtype="str", name="key"), folder, stamps, digests)


def _keep(path: Path, listing: Listing, folders: list[str], looked: np.ndarray) -> None:
    """Write a listing, whole or not at all; where it cannot be written the next command lists again."""
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for each in fields(Catalog):
        value = getattr(listing.catalog, each.name)
        if isinstance(value, np.ndarray):
            arrays[f"catalog.{each.name}"] = value
        elif isinstance(value, str | bool | tuple):
            facts[each.name] = value
        elif value is not None and (each.default_factory is MISSING or value != each.default_factory()):
            return  # of a hierarchy or a shift, which no folder has
    arrays |= {"folders": _joined(folders), "looked": looked, "keys": _joined(listing.keys.tolist()),
               "key_digests": listing.key_digests, "facts": np.array(json.dumps(facts))}  # fmt: skip
    data = io.BytesIO()
    np.savez(data, **arrays)
    with suppress(OSError, UserError):
        Storage(path.parent).write(path.name, data.getvalue(), durable=False)


def _look(folder: Folder, below: list[str]) -> np.ndarray | None:
    """Return FOLDER [1 + n] of a folder and those below it; None where one is not there, or its file system is none
    that notes every change of it."""
    systems, rows = _file_systems(), []
    try:
        for name in ("", *below):
            status = os.stat(f"{folder.where}/{name}")
            if not stat.S_ISDIR(status.st_mode) or systems.get(status.st_dev) not in NOTING:
                return None
            inode = status.st_ino & (1 << 63) - 1
            rows.append((status.st_dev, inode, status.st_mtime_ns, status.st_ctime_ns))
    except OSError:
        return None
    return np.array(rows, FOLDER)


def _holds_still(looked: np.ndarray, now: int) -> bool:
    return max(looked["changed"].max(), looked["status_changed"].max()) < now - SETTLED


def _file_systems() -> dict[int, str]:
    """Return the kind of each file system, by its device; nothing where the kernel has no such list."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    kinds = {}
    for line in lines:  # 36 35 98:0 /root /mount options - kind source options
        device, kind = line.split()[2], line.partition(" - ")[2].split()[0]
        kinds[os.makedev(*map(int, device.split(":")))] = kind
    return kinds


@lru_cache
def _code() -> str:
    """Return what stands for the code that lists; "" where its files are not there: nothing is kept then."""
    files = sorted(Path(next(iter(ray_robust.data.__path__))).rglob("*.py"))
    digest = hashlib.blake2b(pd.__version__.encode(), digest_size=16)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else ""


def _joined(texts: list[str]) -> np.ndarray:
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), np.uint8)  # names in other encodings


def _texts(joined: np.ndarray) -> list[str]:
    return joined.tobytes().decode(errors="surrogateescape").split("\0") if len(joined) else []
