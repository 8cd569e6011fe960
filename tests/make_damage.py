"""What may befall a small file: emptied, cut, a bit flipped, of another type, a folder in its place, gone."""

from __future__ import annotations

from pathlib import Path

DAMAGES = ("empty", "cut", "flipped", "another type", "folder", "missing")


def make_damage(path: Path, how: str) -> None:
    """Do it to a file, which may be one that is not there."""
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir(parents=True)
    elif how != "missing":
        path.write_bytes(damaged(data, how))


def damaged(data: bytes, how: str) -> bytes:
    """These bytes as they would be after it."""
    if how == "empty":
        return b""
    if how == "cut":
        return data[: len(data) // 2]
    if how == "flipped":  # a digit where there is one, since a file of text stays one of text
        at = next((i for i in range(len(data) // 2, len(data)) if data[i : i + 1].isdigit()), len(data) // 2)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else b"\x01"
    return b'["other", 7]\n'
