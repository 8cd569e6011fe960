"""From the archive of a wilds data set to the folder that the task reads: checked, unpacked, and complete or refused.

Owns the order: the file by which the wilds package knows a finished download is written last. Running it again goes
on where it stopped, and mends a folder in which files are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from ray_robust.data.readers.archive import Progress, check, unpack
from ray_robust.data.readers.target import Target
from ray_robust.data.tasks.official import DATASETS
from ray_robust.data.tasks.wilds import WildsTask
from ray_robust.errors import Problem, UserError

Bar = Callable[[str], AbstractContextManager[Progress]]  # a progress bar for the stage of that name


def install(task: WildsTask, archive: Path, bar: Bar, top: str = "") -> Iterator[str]:
    """Make the folder of `task` from `archive`, telling in lines what was done; `top` as in `unpack`.

    Raises UserError for half a copy, a wrong or a broken archive, and for images that are not the official ones.
    """
    if is_whole(task):
        yield f"archive      not needed: {task.folder} is complete"
        return
    published = DATASETS[task.dataset].archive
    with bar("checking") as progress:
        digest = check(archive, published, task.folder, progress)
    if published:
        yield f"archive      {published.size:,} bytes, sha256 as published"
    else:
        size = archive.stat().st_size
        yield f"archive      {size:,} bytes; no sha256 of it is known here, compare where it is from: {digest}"
    with bar("unpacking") as progress:
        written, present = unpack(archive, task.folder, progress, without=task.release.name, top=top)
    yield f"unpacked     {written + present:,} files to {task.folder}, {present:,} of them there before"
    with Target(task.folder) as target:  # a link of that name is not followed
        target.write(PurePosixPath(task.release.name), [])
    if (problem := _wrong(task)) is not None:
        task.release.unlink()
        raise UserError(problem)
    yield "splits       the official sizes, and every image is there"


def is_whole(task: WildsTask) -> bool:
    """Whether the folder of `task` was unpacked to the end and has every image of the official splits."""
    return task.release.exists() and _wrong(task) is None


def _wrong(task: WildsTask) -> Problem | None:
    """Return what is not official or not there in an unpacked folder."""
    fresh = WildsTask(task.name, task.options)  # a listing is made once
    try:
        total, lost = len(fresh.catalog), fresh.absent()
    except UserError as error:
        return error.problems[0]
    if difference := DATASETS[task.dataset].differs(fresh.image_counts):
        return Problem(str(task.folder), f"is not the official data set: {difference}")
    if lost:
        return Problem(str(task.folder), f"half a copy: {len(lost):,} of {total:,} images are missing ({lost[0]})")
    return None
