"""The files of a pack whose images are JPEGs: `jpegs.bin`, one after the other, and `places.records`, where each lies.

A slot is a record of the latter. A place that is damaged gives bytes with another checksum, or none.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ray_robust.data.images.form import Form, Jpeg
from ray_robust.data.images.pack import LOG, Pack
from ray_robust.errors import Problem, UserError

PLACE = np.dtype([("start", "<u8"), ("bytes", "<u4"), ("height", "<u2"), ("width", "<u2")])
assert PLACE.itemsize == 16, "divides a disk's block, so that a record is written whole or not at all"
PLACES = "places.records"


class JpegPack(Pack):
    """The images of a form with a stored side below `folder`, `Jpeg` each."""

    files = ("jpegs.bin", PLACES, LOG)

    def __init__(self, folder: Path, form: Form) -> None:
        super().__init__(folder, form.px)
        self.image_bytes = max(1, form.bytes_of(1))
        self._data = np.empty(0, np.uint8)
        self._places = np.empty(0, PLACE)

    def located(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (uint8, the file of JPEGs, memory-mapped and read-only; PLACE [n], where those in these slots lie).
        Raises UserError."""
        most = int(slots.max(initial=-1))
        if most >= len(self._places):
            try:
                places = np.fromfile(self.folder / PLACES, PLACE)
            except OSError as error:
                what = f"{PLACES} cannot be read ({error.strerror or error}); run the same command again"
                raise UserError(Problem(str(self.folder), what)) from None
            if most >= len(places):
                what = f"{PLACES} is shorter than the log says; run the same command again"
                raise UserError(Problem(str(self.folder), what))
            self._data, self._places = self._mapped(0), places
        return self._data, self._places[slots]

    def stored(self, slots: np.ndarray) -> np.ndarray:
        """Return what is stored in these slots, object [n] of `Jpeg`, each a view of the file."""
        data, places = self.located(slots)
        jpegs = np.empty(len(slots), object)
        for i, (start, size, height, width) in enumerate(places.tolist()):
            jpegs[i] = Jpeg(data[start : start + size].data, height, width)
        return jpegs

    def _forget_all(self) -> None:
        super()._forget_all()
        self._data, self._places = self._data[:0], self._places[:0]

    def _slots(self) -> int:
        return self._bytes_there(PLACES) // PLACE.itemsize

    def _reserve(self, images: np.ndarray) -> tuple[int, int]:
        sizes = np.array([len(image.data) for image in images], np.uint64)
        with open(self.folder / self.files[0], "r+b") as file:
            at = os.fstat(file.fileno()).st_size
            file.truncate(at + int(sizes.sum()))
        places = np.empty(len(images), PLACE)
        places["start"], places["bytes"] = at + np.cumsum(sizes) - sizes, sizes
        places["height"], places["width"] = [i.height for i in images], [i.width for i in images]
        slots = self._slots()
        self._append(PLACES, places.tobytes(), PLACE.itemsize)
        return slots, at

    def _joined(self, images: np.ndarray) -> memoryview:
        return memoryview(b"".join(image.data for image in images))
