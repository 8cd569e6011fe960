"""What the table of downloads says of a data set and of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HUB = "hub:"  # how a mirror begins that is a data set repository of the Hugging Face hub


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    name    on this disk; never taken from the server
    urls    mirrors, tried in order; `hub:OWNER/NAME` is the file with this sha256 in that repository of the hub,
            whatever it is called there. Without any, the user fetches it by hand
    size    bytes, where an exact number is published; nothing longer is ever written
    about   bytes, where only a rough number is published
    sha256, md5  hexadecimal digits, "" where none is published; "size", not a checksum, is compared then
    unpack  whether it is an archive; else it is copied as it is
    top     first folder of the archive's paths that is left out, besides one that is named as the target
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str = ""
    md5: str = ""
    about: int | None = None
    unpack: bool = True
    top: str = ""

    @property
    def strong(self) -> bool:
        """Whether the checksum is proof against somebody who alters the file on its way; MD5 is not."""
        return bool(self.sha256)

    @property
    def checked_by(self) -> str:
        """Return in words what a download is compared with."""
        if self.sha256 or self.md5:
            return "sha256" if self.sha256 else "md5"
        return "no checksum is published: " + ("size alone is checked" if self.size else "nothing can be compared")


@dataclass(frozen=True)
class DataSet:
    """One entry of the table.

    folder   where it lies below --root
    use      lines of YAML that read it; ROOT stands for that folder
    by_hand  how to obtain it where no mirror may be read by a program
    holds    files below each of these folders when it is complete
    unpacked bytes on disk afterwards; 0: about as many as the archives have
    task     the `wilds:` task that completes and checks it, "" for others
    note     what a user must know before using it
    """

    title: str
    licence: str
    cite: str
    folder: str
    files: tuple[RemoteFile, ...]
    use: tuple[str, ...] = ()
    by_hand: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)
    unpacked: int = 0
    task: str = ""
    note: str = ""

    @property
    def size(self) -> int | None:
        """Return the bytes to download, roughly where only that is published; None where nothing is."""
        sizes = [file.size or file.about for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)
