"""The compact store's images: JPEGs made of the images' files once, and squares cut from them ever after.

A file that is such a JPEG already, and not larger than wanted, is stored as it is.
"""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg

from ray_robust.data.images.decode import SHARP, decode, decode_whole, opened, orientation_of, resized
from ray_robust.data.images.form import Form, Jpeg, View

_thread = threading.local()
Boxes = np.ndarray  # int64 [views, n, 4]: left, top, right, bottom of what is cut from each image, in its pixels


def encode(data: bytes, form: Form, fit: str) -> Jpeg:
    """Return an image file's bytes as what the store has of them. Raises what `decode` does."""
    assert form.side is not None
    if fit != "crop":
        return compressed(decode(data, form.side, fit), form)
    return _as_it_is(data, form.side) or compressed(decode_whole(data, form.side), form)


def compressed(pixels: np.ndarray, form: Form) -> Jpeg:
    """Return uint8 [high, wide, 3] as JPEG."""
    return Jpeg(simplejpeg.encode_jpeg(pixels, form.quality, "RGB", "420"), *pixels.shape[:2])


def _as_it_is(data: bytes, side: int) -> Jpeg | None:
    """Return the bytes themselves where they are a JPEG that needs nothing: upright, RGB, not progressive (which takes
    three times as long to decode), not larger than `side`, and without any damage."""
    image = opened(data, side)
    plain = image.format == "JPEG" and image.mode == "RGB" and not image.info.get("progressive")
    if not plain or orientation_of(image) != 1:
        return None
    try:
        if min(simplejpeg.decode_jpeg_header(data)[:2]) > side:  # `image` may have been asked for at a half of its size
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return Jpeg(data, *pixels.shape[:2])


def whole_views(shapes: np.ndarray, view: View, fit: str) -> Boxes:
    """Return the box of each image, of `shapes` int64 [n, 2] (height, width), that is shown where nothing is random:
    the centre square of the short side's `view.part`, or the centre of the image's own proportions that is squeezed;
    of images that were squeezed or letterboxed when they were stored all."""
    sides = shapes if view.squash else np.repeat(shapes.min(1, keepdims=True), 2, axis=1)
    if fit == "crop":
        sides = np.maximum(1, np.rint(sides * view.part)).astype(np.int64)
    start = (shapes - sides) // 2
    return np.concatenate([start[:, ::-1], (start + sides)[:, ::-1]], axis=1)[None]


def cut(jpeg: Jpeg, boxes: np.ndarray, squares: np.ndarray, interpolation: str) -> None:
    """Decode an image and write what lies in each of `boxes` int64 [views, 4], scaled, to uint8 [views, size, size, 3].

    The decoder leaves out what the squares would not show, in halves: by its DCT, which costs less than all pixels.
    """
    size, wanted = squares.shape[1], boxes.tolist()
    least = min(min(right - left, bottom - top) for left, top, right, bottom in wanted)
    factor = next((n for n in (8, 4, 2) if least >= n * size * SHARP), 1)
    high, wide = -(-jpeg.height // factor), -(-jpeg.width // factor)
    room = _room(high * wide * 3)
    pixels = simplejpeg.decode_jpeg(jpeg.data, "RGB", min_height=high, min_width=wide, buffer=room)
    for box, square in zip(wanted, squares, strict=True):
        left, top, right, bottom = (side // factor for side in box)
        square[:] = resized(pixels[top : max(bottom, top + 1), left : max(right, left + 1)], size, interpolation)


def _room(size: int) -> np.ndarray:
    """Return uint8 [size or more] of this thread's own, for pixels that are used at once: memory that comes anew from
    the system for each image takes a sixth of the time."""
    room = getattr(_thread, "room", None)
    if room is None or len(room) < size:
        room = _thread.room = np.empty(size, np.uint8)
    return room
