"""Images of a compact store as a training asks for them: decoded whenever they are shown, by threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from ray_robust.data.images.form import Jpeg, View
from ray_robust.data.images.jpegs import Boxes, cut, whole_views
from ray_robust.data.images.pack import checksum
from ray_robust.data.images.store import ImageStore


class StoredJpegs:
    """Images of a store as they lie there, decoded whenever they are asked for.

    Where they lie is looked up once: a store that is removed meanwhile changes nothing. Each one's checksum is verified
    once; what is damaged is decoded again from its file.
    """

    def __init__(self, store: ImageStore, rows: np.ndarray, view: View) -> None:
        self.store, self.rows, self.view = store, np.asarray(rows, np.int64), view
        self.size, self.fit = store.size, store.pool.fit
        data, self._places, self._crc = store.located(self.rows)
        self._data = np.asarray(data)  # slices of a memmap cost ten times as much
        self._checked = np.zeros(len(self.rows), bool)
        self._mended: dict[int, Jpeg] = {}
        self._mending = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def shapes(self, positions: np.ndarray) -> np.ndarray:
        """Return int64 [n, 2], the height and width of these images as they are stored."""
        places = self._places[positions]
        return np.stack([places["height"], places["width"]], axis=1).astype(np.int64)

    def read(self, positions: np.ndarray, squares: np.ndarray, boxes: Boxes | None = None, threads: int = 1) -> None:
        """Write what lies in the boxes (None: what is shown where nothing is random) of the images at these positions
        to `squares`, uint8 [views, n, size, size, 3]. Raises UserError for what is damaged and cannot be mended."""
        boxes = whole_views(self.shapes(positions), self.view, self.fit) if boxes is None else boxes

        def each(i: int) -> None:
            cut(self._jpeg(int(positions[i])), boxes[:, i], squares[:, i], self.view.interpolation)

        if threads == 1:
            for i in range(len(positions)):
                each(i)
        else:
            list(_threads(threads).map(each, range(len(positions))))

    def _jpeg(self, position: int) -> Jpeg:
        """Return an image as it is stored, its checksum verified."""
        if position in self._mended:
            return self._mended[position]
        start, size, height, width = self._places[position].tolist()
        jpeg = Jpeg(self._data[start : start + size].data, height, width)
        if not self._checked[position]:
            if checksum(jpeg) != self._crc[position]:
                with self._mending:
                    return self._mended.setdefault(position, self.store.mended(self.rows[[position]])[0])
            self._checked[position] = True
        return jpeg


@lru_cache(maxsize=4)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="jpegs")
