"""Checksums that show whether a file is as it was written.

`Entry` is the row count, size, time and checksum of one file; `defect` compares a file with it, by size and time first
and by the checksum once the time differs; `seal` and `unseal` handle JSON that ends with the checksum of the text
before it.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import astuple, dataclass
from typing import Any

from ray_robust.files.storage import Stamp, Storage

CHECKSUM = "checksum"
SIZE = 12  # bytes of a checksum


def checksum(data: bytes) -> str:
    """24 hexadecimal digits that stand for these bytes: BLAKE2b (RFC 7693), 96 bits."""
    return hashlib.blake2b(data, digest_size=SIZE).hexdigest()


@dataclass(frozen=True)
class Entry:
    """What is kept of a file: rows (None where it has none), bytes, nanoseconds since the epoch of its last write, and
    its checksum."""

    rows: int | None
    size: int
    time: int
    checksum: str

    @classmethod
    def of(cls, storage: Storage, name: str) -> Entry | None:
        """Return the entry of a file as it is now; None where there is none."""
        stamp = storage.stamp(name)
        data = None if stamp is None else storage.read(name)
        if stamp is None or data is None:
            return None
        return cls(_rows(name, data), len(data), stamp[1], checksum(data))

    @classmethod
    def read(cls, value: Any) -> Entry | None:
        """Return the entry that `listed` was made of; None where it is none."""
        try:
            rows, size, time, digest = value
        except (TypeError, ValueError):
            return None
        sound = isinstance(size, int) and isinstance(time, int) and isinstance(digest, str)
        return cls(rows, size, time, digest) if sound else None

    def listed(self) -> list[Any]:
        """Return the entry as JSON."""
        return list(astuple(self))


def defect(storage: Storage, name: str, value: list[Any], stamp: Stamp | None) -> str:
    """Return in what way a file with that stamp is not the one of an entry (as `listed`), "" where it is."""
    if stamp is not None and stamp[0] == value[1] and stamp[1] == value[2]:
        return ""
    entry = Entry.read(value)
    if entry is None:
        return "cannot be compared: what was kept of it is damaged"
    if stamp is None:
        return "is a folder, where a file belongs" if storage.exists(name) else "is missing"
    if stamp[0] != entry.size:
        rows = "" if entry.rows is None else f" ({entry.rows:,} rows)"
        return "is empty" if not stamp[0] else f"has {stamp[0]:,} bytes and was left with {entry.size:,}{rows}"
    data = storage.recall(name)
    if data is None:
        return "cannot be read"
    return "" if checksum(data) == entry.checksum else "was altered: its checksum is another"


def seal(value: dict[str, Any]) -> bytes:
    """Return the value as readable JSON that ends with a checksum of the text before it. Not redacted here: a checksum
    below the name of a file such as `source-password.csv` is no password, and would never be the right one again."""
    text = json.dumps(value, indent=1, allow_nan=False)
    head = text.rstrip().removesuffix("}").rstrip() + ",\n"
    return f'{head} "{CHECKSUM}": "{checksum(head.encode())}"\n}}\n'.encode()


def unseal(data: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Return the value of sealed JSON, and True; of JSON without a seal its value, and False. (None, False) where the
    text was altered or is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(value, dict):
        return None, False
    sealed = value.pop(CHECKSUM, None)
    if sealed is None:
        return value, False
    head = data[: data.rfind(f' "{CHECKSUM}":'.encode())]
    return (value, True) if sealed == checksum(head) else (None, False)


def _rows(name: str, data: bytes) -> int | None:
    if name.endswith(".jsonl"):
        return data.count(b"\n")
    if name.endswith(".parquet"):
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(io.BytesIO(data)).num_rows)
    return None
