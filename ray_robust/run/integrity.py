"""Whether every file of a run is as it was written: each is compared with its checksum, by content.

A sweep that goes on trusts sizes and times first (`TrialFolder.damage`) and never reads what nobody needs again. Here
everything is read: `inspect` says which files are others, which are gone, and of which no checksum was kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_robust.files.storage import Storage
from ray_robust.run.checksums import Entry, checksum, unseal
from ray_robust.run.earlier_attempt import FILE as EARLIER
from ray_robust.run.lease import FILE as LEASE
from ray_robust.run.run_folder import CHECKSUMS, RunFolder
from ray_robust.run.sweep_progress import FILE as PROGRESS

ALTERED = "was altered since it was written"
MISSING = "is missing"
DAMAGED = "was altered since it was written, or is damaged"  # of a file that holds its own checksum
OWN = ("done", "failed.json", "stopped.json", EARLIER)  # of a trial, that hold their own
LIVE = (".lock", LEASE, PROGRESS)  # of a run while its sweep runs


@dataclass(frozen=True)
class Inspection:
    """What was seen of the files of a run.

    altered    what is wrong, by name
    whole      names of files that are as they were written
    unproved   names of files of which no checksum was kept
    """

    altered: Mapping[str, str]
    whole: tuple[str, ...]
    unproved: tuple[str, ...]


def inspect(run: RunFolder, beside: str) -> Inspection:
    """Return how all files of a run are, but those of its folder `beside`, which is the report's."""
    states = dict(_of_run(run))
    for name in run.storage.names("trials"):
        for file, what in _of_trial(run.storage / f"trials/{name}"):  # one that two speak for is as the worse says
            states[f"trials/{name}/{file}"] = states.get(f"trials/{name}/{file}") or what
    there = [name for name in run.storage.files() if not name.startswith(f"{beside}/") and name not in LIVE]
    return Inspection(
        {name: what for name, what in states.items() if what},
        tuple(name for name, what in states.items() if not what),
        tuple(name for name in there if name not in states),
    )


def _of_run(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield the run's own files with what is wrong with them, "" where nothing is."""
    checksums = run.checksums()
    if run.storage.exists(CHECKSUMS):
        yield CHECKSUMS, "" if checksums else DAMAGED
    yield from ((name, run.defect(name, kept)) for name, kept in checksums.items())


def _of_trial(folder: Storage) -> Iterator[tuple[str, str]]:
    """Yield likewise the files of one trial: those that hold their own checksum, and those that they speak for."""
    sealed = [*OWN, *(f"finetunings/{name}" for name in folder.names("finetunings"))]
    for name in sealed:
        data = folder.recall(name)
        if data is None:
            continue
        value, own = unseal(data)
        if own or value is None or "files" in value:  # an earlier version's holds no checksum
            yield name, "" if own else DAMAGED
        for kind in ("files", "records"):
            listed = (value or {}).get(kind)
            for file, entry in (listed if isinstance(listed, dict) else {}).items():
                yield file, _difference(folder, file, entry)


def _difference(folder: Storage, name: str, listed: Any) -> str:
    """Return in what way the content of a file is not that of an entry."""
    entry, data = Entry.read(listed), folder.recall(name)
    if data is None:
        return MISSING
    return "" if entry is not None and checksum(data) == entry.checksum else ALTERED
