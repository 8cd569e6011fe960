"""Formats, modes, orientation, the three fits, and the reasons for what cannot be read."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from ray_robust.data.images import decode as decoder
from ray_robust.data.images.decode import BACKGROUND, decode, decode_all
from ray_robust.data.images.form import Form
from ray_robust.data.images.jpegs import encode
from tests import make_images as make


def grey(values: np.ndarray, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(values)
    return image.convert(mode) if mode else image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_common_format_shows_the_same_picture(kind):
    image = make.picture(64, 64)
    seen = decode(make.encoded(image, kind), 16, "crop").astype(int)
    wanted = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(seen - wanted).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF" if mode == "LAB" else "PNG"
    image = make.picture(64, 64)
    source = image if mode == "LAB" else image.convert(mode)
    if mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        source = ImageCms.applyTransform(image, lab)
    seen = decode(make.encoded(source, kind), 16, "crop")
    assert seen.shape == (16, 16, 3)
    assert seen.dtype == np.uint8
    if mode in ("CMYK", "YCbCr", "P"):
        assert np.abs(seen.astype(int) - np.asarray(image.resize((16, 16))).astype(int)).mean() < 8


def test_deep_greyscale_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    wanted = np.asarray(grey((ramp / 257).astype(np.uint8)).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    files = {
        "16 bit": make.encoded(grey(ramp.astype(np.uint16)), "PNG"),
        "32 bit": make.encoded(grey(ramp.astype(np.int32)), "TIFF"),
        "float 0-1": make.encoded(grey((ramp / 65535).astype(np.float32)), "TIFF"),
        "float 0-255": make.encoded(grey((ramp / 257).astype(np.float32)), "TIFF"),
        "float of any range": make.encoded(grey((ramp * 10 - 3e5).astype(np.float32)), "TIFF"),
    }
    for name, data in files.items():
        seen = decode(data, 8, "crop").astype(int)
        assert np.abs(seen[..., 0] - wanted).max() <= 2, name
        assert (seen[..., 0] == seen[..., 2]).all(), name


def test_transparency_shows_the_stated_background():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    keyed = Image.new("P", (32, 32), 3)
    keyed.putpalette([9, 9, 9] * 4)
    for data in (make.encoded(clear, "PNG"), make.encoded(keyed, "PNG", transparency=3), make.encoded(clear, "WEBP")):
        assert (decode(data, 8, "crop") == BACKGROUND).all()
    half = Image.new("RGBA", (32, 32), (255, 0, 0, 128))
    assert np.abs(decode(make.encoded(half, "PNG"), 8, "crop")[0, 0].astype(int) - (191, 63, 63)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone(orientation, kind):
    image = make.picture(64, 48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = make.encoded(image, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for fit in ("crop", "pad"):
        wanted = decode(make.encoded(upright.convert("RGB"), "PNG"), 16, fit).astype(int)
        assert np.abs(decode(data, 16, fit).astype(int) - wanted).mean() < 4, fit


def test_the_three_fits():
    wide = Image.new("RGB", (60, 20), (0, 0, 255))
    wide.paste((255, 0, 0), (0, 0, 20, 20))
    data = make.encoded(wide, "PNG")
    assert (decode(data, 20, "crop") == (0, 0, 255)).all()
    squashed = decode(data, 20, "squash")
    assert (squashed[:, 0] == (255, 0, 0)).all()
    assert (squashed[:, -1] == (0, 0, 255)).all()
    padded = decode(data, 30, "pad")
    assert (padded[:10] == BACKGROUND).all()
    assert (padded[20:] == BACKGROUND).all()
    assert (padded[10:20, 0] == (255, 0, 0)).all()


def test_a_tiny_image_is_enlarged_and_a_thin_one_survives():
    assert decode(make.encoded(make.picture(1, 1), "PNG"), 32, "crop").shape == (32, 32, 3)
    for fit in ("crop", "squash", "pad"):
        assert decode(make.encoded(make.picture(3000, 1)), 32, fit).shape == (32, 32, 3)


def test_leaving_out_detail_early_costs_little():
    """The reduced JPEG decoding stays close to decoding in full and resizing."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    for size in (32, 64, 224):
        fast = decode(make.encoded(noise), size, "squash").astype(float)
        full = decode(make.encoded(noise, "PNG"), size, "squash").astype(float)
        assert 10 * np.log10(255**2 / ((fast - full) ** 2).mean()) > 30, size


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_vectorised_resize_is_the_same_filter(fit, monkeypatch):
    files = [make.encoded(make.photo(w, h, seed=w), quality=90) for w, h in ((500, 376), (300, 460), (90, 140))]
    vectorised = np.stack([decode(data, decoder.VECTORISED, fit) for data in files]).astype(int)
    monkeypatch.setattr(decoder, "VECTORISED", 10_000)
    plain = np.stack([decode(data, 128, fit) for data in files]).astype(int)
    off = abs(vectorised - plain)[:, 2:-2, 2:-2]  # at the edge of a crop Pillow looks beyond it
    assert off.max() == 1
    assert off.mean() < 0.2


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_fast_way_to_a_jpeg_shows_the_same_bytes(subsampling, progressive, monkeypatch):
    files = [
        make.encoded(make.photo(wide, high, seed=wide), quality=wide % 70 + 25, subsampling=subsampling,
                     progressive=progressive)
        for wide, high in ((333, 251), (64, 64), (17, 300), (500, 375), (9, 8))
    ]  # fmt: skip
    wanted = [(data, size, fit) for data in files for size in (8, 33, 150) for fit in ("crop", "squash", "pad")]
    fast = [decode(*one) for one in wanted]
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: (_ for _ in ()).throw(ValueError("not today")))
    assert all((a == decode(*one)).all() for a, one in zip(fast, wanted, strict=True))


@pytest.mark.parametrize("most", [65535, 4095, 300])
def test_a_dark_pgm_of_16_bits_stays_dark(most):
    """Where no pixel was above 255 of 65,535 it was shown as if it had 8 bits, 257 times as bright."""
    values = np.linspace(0, most / 300, 64 * 64).astype(">u2").reshape(64, 64)
    seen = decode(b"P5 64 64 %d\n" % most + values.tobytes(), 64, "crop")
    deep = grey((values * (65535 / most)).round().astype(np.uint16))
    assert seen.max() <= 1
    assert (seen == decode(make.encoded(deep, "PNG"), 64, "crop")).all()


def test_an_odd_jpeg_is_left_to_pillow():
    good = make.encoded(make.picture(200, 200))
    scrap = good[:-2] + b"scrap" + good[-2:]  # before the last marker: a warning of the decoder, and no damage
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(scrap)
    assert (decode(scrap, 32, "crop") == decode(good, 32, "crop")).all()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["cut off", "zeros", "other bytes", "without end"])
def test_a_damaged_jpeg_is_broken_and_not_half_grey(mode, kind, progressive):
    good = make.encoded(make.photo(200, 150).convert(mode), progressive=progressive)
    half = len(good) // 2
    scrap = np.random.default_rng(1).integers(0, 256, 400, np.uint8).tobytes()
    data = {
        "cut off": good[:half] + b"\xff\xd9",
        "zeros": good[:half] + bytes(len(good) - half - 2) + b"\xff\xd9",
        "other bytes": good[:half] + scrap + good[half + 400 :],
        "without end": good[:-2],
    }[kind]
    for read in (
        lambda: decode(data, 32, "crop"),
        lambda: decoder.decode_whole(data, 32),
        lambda: encode(data, Form(32, 288), "crop"),
    ):
        with pytest.raises(decoder.Undecodable, match=r"^is a damaged JPEG: "):
            read()
    assert decode(good, 32, "crop").shape == (32, 32, 3)


def test_grey_jpegs_and_the_first_picture_of_several_show_the_same_bytes(monkeypatch):
    files = [make.encoded(make.photo(wide, high, seed=wide).convert("L")) for wide, high in ((333, 251), (17, 300))]
    several = io.BytesIO()
    make.photo(300, 200).save(several, "MPO", save_all=True, append_images=[make.photo(300, 200, 1)])
    wanted = [(data, size) for data in (*files, several.getvalue()) for size in (8, 33, 150)]
    fast = [decode(*one, "crop") for one in wanted]
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: (_ for _ in ()).throw(ValueError("not today")))
    assert all((a == decode(*one, "crop")).all() for a, one in zip(fast, wanted, strict=True))


def test_a_strip_that_is_too_long_for_a_jpeg_is_scaled_to_what_one_can_be():
    """It was broken in a compact store alone."""
    strip = encode(make.encoded(Image.new("RGB", (70_000, 20)), "PNG"), Form(32, 48), "crop")
    assert (strip.height, strip.width) == (19, 65_500)


def test_what_is_broken_is_a_reason_in_one_line():
    good = make.encoded(make.picture(200, 200))
    bomb = bytearray(make.encoded(make.picture(), "PNG"))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    nan = make.encoded(grey(np.full((8, 8), np.nan, np.float32)), "TIFF")
    files: dict[str, bytes] = {
        "text.jpg": b"hello world, I am a text",
        "empty.jpg": b"",
        "cut.jpg": good[: len(good) // 2],
        "cut.png": make.encoded(make.picture(200, 200), "PNG")[:300],
        "head.jpg": good[:20],
        "bomb.png": bytes(bomb),
        "nan.tif": nan,
        "good.jpg": good,
    }

    def read(key: str) -> bytes:
        if key == "folder.jpg":
            raise IsADirectoryError(21, "Is a directory")
        return files[key]

    keys = [*files, "folder.jpg"]
    seen = decode_all(read, keys, 16, "crop")
    reasons = {keys[i]: reason for i, reason in seen.broken.items()}
    assert set(reasons) == set(keys) - {"good.jpg"}
    assert reasons["text.jpg"] == "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image"
    assert reasons["empty.jpg"] == "is empty (0 bytes)"
    assert reasons["cut.jpg"] == "is a damaged JPEG: premature end of JPEG file"
    assert "pixels" in reasons["bomb.png"]  # in Pillow's words, or ours where another package has lifted its limit
    assert reasons["nan.tif"] == "holds pixels that are not finite numbers"
    assert reasons["folder.jpg"] == "cannot be read: Is a directory"
    assert not any("\n" in reason for reason in reasons.values())
    assert (seen.images[list(seen.broken)] == 0).all()
    assert seen.images[keys.index("good.jpg")].any()
