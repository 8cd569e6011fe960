"""CIFAR's batches, python or binary, in a folder or in the tar.gz that they come in: labels and pixels of a part.

Owns finding them and what is wrong with them. The python version is pickles, which are read by `array_pickle`: nothing
that they ask for is run. Source of the formats: www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from ray_robust.data.images.files import Stamp, settled, stamp_at
from ray_robust.data.readers import array_pickle
from ray_robust.data.readers.archive import BROKEN
from ray_robust.data.readers.tar import members
from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import Unreadable, read_file, without_content

PIXELS = 3 * 32 * 32  # bytes of an image: red, green and blue, each by rows
LARGEST_TAR = 1 << 30  # bytes that an archive may unpack to: a published one has 186 MB


@dataclass(frozen=True, eq=False)
class Form:
    """One of the versions that a set is published in.

    folder   as it is unpacked
    archive  as it is downloaded
    files    by part, in their order
    """

    folder: str
    archive: str
    files: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Layout:
    """A set's versions, and what is in each file. `labels`: the python version's keys, in the order of the binary one's
    bytes; `counts`: images of a file, by part."""

    name: str
    forms: tuple[Form, ...]
    labels: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Place:
    """Where the batches are: the folder, or with `packed` the archive."""

    path: Path
    form: Form
    packed: bool = False

    def file(self, part: str, number: int) -> Path:
        """Return the file on this disk that a batch lies in."""
        return self.path if self.packed else self.path / self.form.files[part][number]


@dataclass(frozen=True)
class Batch:
    """`labels` uint8 [n, columns], `pixels` uint8 [n, PIXELS], and how the file was when they were read."""

    labels: np.ndarray
    pixels: np.ndarray
    stamp: Stamp


class Wrong(Exception):
    """What is wrong with a file, in one line."""


def find_place(root: Path, layout: Layout) -> Place | None:
    """Return where the set lies in `root`: the folder of its batches, the one that holds it, or an archive. Of several
    versions that with most files."""
    if root.is_file():
        return Place(root, _form_in(root, layout), packed=True)
    folders = [(folder, form) for form in layout.forms for folder in (root, root / form.folder)]
    counted = [(sum((folder / n).is_file() for ns in form.files.values() for n in ns), folder, form)
               for folder, form in folders]  # fmt: skip
    most = max(count for count, _, _ in counted)
    if most:
        return next(Place(folder, form) for count, folder, form in counted if count == most)
    packed = (root / form.archive for form in layout.forms)
    return next((find_place(archive, layout) for archive in packed if archive.is_file()), None)


def read_part(place: Place, layout: Layout, part: str) -> tuple[dict[int, Batch], list[Problem]]:
    """Return the batches of a part by their numbers, and what is wrong with the others."""
    batches: dict[int, Batch] = {}
    problems: list[Problem] = []
    names = place.form.files[part]
    for number, data, stamp in _contents(place, part):
        try:
            labels, pixels = _parsed(data, place.form, layout)
            if len(labels) > (most := layout.counts[part]):
                raise Wrong(f"holds {len(labels):,} images, not {most:,}: not {layout.name}")
            batches[number] = Batch(labels, pixels, stamp)
        except (Wrong, array_pickle.Refused) as error:
            where = f"{place.path}/{names[number]}" if not place.packed else f"{place.path}: {names[number]}"
            problems.append(Problem(where, str(error)))
    return batches, problems


@lru_cache(maxsize=2)
def pixels_of(place: Place, layout: Layout, part: str, stamps: tuple[tuple[int, Stamp], ...]) -> dict[int, np.ndarray]:
    """Return the pixels of a part by batch, as they are while the files have these stamps; kept for the next images.
    Raises UserError where they have others."""
    batches, problems = read_part(place, layout, part)
    for number, stamp in stamps:
        if number not in batches or batches[number].stamp != stamp:
            what = "has changed since it was listed; run the same command again"
            raise UserError(*problems or [Problem(str(place.file(part, number)), what)])
    return {number: batch.pixels for number, batch in batches.items()}


def _contents(place: Place, part: str) -> Iterator[tuple[int, bytes, Stamp]]:
    """Yield number, bytes and stamp of every batch of a part that is there. Raises UserError."""
    names = place.form.files[part]
    if not place.packed:
        for number, name in enumerate(names):
            path = place.path / name
            if path.exists():
                try:
                    stamp = settled(lambda: stamp_at(str(path)))  # noqa: B023  # called at once
                    yield number, read_file(path, array_pickle.LARGEST), stamp
                except (Unreadable, OSError) as error:
                    raise UserError(Problem(str(path), _reason(error))) from None
        return
    stamp, wanted = settled(lambda: stamp_at(str(place.path))), dict(zip(names, range(len(names)), strict=True))
    for name, data in _unpacked(place.path, frozenset(wanted)):
        yield wanted.pop(name), data, stamp
        if not wanted:
            return


def _unpacked(archive: Path, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """Yield those regular files of a tar whose own names are wanted; with none wanted, every file's name. Raises
    UserError for what is no tar, and for one that unpacks to more than LARGEST_TAR."""
    seen: set[str] = set()
    total = 0
    try:
        with open(archive, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            for tar, member in members(gzip.GzipFile(fileobj=raw) if packed else raw):
                total += member.size
                if total > LARGEST_TAR or member.issparse():
                    raise UserError(Problem(str(archive), f"unpacks to more than {LARGEST_TAR:,} bytes: not CIFAR"))
                name = PurePosixPath(member.name).name
                if not member.isreg() or name in seen or (wanted and name not in wanted):
                    continue
                seen.add(name)
                if wanted and member.size > array_pickle.LARGEST:
                    raise UserError(Problem(f"{archive}: {name}", f"is {member.size:,} bytes long: not CIFAR's"))
                yield name, b"".join(tar.parts(member)) if wanted else b""
    except BROKEN as error:
        what = f"breaks off, is damaged, or no tar.gz ({without_content(error)[:80]}); copy it again"
        raise UserError(Problem(str(archive), what)) from None
    except OSError as error:
        raise UserError(Problem(str(archive), _reason(error))) from None


def _form_in(archive: Path, layout: Layout) -> Form:
    """Return the version that an archive holds, by its own name or by the first batch in it. Raises UserError."""
    for form in layout.forms:
        if archive.name == form.archive:
            return form
    form_of = {name: form for form in layout.forms for names in form.files.values() for name in names}
    for name, _ in _unpacked(archive, frozenset()):
        if name in form_of:
            return form_of[name]
    raise UserError(Problem(str(archive), f"holds no batches of {layout.name}"))


def _parsed(data: bytes, form: Form, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and pixels of a batch. Raises Wrong or array_pickle.Refused."""
    columns = len(layout.labels)
    if next(iter(form.files.values()))[0].endswith(".bin"):
        width = columns + PIXELS
        if not data or len(data) % width:
            raise Wrong(f"is {len(data):,} bytes long, no multiple of the {width:,} of an image: a half copy, or not "
                        f"{layout.name}; copy it again")  # fmt: skip
        rows = np.frombuffer(data, np.uint8).reshape(-1, width)
        return rows[:, :columns], rows[:, columns:]
    held = array_pickle.load(data)
    if not isinstance(held, dict):
        raise Wrong(f"holds no mapping with the keys data, {', '.join(layout.labels)}")
    by_name = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in held.items()}
    if lacking := [key for key in ("data", *layout.labels) if key not in by_name]:
        raise Wrong(f"has no {lacking[0]!r}, so it is no batch of {layout.name}")
    pixels = array_pickle.array_of(by_name["data"])
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise Wrong(f"its 'data' is no array of so many times {PIXELS:,} bytes")
    labels = [array_pickle.array_of(by_name[key]) for key in layout.labels]
    if any(one is None or one.shape != (len(pixels),) for one in labels):
        raise Wrong(f"has not a label for each of its {len(pixels):,} images")
    both = np.stack([one for one in labels if one is not None], axis=1)
    if len(both) and (both.min() < 0 or both.max() > 255):
        raise Wrong(f"has the label {int(both.min() if both.min() < 0 else both.max())}")
    return both.astype(np.uint8), pixels


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return f"cannot be read: {strerror}" if strerror else str(error)
