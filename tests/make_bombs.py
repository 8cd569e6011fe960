"""Small files that claim or unpack to far more than they hold, and a child process that may take little memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
_LIMITED = """
import resource, sys
import numpy, pandas, PIL.Image, simplejpeg  # their own memory does not count
{imports}
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {more}, taken + {more}))
{code}
"""


def limited(code: str, *arguments: object, imports: str = "", more: int = 600 << 20) -> subprocess.CompletedProcess:
    """Run `code` (with `arguments` as sys.argv[1:]) in a process that may take `more` bytes besides its modules."""
    text = _LIMITED.format(imports=imports, more=more, code=code)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env={**os.environ, **environment}, cwd=ROOT)  # fmt: skip


def zeros(size: int) -> bytes:
    """A zlib stream of that many zeros, made without holding them."""
    packer, parts, block = zlib.compressobj(9), [], bytes(1 << 20)
    for _ in range(size >> 20):
        parts.append(packer.compress(block))
    return b"".join([*parts, packer.compress(bytes(size % (1 << 20))), packer.flush()])


def png(wide: int, high: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """A sound PNG of zeros: colour 0 grey, 2 RGB, 6 RGBA; a few bytes for a thousand pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = wide.to_bytes(4, "big") + high.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    line = wide * {0: 1, 2: 3, 6: 4}[colour] * depth // 8 + 1
    packed = zeros(line * high)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(wide: int, high: int, mode: str) -> bytes:
    """A deflated TIFF of zeros."""
    file = io.BytesIO()
    Image.new(mode, (wide, high)).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


def sparse_tar(file: Path, name: str, claimed: int) -> Path:
    """A tar of 10 kB in the old GNU format, whose one file has a hole of `claimed` bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    number = (1 << 95 | claimed).to_bytes(12, "big")  # base 256, as GNU tar writes what 11 octal digits cannot
    header[386:398], header[398:410] = number, b"%011o\0" % 0  # one block: at `claimed`, of no bytes
    header[483:495] = number
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    file.write_bytes(bytes(header) + bytes(10240 - 512))
    return file


def tar_of_zeros(file: Path, name: str, size: int, kind: str) -> Path:
    """A compressed tar with one file of zeros."""

    class Zeros(io.RawIOBase):
        left = size

        def read(self, wanted: int = -1) -> bytes:
            part = bytes(min(self.left, wanted if wanted >= 0 else self.left))
            self.left -= len(part)
            return part

    with tarfile.open(file, f"w:{kind}") as tar:
        info = tarfile.TarInfo(name)
        info.size = size
        tar.addfile(info, Zeros())
    return file


def lying_zip(file: Path, name: str, size: int, claimed: int, how: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip whose one member says that it unpacks to `claimed` bytes and unpacks to `size`."""
    with zipfile.ZipFile(file, "w", how) as archive, archive.open(name, "w", force_zip64=True) as member:
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = claimed.to_bytes(4, "little")
    file.write_bytes(bytes(data))
    return file
