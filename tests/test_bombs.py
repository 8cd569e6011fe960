"""Files that claim or unpack to far more than they hold: each is refused in one line, in a process with little memory,
and nothing of it is kept. Address space is limited, so that what is asked for counts, and not what the clock says."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from ray_robust.data.images import decode
from ray_robust.data.images.decode import Undecodable
from ray_robust.data.images.files import NO_METHOD, Zip
from ray_robust.data.readers import archive, shards, tar_samples
from ray_robust.errors import UserError
from tests import make_images as make
from tests.make_bombs import limited, lying_zip, png, sparse_tar, tar_of_zeros, tiff

DECODE = """
from ray_robust.data.images.decode import decode_all
data = open(sys.argv[1], "rb").read()
told = decode_all(lambda key: data, [0], 32, "crop").broken
print(told.get(0, "decoded"))
"""


def told(done) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


# --- images


TOO_LARGE = "6000 x 6000 pixels (PNG, RGBA) take 0.3 GB to decode, more than the limit of 0.2 GB"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "says"),
    [(lambda: png(6_000, 6_000, depth=16, colour=0), "decoded"), (lambda: png(6_000, 6_000, colour=6), TOO_LARGE)],
    ids=["16 bit", "alpha"],
)
def test_an_image_takes_no_more_than_its_budget(tmp_path, data, says):
    """In small: 16-bit grey takes 5 bytes per pixel where it took 19."""
    (tmp_path / "x").write_bytes(data())
    code = "import ray_robust.data.images.decode as d; d.BUDGET = 200 << 20" + DECODE
    assert told(limited(code, tmp_path / "x", imports="import ray_robust.data.images.decode", more=230 << 20)) == says


def test_an_image_that_would_take_gigabytes_is_refused_by_its_header():
    """A PNG of 348 kB took 3.4 GB."""
    for data, says in (
        (tiff(200, 200, "F"), "take 2.3 GB to decode, more than the limit of 1.6 GB"),
        (tiff(200, 200, "LAB"), "take 2.8 GB to decode, more than the limit of 1.6 GB"),
    ):
        image = bytearray(data)
        for tag in (256, 257):  # ImageWidth, ImageLength: one number, of 2 or 4 bytes
            entry = re.search(re.escape(tag.to_bytes(2, "little")) + rb"[\x03\x04]\x00\x01\x00\x00\x00", image)
            image[entry.end() : entry.end() + 4] = (13_300).to_bytes(4, "little")
        with pytest.raises(Undecodable) as caught:
            decode.decode(bytes(image), 32, "crop")
        assert str(caught.value).endswith(says)


@pytest.mark.parametrize(("kind", "more"), [("WEBP", 12), ("JPEG2000", 16), ("AVIF", 8), ("JPEG", 8)])
def test_what_a_decoder_takes_besides_the_pixels_counts(kind, more, monkeypatch):
    data = make.encoded(make.picture(640, 400), kind)
    need = len(data) + 640 * 400 * (4 + more)
    monkeypatch.setattr(decode, "BUDGET", need)
    assert decode.decode(data, 400, "crop").any()
    monkeypatch.setattr(decode, "BUDGET", need - 1)
    with pytest.raises(Undecodable, match=r"640 x 400 pixels \(" + kind + r", RGB\) take .* GB to decode"):
        decode.decode(data, 400, "crop")


def test_the_tiles_of_a_tiff_count():
    file = io.BytesIO()
    make.picture(64, 64).save(file, "TIFF", tiffinfo={65000: 30_000, 65001: 30_000})
    data = file.getvalue()
    for own, tag in ((65000, 322), (65001, 323)):  # Pillow itself writes no TileWidth and TileLength
        data = data.replace(own.to_bytes(2, "little"), tag.to_bytes(2, "little"))
    with pytest.raises(Undecodable, match=r"take .* GB to decode, more than the limit"):
        decode.decode(data, 32, "crop")


def test_deep_greyscale_is_scaled_alike_in_one_band_and_in_many(monkeypatch):
    values = np.random.default_rng(0).integers(0, 65536, (100, 70)).astype(np.uint16)
    whole = decode._to_8_bits(values, "I;16")
    monkeypatch.setattr(decode, "BAND", 200)
    assert (decode._to_8_bits(values, "I;16") == whole).all()


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1})
    with open(tree / "cat" / "big.jpg", "wb") as file:
        file.truncate(100 << 30)
    code = """
from ray_robust.data.images.decode import decode_all
from ray_robust.data.images.files import Folder
print(decode_all(Folder(sys.argv[1]).read, ["cat/000.jpg", "cat/big.jpg"], 8, "crop").broken)
"""
    said = told(limited(code, tree, imports="import ray_robust.data.images.decode", more=100 << 20))
    assert said == "{1: 'holds 107,374,182,400 bytes, more than the limit of 1,073,741,824'}"


# --- zips


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (zipfile.ZIP_DEFLATED, "cannot be decoded: Bad CRC-32 for file '...'"),
        (zipfile.ZIP_LZMA, NO_METHOD),
        (zipfile.ZIP_BZIP2, NO_METHOD),
    ],
)
def test_a_member_of_a_zip_that_lies_about_its_size_takes_what_it_claims(tmp_path, how, says):
    file = lying_zip(tmp_path / "x.zip", "cat/a.jpg", 60 << 20, 1000, how)
    code = """
from ray_robust.data.images.files import NO_METHOD, Zip
from ray_robust.data.images.decode import decode_all
print(decode_all(Zip(sys.argv[1]).read, ["cat/a.jpg"], 8, "crop").broken[0])
"""
    said = told(limited(code, file, imports="import ray_robust.data.images.files, bz2, lzma", more=40 << 20))
    assert said == says


def test_a_member_of_a_zip_that_claims_too_much_is_not_unpacked(tmp_path):
    file = lying_zip(tmp_path / "x.zip", "cat/a.jpg", 1 << 20, 3 << 30)
    with pytest.raises(ValueError, match=r"^holds 3,221,225,472 bytes, more than the limit of 1,073,741,824$"):
        Zip(str(file)).read("cat/a.jpg")


# --- archives

UNPACK = """
from pathlib import Path
from ray_robust.data.readers.archive import unpack
from ray_robust.errors import UserError
try:
    print(unpack(Path(sys.argv[1]), Path(sys.argv[2]), lambda done, of: None))
except UserError as error:
    print(error)
"""
BOMB = (
    "{}: unpacks to more than 100 times its {:,} bytes (at 'a/zeros.bin'): a decompression bomb, or damaged; get "
    "it again from where it is published"
)


def unpacked(file, folder, more=50 << 20) -> str:
    return told(limited(UNPACK, file, folder, imports="import ray_robust.data.readers.archive", more=more))


def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_a_large_file_of_an_archive_is_never_in_memory(tmp_path, kind):
    file = tar_of_zeros(tmp_path / "x.tar", "a/zeros.bin", 60 << 20, kind)
    assert unpacked(file, tmp_path / "out", 50 << 20) == "(1, 0)"
    assert (tmp_path / "out/a/zeros.bin").stat().st_size == 60 << 20


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_an_archive_unpacks_to_a_hundred_times_its_size_at_most(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archive, "ALLOWANCE", 1 << 20)
    if kind == "zip":
        file = lying_zip(tmp_path / "x.zip", "a/zeros.bin", 40 << 20, 40 << 20)
    else:
        file = tar_of_zeros(tmp_path / "x.tar", "a/zeros.bin", 40 << 20, kind)
    with pytest.raises(UserError) as caught:
        archive.unpack(file, tmp_path / "out", lambda done, of: None)
    assert str(caught.value) == BOMB.format(str(file), file.stat().st_size)
    assert files_in(tmp_path / "out") == []


def test_a_zip_of_bzip2_is_not_unpacked(tmp_path):
    file = lying_zip(tmp_path / "x.zip", "a/zeros.bin", 1 << 20, 1 << 20, zipfile.ZIP_BZIP2)
    assert unpacked(file, tmp_path / "out") == f"{file}: 'a/zeros.bin' {NO_METHOD}"
    assert files_in(tmp_path / "out") == []


def test_a_sparse_file_is_refused_whatever_it_claims(tmp_path):
    file = sparse_tar(tmp_path / "x.tar", "a/holes.bin", 100 << 30)
    assert file.stat().st_size == 10240
    assert unpacked(file, tmp_path / "out") == (
        f"{file}: 'a/holes.bin' has holes: it claims 107,374,182,400 bytes that are not in the archive; "
        "pack it without --sparse"
    )
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_tar_is_bounded(tmp_path, kind):
    """tarfile reads a header as a whole, be it gigabytes of zeros in a file of a megabyte."""
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, 60 << 20
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as file:
        file.write(info.tobuf())
        for _ in range(60):
            file.write(bytes(1 << 20))
    said = unpacked(tmp_path / "x.tar.gz", tmp_path / "out")
    assert said.endswith("damaged after 0 files (it has a header of more than 16 MiB); copy it again")


def test_an_xz_may_not_ask_for_any_memory(tmp_path):
    file = tmp_path / "x.tar.xz"
    data = bytearray(lzma.compress(bytes(10240), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    at = data.index(b"\x21\x01", 12)  # the filter's id and the size of its properties: one byte, the window
    data[at + 2] = 37  # 1.5 GiB
    head = 4 * (data[12] + 1)
    data[12 + head - 4 : 12 + head] = zlib.crc32(data[12 : 12 + head - 4]).to_bytes(4, "little")
    file.write_bytes(bytes(data))
    assert "breaks off or is damaged after 0 files (Memory usage limit exceeded)" in unpacked(file, tmp_path / "out")


def test_a_shard_with_holes_or_too_long_a_text_is_not_listed(tmp_path):
    columns = shards.Columns(None, None, None, ())
    info = tarfile.TarInfo("a.txt")
    info.size = 17 << 20
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    sparse_tar(tmp_path / "x.tar", "a.jpg", 100 << 30)
    with open(tmp_path / "x.tar", "rb") as file, pytest.raises(shards.Unlistable, match=r"a\.jpg: has holes"):
        tar_samples.list_tar(file, columns)
    too_long = r"a\.txt: holds 17,825,792 bytes, more than the limit of 16,777,216"
    with open(tmp_path / "y.tar", "rb") as file, pytest.raises(shards.Unlistable, match=too_long):
        tar_samples.list_tar(file, shards.Columns(None, None, "txt", ()))


@pytest.mark.parametrize("braces", ["{0..99999999}", "{0..9999}{0..9999}", "{0..%s}" % ("9" * 5000), "{0..9}" * 8])
def test_a_list_in_braces_is_bounded(braces):
    with pytest.raises(UserError, match=r"shards; at most 1,000,000 are possible$"):
        shards.find_shards(f"/data/a-{braces}.tar", ".tar")
