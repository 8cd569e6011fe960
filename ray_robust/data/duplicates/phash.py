"""Perceptual hashes of images, and which of many hashes lie near each other.

Owns the hash, the likeness that confirms a pair, and their thresholds. Two images are near-identical when their hashes
differ in at most `RADIUS` of 64 bits and their thumbnails correlate to at least `LIKENESS`: the hash finds candidates
among millions, the thumbnails tell a copy from another image of the same layout. What both thresholds find and miss on
photographs stands in docs/report.md.

The hash is that of Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), known as pHash:
the signs, against their median, of the 8 x 8 lowest frequencies of the brightness (DCT-II). The search is multi-index
hashing (Norouzi, Punjani, Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012): hashes within 11
bits agree in one of four 16-bit parts up to two bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RADIUS = 11  # bits of 64
LIKENESS = 0.97  # correlation of the thumbnails, all colours together
LEAST_SIZE = 16  # px; smaller images have too few frequencies for a hash
PLAIN = 1.0  # grey levels: with less contrast than that in its low frequencies an image has no hash
THUMB = 16  # px
PARTS, WIDTH = 4, 16
AT_ONCE = 1 << 22  # candidate pairs that are looked at together: bounds the memory
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def hashes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return uint64 [n], the hash of each of these images, uint8 [n, size, size, 3]; and bool [n], whether it has
    contrast enough for one. Of images under `LEAST_SIZE` px none has."""
    count, size = images.shape[:2]
    if size < LEAST_SIZE or not count:
        return np.zeros(count, np.uint64), np.zeros(count, bool)
    rows, columns = _bases(size)
    across = images.reshape(count * size, size * 3).astype(np.float32) @ columns  # [n * size, 8]
    low = (rows @ across.reshape(count, size, 8)).reshape(count, 64)
    rest = low[:, 1:]  # the first is the mean brightness
    bits = np.zeros((count, 64), bool)
    bits[:, 1:] = rest > np.median(rest, axis=1, keepdims=True)
    contrast = np.sqrt((rest**2).sum(1)) / size  # orthonormal: the root mean square over the image, in grey levels
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64), contrast >= PLAIN


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return float32 [n, THUMB * THUMB * 3]: the images averaged down, less their mean, of length one; zeros for a flat
    one. The inner product of two is their correlation."""
    size = images.shape[1]
    box = _box(size)
    small = np.einsum("ia,nabc->nibc", box, images.astype(np.float32), optimize=True)
    flat = np.einsum("jb,nibc->nijc", box, small, optimize=True).reshape(len(images), -1)
    flat -= flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1e-3, flat / np.maximum(length, 1e-3), 0).astype(np.float32)


class Index:
    """Hashes made ready to be searched; `codes` int [n], where given, are what a pair must differ in."""

    def __init__(self, hashes: np.ndarray, codes: np.ndarray | None = None) -> None:
        self.hashes, self.codes = np.asarray(hashes, np.uint64), codes
        self._orders, self._starts = [], []
        for part in range(PARTS):
            key = _part(self.hashes, part)
            self._orders.append(np.argsort(key, kind="stable"))
            self._starts.append(np.concatenate([[0], np.cumsum(np.bincount(key, minlength=1 << WIDTH))]))

    def near(
        self, queries: np.ndarray, codes: np.ndarray | None = None, most: int = 8
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (query, place in the index, bits that differ) of every pair within RADIUS, of each query the `most`
        nearest; int64, int64, uint8, ordered by query, then distance, then place. Pairs of equal `codes` are left out.
        """
        queries = np.asarray(queries, np.uint64)
        nearest = _Nearest(most)
        if not len(queries) or not len(self.hashes):
            return nearest.pairs()
        masks = [mask for mask in range(1 << WIDTH) if mask.bit_count() <= RADIUS // PARTS]
        for part in range(PARTS):
            keys = _part(queries, part)
            for mask in masks:
                self._probe(part, keys ^ mask, queries, codes, nearest)
        return nearest.pairs()

    def _probe(
        self, part: int, keys: np.ndarray, queries: np.ndarray, codes: np.ndarray | None, nearest: _Nearest
    ) -> None:
        """Compare each query with the hashes of one bucket, some queries at a time."""
        starts, order = self._starts[part], self._orders[part]
        first, count = starts[keys], starts[keys + 1] - starts[keys]
        occupied = np.flatnonzero(count)
        ends = np.cumsum(count[occupied])
        begin = 0
        while begin < len(occupied):
            before = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, before + AT_ONCE, side="right")))
            own = occupied[begin:stop]
            many = count[own]
            offsets = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            query, position = np.repeat(own, many), order[np.repeat(first[own], many) + offsets]
            distance = np.bitwise_count(queries[query] ^ self.hashes[position])
            good = distance <= RADIUS
            if codes is not None and self.codes is not None:
                good &= codes[query] != self.codes[position]
            nearest.add(query[good], position[good], distance[good])
            begin = stop


class _Nearest:
    """Pairs as they come, thinned out whenever they have grown a lot."""

    def __init__(self, most: int) -> None:
        self.most, self._size = most, 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, query: np.ndarray, position: np.ndarray, distance: np.ndarray) -> None:
        if len(query):
            self._parts.append((query, position, distance))
            self._size += len(query)
            if self._size > AT_ONCE:
                self._parts = [self.pairs()]
                self._size = min(self._size, AT_ONCE // 2)  # what is kept may be more: then it grows first

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
        query, position, distance = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.lexsort((position, distance, query))
        query, position, distance = query[order], position[order], distance[order]
        again = np.zeros(len(query), bool)  # the same pair, by another part or bit
        again[1:] = (query[1:] == query[:-1]) & (position[1:] == position[:-1])
        query, position, distance = query[~again], position[~again], distance[~again]
        begins = np.flatnonzero(np.diff(query, prepend=-1))
        rank = np.arange(len(query)) - np.repeat(begins, np.diff(begins, append=len(query)))
        near = rank < self.most
        return query[near], position[near], distance[near]


def _part(hashes: np.ndarray, part: int) -> np.ndarray:
    return ((hashes >> np.uint64(part * WIDTH)) & np.uint64((1 << WIDTH) - 1)).astype(np.int64)


@lru_cache(maxsize=8)
def _bases(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eight lowest orthonormal cosines over rows, float32 [8, size], and over columns of colours [size * 3,
    8]."""
    k, x = np.arange(8)[:, None], np.arange(size)[None]
    cosines = np.cos(np.pi * k * (2 * x + 1) / (2 * size)) * np.sqrt(np.where(k == 0, 1, 2) / size)
    rows = cosines.astype(np.float32)
    return rows, np.ascontiguousarray((rows.T[:, None, :] * _GREY[None, :, None]).reshape(size * 3, 8))


@lru_cache(maxsize=8)
def _box(size: int) -> np.ndarray:
    """Return weights that average `size` px down to THUMB, each pixel by its share, float32 [THUMB, size]."""
    edges = np.arange(THUMB + 1) * size / THUMB
    low, high = np.maximum.outer(edges[:-1], np.arange(size)), np.minimum.outer(edges[1:], np.arange(size) + 1)
    return (np.maximum(high - low, 0) * THUMB / size).astype(np.float32)
