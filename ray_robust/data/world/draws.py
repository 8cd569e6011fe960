"""Random numbers and small functions that give the same bits on every machine.

Owns `uniform` and `normal` (one number per image and name, hashed from the image's id), and the few shapes that
pictures are made of. Only + - * / sqrt floor min max are used, which IEEE 754 rounds exactly, so that an image never
depends on the processor, on the batch it is drawn in, or on how many others there are.
"""

from __future__ import annotations

import numpy as np

from ray_robust.data.pool import mix_bits, seed_of

F32 = np.float32


def uniform(ids: np.ndarray, *names: object) -> np.ndarray:
    """Return one float32 in [0, 1) per id (uint64 [n]), decided by the id and the names alone."""
    return (mix_bits(ids, seed_of(*names)) >> np.uint64(40)).astype(F32) * F32(2**-24)


def normal(ids: np.ndarray, *names: object) -> np.ndarray:
    """Return one float32 per id, nearly standard normal: the sum of four 16-bit uniforms, so never beyond 3.47."""
    bits = mix_bits(ids, seed_of(*names))
    total = np.asarray(sum((bits >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)))
    return (total.astype(F32) * F32(2**-16) - F32(2)) * F32(1.7320508)


def spread(z: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a standard normal z brought to (low, high), nearly uniformly; a wider z crowds towards the two ends."""
    return (low + high) / 2 + (high - low) / 2 * z / np.sqrt(z * z + 1.3)


def per_pixel(values: np.ndarray) -> np.ndarray:
    """Return values [n] as [n, 1, 1], to combine with pixels [n, size, size]."""
    return values[:, None, None]


def ramp(x: np.ndarray) -> np.ndarray:
    """Limit x to [0, 1], in place, and return it."""
    return np.clip(x, 0, 1, out=x)


def wave(turns: np.ndarray) -> np.ndarray:
    """Return nearly sin(2 pi turns), from parabolas (at most 0.06 off): cheaper than a sine and exact everywhere."""
    u = turns - np.floor(turns)
    u -= 0.5
    bend = np.abs(u)
    bend *= 16
    bend -= 8
    u *= bend
    return u


def rotation(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (cosine, sine) of an angle given in turns, of unit length."""
    c, s = wave(turns + F32(0.25)), wave(turns)
    length = np.sqrt(c * c + s * s)
    return c / length, s / length


def rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return float32 [n, 3] in 0-1 from hue in turns, saturation and value in 0-1 (each [n]; clipped to it)."""
    saturation, value = ramp(saturation.copy()), ramp(value.copy())
    channels = []
    for offset in (5, 3, 1):
        k = hue * 6 + offset
        k -= np.floor(k / 6) * 6
        channels.append(value - value * saturation * ramp(np.minimum(k, 4 - k)))
    return np.stack(channels, axis=1).astype(F32)
