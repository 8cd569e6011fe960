"""Samples in a tar of WebDataset: members that share a name up to its first dot, one of them the image.

No image is lost in silence: one that the rules give to no sample, or two of one sample, are an error; samples without
an image are counted.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ray_robust.data.images.files import LARGEST_FILE, SUFFIXES
from ray_robust.data.readers.shards import Columns, Unlistable, captions, named
from ray_robust.data.readers.tar import TarReader, members

LARGEST_TEXT = 16 << 20  # bytes of a member with a label or a caption
LACKING = "lacking"  # in `attrs` of a listing: the samples without an image


@dataclass(slots=True)
class _Sample:
    """at, size  of its image, bytes; -1 where there is none
    kind      what its image is called behind the first dot
    other     likewise, of a file that looks like one and is called otherwise
    texts     the contents of its label and caption, by what they are called"""

    at: int = -1
    size: int = 0
    kind: str = ""
    other: str = ""
    texts: dict[str, bytes] = field(default_factory=dict)


def list_tar(file: Any, columns: Columns) -> pd.DataFrame:
    """Return a row per sample with an image: key, at (where its image begins, bytes), size, label, caption; those
    without in `attrs[LACKING]`. Raises Unlistable."""
    if file.read(2) == b"\x1f\x8b":
        raise Unlistable("is compressed; images are read one by one, from a plain .tar")
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 1024))
    if end < 1024 or any(file.read(1024)):
        raise Unlistable("is cut short: it does not end as a tar file does")
    file.seek(0)
    samples: dict[str, _Sample] = {}
    wanted = {text.partition(".")[0] for text in (columns.label, columns.caption) if text}
    try:
        for archive, member in members(file):
            if not member.isdir():
                _take(samples, archive, member, columns.image, wanted)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise Unlistable(f"is no tar file, or a damaged one ({error})") from None
    images = {key: sample for key, sample in samples.items() if sample.at >= 0}
    if other := next(((key, s.other) for key, s in samples.items() if s.other and s.at < 0), None):
        what = f"sample {other[0]} has no image but .{other[1]}: a member's kind begins at the first dot of its name"
        raise Unlistable(f"{what}; set `image: {other[1]}`, or rename it")
    if not images:
        raise Unlistable(f"holds no images{f' *.{columns.image}' if columns.image else ''}")
    frame = pd.DataFrame([(key, s.at, s.size) for key, s in images.items()], columns=["key", "at", "size"])
    frame["label"] = named([_label(s, columns.label, key) for key, s in images.items()], columns)
    values = [_part(s, columns.caption, key) for key, s in images.items()]
    if columns.texts:
        frame["caption"] = captions(values, list(images), columns)
    else:
        frame["caption"] = [None if value is None else str(value) for value in values]
    frame.attrs[LACKING] = [key for key, sample in samples.items() if sample.at < 0]
    return frame


def _take(
    samples: dict[str, _Sample], archive: TarReader, member: tarfile.TarInfo, called: str | None, wanted: set[str]
) -> None:
    """Put what a member holds into its sample. Raises Unlistable for an image, a label or a caption that is there
    twice, or of which the tar has no bytes.

    called  what images are called; None: as image files are
    """
    key, kind = _split(member.name)
    image = _is_image(kind, called)
    if not key or key.endswith("/"):  # hidden, as those that a Mac puts beside each file
        return
    if not image and kind not in wanted:
        if called is None and _is_image(kind.rpartition(".")[2], None):
            samples.setdefault(key, _Sample()).other = kind
        return
    sample = samples.setdefault(key, _Sample())
    if image and sample.at >= 0 and sample.kind != kind:
        raise Unlistable(f"sample {key} has two images, .{sample.kind} and .{kind}; say by `image` which one counts")
    if kind in ((sample.kind,) if image else sample.texts):
        raise Unlistable(f"sample {key} has its .{kind} twice; pack the shard anew, or give the samples other names")
    if member.islnk():  # another name of a file that was there before
        there, of = _split(member.linkname)
        linked = samples.get(there, _Sample())
        if image and linked.at >= 0 and linked.kind == of:
            sample.at, sample.size, sample.kind = linked.at, linked.size, kind
            return
        if not image and of in linked.texts:
            sample.texts[kind] = linked.texts[of]
            return
    _check(member, LARGEST_FILE if image else LARGEST_TEXT)
    if image:
        sample.at, sample.size, sample.kind = member.offset_data, member.size, kind
    else:
        sample.texts[kind] = b"".join(archive.parts(member))


def _split(name: str) -> tuple[str, str]:
    """Return a member's sample and its kind: `a/0001.seg.png` is the `seg.png` of `a/0001`."""
    above, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return above + slash + stem, kind


def _is_image(kind: str, called: str | None) -> bool:
    return kind == called if called is not None else f".{kind.lower()}" in SUFFIXES


def _check(member: tarfile.TarInfo, most: int) -> None:
    if not member.isfile():
        if member.issym() or member.islnk():
            how = "pack the file itself, as `tar --dereference --hard-dereference` does"
            raise Unlistable(f"{member.name}: is a link, of which the tar holds no bytes; {how}")
        raise Unlistable(f"{member.name}: is a device or FIFO, not a file")
    if member.issparse():
        raise Unlistable(f"{member.name}: has holes: its bytes are not all in the tar; pack it without --sparse")
    if member.size > most:
        raise Unlistable(f"{member.name}: holds {member.size:,} bytes, more than the limit of {most:,}")


def _label(sample: _Sample, text: str | None, key: str) -> str | None:
    """Return a sample's label as text. Raises Unlistable where it has none."""
    value = _part(sample, text, key)
    if text is not None and value in (None, ""):
        raise Unlistable(f"sample {key} has no .{text}")
    return None if value is None else str(value)


def _part(sample: _Sample, text: str | None, key: str) -> Any:
    """Return what a sample has as its label or caption: text, or what of a JSON it is; None where it has nothing."""
    if text is None:
        return None
    kind, _, inside = text.partition(".")
    raw, value = sample.texts.get(kind), None
    try:
        value = raw.decode().strip() if raw is not None else None
        if inside and value is not None:
            value = json.loads(value).get(inside)
    except (ValueError, AttributeError):
        raise Unlistable(f"sample {key}: its .{kind} cannot be read") from None
    return value
