"""Perceptual hashes of images, and which of many hashes lie near each other.

Owns the hash, the likeness that confirms a pair, and their thresholds. Two images are near-identical when their hashes
differ in at most `RADIUS` of 64 bits and their thumbnails correlate to at least `LIKENESS`: the hash finds candidates
among millions, the thumbnails tell a copy from another image of the same layout. What both thresholds find and miss on
photographs stands in docs/report.md.

The hash is that of Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), known as pHash:
the signs, against their median, of the 8 x 8 lowest frequencies of the brightness (DCT-II). The search is multi-index
hashing (Norouzi, Punjani, Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012): hashes within 11
bits agree in one of four 16-bit parts up to two bits. It is exact unless so many hashes are alike that it would compare
more than `MOST_PAIRS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

RADIUS = 11  # bits of 64
LIKENESS = 0.97  # correlation of the thumbnails, all colours together
LEAST_SIZE = 16  # px; smaller images have too few frequencies for a hash
PLAIN = 1.0  # grey levels: with less contrast than that in its low frequencies an image has no hash
THUMB = 16  # px
PARTS, WIDTH = 4, 16
MASKS = [mask for mask in range(1 << WIDTH) if mask.bit_count() <= RADIUS // PARTS]
SHIFT = np.uint64(64 - WIDTH)
MOST_PAIRS = 30_000_000_000  # of hashes that a search compares, which take minutes
BLOCK = 1 << 16  # pairs that are compared together: what they take stays in the cores' caches
AT_ONCE = 1 << 18  # near pairs that are collected before they are thinned out, at least
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
        self._orders: list[np.ndarray] = []
        self._turned: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        for part in range(PARTS):
            turned = _turned(self.hashes, part)
            order = np.argsort(turned, kind="stable")
            self._orders.append(order)
            self._turned.append(turned[order])
            self._starts.append(np.searchsorted(self._turned[-1] >> SHIFT, np.arange((1 << WIDTH) + 1)))

    def pairs(self, queries: np.ndarray, most: int | None = None) -> int:
        """Return how many pairs `near` compares of these queries, with at most so many hashes of a bucket each."""
        total = 0
        for part in range(PARTS):
            asked = np.bincount(_key(_turned(np.asarray(queries, np.uint64), part)), minlength=1 << WIDTH)
            keys, held = np.flatnonzero(asked), np.diff(self._starts[part])
            held = held if most is None else np.minimum(held, most)
            total += sum(int((asked[keys] * held[keys ^ mask]).sum()) for mask in MASKS)
        return total

    def limit(self, queries: np.ndarray) -> int | None:
        """Return with how many hashes of a bucket `near` compares each of these queries, None: with all. In full, of
        hashes that are mostly alike, as of a fixed camera's images, it would take the square of their number."""
        if not len(queries) or len(queries) * len(self.hashes) * PARTS <= MOST_PAIRS:
            return None
        limit, total = None, self.pairs(queries)
        while total > MOST_PAIRS and (limit is None or limit > 1):
            limit = max(1, len(self.hashes) // 2 if limit is None else limit // 2)
            total = self.pairs(queries, limit)
        return limit

    def near(
        self,
        queries: np.ndarray,
        codes: np.ndarray | None = None,
        most: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (query, place in the index, bits that differ) of every pair within RADIUS, of each query the `most`
        nearest; int64, int64, uint8, ordered by query, then distance, then place. Pairs of equal `codes` are left out.
        Where there is a `limit`, of each bucket those are compared that agree with a query in the bits next to it.

        progress  called with how many of all pairs have been compared
        """
        queries = np.asarray(queries, np.uint64)
        nearest = _Nearest(len(queries), most)
        if not len(queries) or not len(self.hashes):
            return nearest.pairs()
        limit, done = self.limit(queries), 0
        total = self.pairs(queries, limit) if progress is not None else 0
        for part in range(PARTS):
            turned = _turned(queries, part)
            for mask in MASKS:
                done += self._probe(part, turned, np.uint64(mask) << SHIFT, codes, nearest, limit)
                if progress is not None:
                    progress(done, total)
        return nearest.pairs()

    def _probe(
        self,
        part: int,
        turned: np.ndarray,
        flipped: np.uint64,
        codes: np.ndarray | None,
        nearest: _Nearest,
        limit: int | None,
    ) -> int:
        """Compare each query with the hashes of one bucket, that of its key with some bits flipped, some queries at a
        time; return how many pairs."""
        starts, order, keys = self._starts[part], self._orders[part], _key(turned ^ flipped)
        first, count = starts[keys], starts[keys + 1] - starts[keys]
        if limit is not None and len(crowded := np.flatnonzero(count > limit)):
            middle = np.searchsorted(self._turned[part], turned[crowded] ^ flipped)
            last = first[crowded] + count[crowded] - limit
            first[crowded] = np.clip(middle - limit // 2, first[crowded], last)
            count[crowded] = limit
        occupied = np.flatnonzero(count)
        ends = np.cumsum(count[occupied])
        begin = 0
        while begin < len(occupied):
            before = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
            own, here = occupied[begin:stop], ends[begin:stop] - before
            many = count[own]
            place = np.repeat(first[own] - here + many, many) + np.arange(here[-1])
            distance = np.bitwise_count(np.repeat(turned[own], many) ^ self._turned[part][place])
            good = np.flatnonzero(distance <= np.repeat(nearest.farthest[own], many))
            query, position = own[np.searchsorted(here, good, side="right")], order[place[good]]
            if codes is not None and self.codes is not None:
                other = codes[query] != self.codes[position]
                good, query, position = good[other], query[other], position[other]
            nearest.add(query, position, distance[good])
            begin = stop
        return int(count.sum())


class _Nearest:
    """Pairs as they come, thinned out whenever they have grown a lot; each one a number, by which they are sorted.

    farthest  uint8 per query, the distance above which a pair is none of the `most` nearest
    """

    def __init__(self, queries: int, most: int) -> None:
        assert queries < 1 << 28, "as many as have room in a pair's number"
        self.most, self._fresh = most, 0
        self.farthest = np.full(queries, RADIUS, np.uint8)
        self._parts: list[np.ndarray] = [np.zeros(0, np.uint64)]

    def add(self, query: np.ndarray, position: np.ndarray, distance: np.ndarray) -> None:
        if len(query):
            numbers = query.astype(np.uint64) << 36 | distance.astype(np.uint64) << 32 | position.astype(np.uint64)
            self._parts.append(numbers)
            self._fresh += len(query)
            if self._fresh > max(AT_ONCE, len(self._parts[0])):  # the first part is what was kept
                self._parts, self._fresh = [self._thinned()], 0

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers = self._thinned()
        position, distance = numbers & np.uint64((1 << 32) - 1), numbers >> 32 & np.uint64(15)
        return (numbers >> 36).astype(np.int64), position.astype(np.int64), distance.astype(np.uint8)

    def _thinned(self) -> np.ndarray:
        numbers = np.sort(np.concatenate(self._parts))
        again = np.zeros(len(numbers), bool)  # the same pair, by another part or bit
        again[1:] = numbers[1:] == numbers[:-1]
        numbers = numbers[~again]
        query = (numbers >> 36).astype(np.int64)
        begins = np.flatnonzero(np.diff(query, prepend=-1))
        rank = np.arange(len(query)) - np.repeat(begins, np.diff(begins, append=len(query)))
        last = rank == self.most - 1
        self.farthest[query[last]] = numbers[last] >> 32 & np.uint64(15)
        return numbers[rank < self.most]


def _turned(hashes: np.ndarray, part: int) -> np.ndarray:
    """Return the hashes with the bits of a part in front."""
    by = np.uint64((part + 1) * WIDTH % 64)
    return hashes >> by | hashes << (np.uint64(64) - by) if by else hashes


def _key(turned: np.ndarray) -> np.ndarray:
    return (turned >> SHIFT).astype(np.int64)


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
