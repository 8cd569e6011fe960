"""Fractals by iterated function systems: how a class is found and how an image of it is drawn.

A class is a set of affine maps whose attractor fills enough of its frame; an image jitters the maps' weights, one
coefficient and the viewpoint. After Kataoka et al., "Pre-training without natural images" (ACCV 2020), FractalDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ray_robust.data.pool import mix_bits, seed_of
from ray_robust.data.world.draws import F32, normal, rgb, rotation, uniform

RENDERER = "fractals-1"  # part of every fingerprint: raise it when any pixel changes
MAPS = 6  # at most, per system
FILL = 0.16  # share of a 32 x 32 frame that an accepted attractor touches
WALKERS, BURN_IN = 128, 12
CHOICES = 256  # resolution of the weights
CACHED = 64 * 1024  # points that are drawn together
TOGETHER = 24  # images that walk together, at least: a step on fewer numbers is mostly the cost of calling NumPy


@dataclass(frozen=True, eq=False)
class Systems:
    """Classes of fractals: `maps` float32 [classes, MAPS, 6] (x' = a x + b y + e, y' = c x + d y + f, as a b c d e f),
    `weights` float32 [classes, MAPS] (0 for a map that is not there), `frame` float32 [classes, 3]: centre and half
    side of the square that the attractor lies in."""

    maps: np.ndarray
    weights: np.ndarray
    frame: np.ndarray


def _walk(maps: np.ndarray, weights: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the chaos game: points x, y float32 [n, steps, WALKERS] on the attractors of `maps` [n, MAPS, 6].

    Which map a walker takes next is one fixed table of random numbers, read through each image's own weights.
    """
    n = len(maps)
    table = _choices(weights)
    dice = (mix_bits(np.arange((steps + BURN_IN) * WALKERS, dtype=np.uint64), 7) & np.uint64(CHOICES - 1)).astype(
        np.intp
    )
    flat = np.ascontiguousarray(maps.reshape(n * MAPS, 6).T)
    table += (np.arange(n) * MAPS)[:, None]
    x, y, ax, by = np.zeros((4, n, WALKERS), F32)
    taken = np.empty((6, n, WALKERS), F32)
    xs, ys = np.empty((2, n, steps, WALKERS), F32)
    for step, roll in enumerate(dice.reshape(-1, WALKERS)):
        a, b, c, d, e, f = np.take(flat, np.take(table, roll, axis=1), axis=1, out=taken, mode="clip")
        np.multiply(a, x, out=ax)
        ax += np.multiply(b, y, out=by)
        ax += e
        c *= x
        c += np.multiply(d, y, out=y)
        np.add(c, f, out=y)
        x, ax = ax, x
        if step >= BURN_IN:
            xs[:, step - BURN_IN], ys[:, step - BURN_IN] = x, y
    return xs, ys


def _choices(weights: np.ndarray) -> np.ndarray:
    """intp [n, CHOICES]: the map that each of the equally likely throws stands for."""
    edges = weights[:, :1].copy()
    columns = [edges]
    for k in range(1, MAPS):  # summed one by one: the order of a reduction could depend on the shape of the batch
        columns.append(columns[-1] + weights[:, k : k + 1])
    throws = (np.arange(CHOICES, dtype=F32) + F32(0.5)) / F32(CHOICES) * columns[-1]
    return sum((throws > edge).astype(np.intp) for edge in columns[:-1])


@lru_cache(maxsize=4)
def make_systems(classes: int, seed: int) -> Systems:
    """That many systems, class k the same however many there are: the first of its candidates whose attractor stays
    finite and fills at least FILL of a 32 x 32 frame."""
    maps = np.zeros((classes, MAPS, 6), F32)
    weights = np.zeros((classes, MAPS), F32)
    frame = np.zeros((classes, 3), F32)
    missing = np.arange(classes)
    attempt = 0
    while len(missing):
        ids = mix_bits(missing.astype(np.uint64) << np.uint64(20) | np.uint64(attempt), seed_of("fractal class", seed))
        candidate, weight = _candidates(ids)
        x, y = (points.reshape(len(ids), -1) for points in _walk(candidate, weight, 16))
        low = np.stack([x.min(1), y.min(1)], axis=1)
        high = np.stack([x.max(1), y.max(1)], axis=1)
        half = (high - low).max(1) / 2
        good = np.isfinite(half) & (half > 1e-3) & (half < 1e3)
        half = np.where(good, half, 1)
        middle = np.where(good[:, None], (low + high) / 2, 0)
        touched = np.zeros((len(ids), 32 * 32), bool)
        with np.errstate(invalid="ignore"):
            column = np.clip(np.nan_to_num((x - middle[:, :1]) / half[:, None] * 16 + 16), 0, 31).astype(np.intp)
            row = np.clip(np.nan_to_num((y - middle[:, 1:]) / half[:, None] * 16 + 16), 0, 31).astype(np.intp)
        touched[np.arange(len(ids))[:, None], row * 32 + column] = True
        good &= touched.mean(1) >= FILL
        accepted = missing[good]
        maps[accepted], weights[accepted] = candidate[good], weight[good]
        frame[accepted] = np.concatenate([middle, half[:, None]], axis=1)[good]
        missing = missing[~good]
        attempt += 1
    return Systems(maps, weights, frame)


def _candidates(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random systems [n, MAPS, 6] of 2 to MAPS maps, weighted by area. Maps turn, flip and shrink."""
    count = 2 + np.floor(uniform(ids, "maps") * (MAPS - 1))
    maps, weights = [], []
    for k in range(MAPS):
        c1, s1 = rotation(uniform(ids, k, "turn"))
        c2, s2 = rotation(uniform(ids, k, "lean"))
        big = 0.35 + 0.55 * uniform(ids, k, "big")
        small = big * (0.2 + 0.8 * uniform(ids, k, "small"))
        small *= np.where(uniform(ids, k, "flip") < 0.5, F32(-1), F32(1))
        # turn x stretch x turn: singular values below 1, so that every map is a contraction
        maps.append(np.stack([c1 * big * c2 - s1 * small * s2, -c1 * big * s2 - s1 * small * c2,
                              s1 * big * c2 + c1 * small * s2, -s1 * big * s2 + c1 * small * c2,
                              2 * uniform(ids, k, "e") - 1, 2 * uniform(ids, k, "f") - 1], axis=1))  # fmt: skip
        weights.append(np.where(k < count, np.abs(big * small) + F32(0.02), 0))
    return np.stack(maps, axis=1).astype(F32), np.stack(weights, axis=1).astype(F32)


def render(ids: np.ndarray, systems: Systems, labels: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 [n, size, size, 3]: image i is an instance of the system `labels[i]`, decided by `ids[i]` alone."""
    out = np.empty((len(ids), size, size, 3), np.uint8)
    steps = max(4, -(-size * size * 3 // 2 // WALKERS))
    few = max(1, CACHED // (steps * WALKERS))
    many = max(TOGETHER, few)
    for start in range(0, len(ids), many):
        part = slice(start, start + many)
        x, y = _points(ids[part], systems, labels[part], steps)
        for first in range(0, len(x), few):
            these = slice(start + first, start + min(first + few, len(x)))
            seen = slice(first, first + few)
            _draw(ids[these], x[seen], y[seen], systems.frame[labels[these]], size, out[these])
    return out


def _points(ids: np.ndarray, systems: Systems, labels: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of each image's own variant of its system, as `_walk` has them."""
    maps, weights = systems.maps[labels].copy(), systems.weights[labels].copy()
    for k in range(MAPS):
        weights[:, k] *= 0.6 + 0.8 * uniform(ids, "weight", k)
    which = (uniform(ids, "coefficient") * 6).astype(np.intp)
    maps[np.arange(len(ids)), :, which] *= (0.85 + 0.3 * uniform(ids, "jitter"))[:, None].astype(F32)
    return _walk(maps, weights, steps)


def _draw(ids: np.ndarray, x: np.ndarray, y: np.ndarray, frame: np.ndarray, size: int, out: np.ndarray) -> None:
    """Pictures of points x, y [n, steps, WALKERS], from a viewpoint of each image's own: centred, turned, mirrored and
    scaled to the picture."""
    n = len(ids)
    centre_x, centre_y, half = (frame[:, k][:, None, None] for k in range(3))
    zoom = (size * (0.36 + 0.12 * uniform(ids, "zoom")))[:, None, None] / half
    cos, sin = rotation(uniform(ids, "view"))
    mirror = np.where(uniform(ids, "mirror") < 0.5, F32(-1), F32(1))
    cos, sin, mirror = (v[:, None, None] for v in (cos, sin, mirror))
    x, y = (x - centre_x) * mirror * zoom, (y - centre_y) * zoom
    column = x * cos - y * sin
    column += (size * (0.5 + 0.06 * normal(ids, "x")))[:, None, None]
    row = x * sin + y * cos
    row += (size * (0.5 + 0.06 * normal(ids, "y")))[:, None, None]
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    np.clip(column, 0, size - 1, out=column)
    np.clip(row, 0, size - 1, out=row)
    cell = row.astype(np.int32) * size + column.astype(np.int32)
    cell += (np.arange(n, dtype=np.int32) * (size * size))[:, None, None]
    cell = np.where(inside, cell, n * size * size)  # points beyond the frame fall into a bin of their own
    density = np.bincount(cell.ravel(), minlength=n * size * size + 1)[:-1].reshape(n, size, size).astype(F32)

    glow = density / (density + F32(1.5))
    dark = rgb(uniform(ids, "ground hue"), 0.3 * uniform(ids, "ground grey"), 0.25 * uniform(ids, "ground"))
    light = rgb(uniform(ids, "hue"), 0.7 * uniform(ids, "saturation"), 0.8 + 0.2 * uniform(ids, "value"))
    for c in range(3):
        low, high = dark[:, c][:, None, None], light[:, c][:, None, None]
        out[..., c] = (low + glow * (high - low)) * F32(255) + F32(0.5)
