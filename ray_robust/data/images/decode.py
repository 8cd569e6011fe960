"""From the bytes of an image file to uint8 RGB, a square or whole, or to one line with the reason why not.

Handles orientation, palettes, transparency, CMYK, 16-bit and float greyscale, and how an oblong becomes a square.
`decode_all` raises nothing.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from ray_robust.data.images.files import FORMATS
from ray_robust.data.pool import Pixels
from ray_robust.errors import Outage, Refused, UserError
from ray_robust.files.regular_file import Unreadable, without_content

BACKGROUND = (127, 127, 127)  # behind transparency and beside letterboxes: mid-grey, so that no frame is learned
MAX_PIXELS = 178_956_970  # a larger header is a decompression bomb or no photograph (Pillow's own limit for an error)
BUDGET = 3 << 29  # bytes, 1.5 GiB: what one image may take while it is decoded, its file included
# bytes per pixel while an image is decoded and resized, measured with Pillow 13: of its mode, and of its format besides
_BY_MODE = {"1": 2, "L": 1, "RGB": 4, "CMYK": 4, "RGBA": 8, "P": 9, "I": 9, "F": 9, "I;16": 5, "I;16B": 5, "I;16L": 5}
_OTHER_MODE = 12
_BY_FORMAT = {"JPEG": 8, "MPO": 8, "JPEG2000": 16, "WEBP": 12, "AVIF": 8, "TIFF": 4, "PPM": 2}  # JPEG: progressive
_DECODERS = tuple(dict.fromkeys(FORMATS.values()))
_LOOKS = {  # what people find under the name of an image: told by its kind, since a link may lead to a secret
    b"<": "a web page or XML", b"version https://git-lfs": "a pointer of Git LFS", b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "a PDF", b"PK\x03\x04": "a zip", b"\x1f\x8b": "gzip",
    b"8BPS": "Photoshop's format", b"\0\0\0": "HEIC, a video or zeros",
}  # fmt: skip
LONGEST = 65_500  # px of a JPEG's side, libjpeg's own limit
SHARP = 1.0  # a JPEG is decoded at 1/2, 1/4 or 1/8 as long as this many times the wanted size is left; 1.0 differs from
# decoding in full by 33-44 dB on photographs and is up to twice as fast, 2.0 by 41-49 dB
BAND = 1 << 20  # pixels of deep greyscale that are scaled at a time
VECTORISED = 128  # px from which torch resizes: Pillow's filter to within a step of 255, in a third of the time. Below,
# the resize is cheap and importing torch, which takes seconds, is not
SPACES = {"RGB": "RGB", "L": "GRAY"}  # modes of JPEGs that simplejpeg decodes to what Pillow does, by its names
_DAMAGE = re.compile(
    r"(?:Corrupt JPEG data: )?(premature end .*|bad Huffman code|found marker .*|\d+ extraneous bytes .*)", re.I
)
_SCRAP = re.compile(r"Corrupt JPEG data: (?:\d|1[0-6]) extraneous bytes before marker 0xd9")  # behind all the pixels
_TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Undecodable(Unreadable):
    """These bytes are no image that can be used; the text is the reason, in one line."""


def decode_all(read: Callable[[Any], bytes | None], keys: Sequence[Any], size: int, fit: str) -> Pixels:
    """Read and decode the images of these keys at size x size; what fails is listed in `broken`, never raised.

    read  key -> the file's bytes, None for one that need not be decoded; may raise anything
    fit   crop: centre square of the short side; squash: both sides to `size`; pad: letterbox on BACKGROUND
    """
    images = np.zeros((len(keys), size, size, 3), np.uint8)

    def keep(i: int, data: bytes) -> None:
        images[i] = decode(data, size, fit)

    return Pixels(images, read_all(read, keys, keep))


def read_all(
    read: Callable[[Any], bytes | None], keys: Sequence[Any], keep: Callable[[int, bytes], None]
) -> dict[int, str]:
    """Call `keep(i, bytes)` with the file of each keys[i]; return the reasons of those that fail, by position."""
    broken: dict[int, str] = {}
    with warnings.catch_warnings():  # Pillow warns of odd EXIF, palettes and sizes; what matters becomes a reason
        warnings.simplefilter("ignore")
        for i, key in enumerate(keys):
            try:
                if (data := read(key)) is not None:
                    keep(i, data)
            except (MemoryError, UserError, Outage, Refused):  # of the machine or the place, not of the image
                raise
            except Exception as error:  # a broken file can raise anything from a decoder
                broken[i] = reason_of(error)
    return broken


def decode(data: bytes, size: int, fit: str) -> np.ndarray:
    """Return one image file's bytes as uint8 [size, size, 3], upright, in RGB.

    Raises Undecodable, or whatever Pillow's decoder raises for other damaged data than a JPEG's.
    """
    image = opened(data, size, fit)
    # turning the small square is the same as cutting a square from the turned image, and far cheaper
    return _upright(_square(_load(image, data), size, fit), orientation_of(image))


def decode_whole(data: bytes, side: int) -> np.ndarray:
    """Return one image file's bytes as uint8 [height, width, 3], upright, in RGB, the short side `side` px long; one
    that is smaller keeps its size, unless a side is too long for a JPEG. Raises what `decode` does."""
    image = opened(data, side)
    pixels = _load(image, data)
    wide, high = pixels.size if isinstance(pixels, Image.Image) else pixels.shape[1::-1]
    scale = min(1.0, side / min(wide, high), LONGEST / max(wide, high))
    target = (max(1, round(wide * scale)), max(1, round(high * scale)))
    return _upright(_resized(pixels, target, (0.0, 0.0, float(wide), float(high))), orientation_of(image))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def opened(data: bytes, size: int, fit: str = "crop") -> Image.Image:
    """Return an image whose pixels have yet to be decoded, at `size` px or more. Raises Undecodable."""
    if not data:
        raise Undecodable("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_DECODERS)
    except Image.UnidentifiedImageError:
        looks = next((f"; it begins as {what} does" for start, what in _LOOKS.items() if data.startswith(start)), "")
        raise Undecodable(f"is no {', '.join(_DECODERS[:-1])} or {_DECODERS[-1]} image{looks}") from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise Undecodable(f"claims {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,}")
    if image.format == "JPEG":  # the decoder itself can leave out what the small image would not show
        scale = size * SHARP / (min(image.size) if fit != "pad" else max(image.size))
        image.draft("RGB", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    _check_budget(image, pixels, len(data))
    return image


def _check_budget(image: Image.Image, pixels: int, file: int) -> None:
    """Refuse what would take more than BUDGET while it is decoded: a header of a few bytes can ask for gigabytes.

    pixels  of the whole image, of which a JPEG's decoder may have been told to leave out some
    file    bytes of the encoded image
    """
    need = file + image.width * image.height * _BY_MODE.get(image.mode, _OTHER_MODE)
    need += pixels * _BY_FORMAT.get(image.format or "", 0)
    if image.format == "TIFF":  # a tile may be larger than the image
        sides = [image.tag_v2.get(side, 0) for side in (322, 323)]  # type: ignore[attr-defined]  # TileWidth, TileLength
        need += math.prod(side if isinstance(side, int) else 0 for side in sides) * 2 * _OTHER_MODE
    if need > BUDGET:
        size = f"{image.width} x {image.height} pixels ({image.format}, {image.mode})"
        raise Undecodable(f"{size} take {need / 1e9:.1f} GB to decode, more than the limit of {BUDGET / 1e9:.1f} GB")


def _load(image: Image.Image, data: bytes) -> Image.Image | np.ndarray:
    """Return the decoded image, in a mode that resizes well; an array uint8 [high, wide, 3] where it came as one.

    Pillow and simplejpeg run the same decoder and come to the same bytes, the latter in three quarters of the time.
    What it finds odd is left to Pillow, which forgives more and has the last word: but not of damage, for which Pillow
    shows grey, or what follows shifted, without a word.
    """
    if image.format in ("JPEG", "MPO"):
        try:
            if (space := SPACES.get(image.mode)) is not None:
                pixels = simplejpeg.decode_jpeg(data, space, min_height=image.height, min_width=image.width)
                return pixels if space == "RGB" else Image.fromarray(pixels[:, :, 0])
            simplejpeg.decode_jpeg(data, "CMYK", min_height=1, min_width=1)  # to see whether it is whole
        except ValueError as error:
            if (damage := _DAMAGE.fullmatch(str(error))) and not _SCRAP.fullmatch(str(error)):
                raise Undecodable(f"is a damaged JPEG: {damage[1][:1].lower()}{damage[1][1:]}") from None
    image.load()
    return _plain(image)


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in a mode that resizes well: L, RGB, CMYK or RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        sixteen = image.mode == "I" and image.format == "PPM"  # Pillow scales it to 16 bits, whatever it claims to have
        return Image.fromarray(_to_8_bits(np.asarray(image), "I;16" if sixteen else image.mode))
    if image.mode == "RGBA":
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Deep greyscale to uint8 by one rule per range, so that brightness stays comparable between images.

    16-bit: divided by 257. 32-bit and float: as it is where it fits 0-255 (0-1 for float: times 255), divided by 257
    where it fits 0-65535, otherwise stretched from its lowest to its highest value.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise Undecodable("holds pixels that are not finite numbers")
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, BAND // max(1, values.shape[1]))
    for top in range(0, len(values), rows):  # as float64 the whole image would take 8 times its bytes
        scaled[top : top + rows] = _scaled(values[top : top + rows].astype(np.float64), mode, low, high)
    return scaled


def _scaled(values: np.ndarray, mode: str, low: float, high: float) -> np.ndarray:
    if mode.startswith("I;16"):
        values /= 257
    elif mode == "F" and low >= 0 and high <= 1:
        values *= 255
    elif low < 0 or high > 65535:
        values = (values - low) * (255 / (high - low) if high > low else 0)
    elif high > 255:
        values /= 257
    return np.rint(values).astype(np.uint8)


def _square(image: Image.Image | np.ndarray, size: int, fit: str) -> np.ndarray:
    """`image` (L, RGB, CMYK or RGBA, or an RGB array) as uint8 [size, size, 3]."""
    wide, high = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    target, box = (size, size), (0.0, 0.0, float(wide), float(high))
    if fit == "crop":
        side = min(wide, high)
        left, top = (wide - side) / 2, (high - side) / 2
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(wide, high)
        target = (max(1, round(wide * scale)), max(1, round(high * scale)))
    small = _resized(image, target, box)
    if target == (size, size):
        return small
    letterbox = np.full((size, size, 3), BACKGROUND, np.uint8)
    left, top = (size - target[0]) // 2, (size - target[1]) // 2
    letterbox[top : top + target[1], left : left + target[0]] = small
    return letterbox


def _resized(
    image: Image.Image | np.ndarray, target: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """Return what lies in `box` (left, top, right, bottom), uint8 [high, wide, 3] of `target` = (wide, high), by the
    triangle filter as wide as the scale: "bilinear" with antialiasing, torchvision's own choice for photographs."""
    if max(target) >= VECTORISED and (isinstance(image, np.ndarray) or image.mode == "RGB"):
        left, top, right, bottom = map(int, box)  # half a pixel to the left at most
        pixels = np.asarray(image)[top:bottom, left:right]
        return np.ascontiguousarray(pixels) if pixels.shape[1::-1] == target else _by_torch(pixels, target)
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.BILINEAR, box=box)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", target, (*BACKGROUND, 255)), picture)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def resized(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Return uint8 [high, wide, 3] scaled to [size, size, 3], by a filter as wide as the scale."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return _by_torch(pixels, (size, size), interpolation)


def _by_torch(pixels: np.ndarray, target: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    import torch

    # made a batch before the axes are turned, or torch takes one image for planar, and copies twice what it scales
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(batch, size=target[::-1], mode=interpolation, antialias=True)
    return small[0].permute(1, 2, 0).contiguous().numpy()


def orientation_of(image: Image.Image) -> int:
    """Return how an image must be turned to be upright, by EXIF's numbers: 1 for one that is."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def reason_of(error: Exception) -> str:
    """Return why an image cannot be used, in one line."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"cannot be decoded: {without_content(error)}"
