"""Camera sites: sky, wood line, ground, grass, trunks, light.

Defines `Site` (numbers per image, made by `describe` from standard normals by name) and `paint` (per pixel). A site is
the same whichever animal walks through it; what changes from picture to picture (hour, wind) belongs to the scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ray_robust.data.world.draws import F32, per_pixel, ramp, rgb, spread, wave


@dataclass(frozen=True, eq=False)
class Site:
    """Sites, one per image (every array starts with n).

    colours  [n, 7, 3]: sky, sky at the horizon, wood, ground, ground's other tone, grass, trunk
    texture  [n, 6]: frequency x and y, phase x and y, warp, contrast of the ground
    line     [n, 5]: horizon y, its roughness and frequency, height of the wood, frequency of the wood
    grass    [n, 3]: height, frequency, opacity
    trunks   [n, 2, 4]: x, half-width, lean, foot y; the first stands behind the animal, the second before it
    light    [n, 5]: exposure, share of infra-red pictures, noise, haze, fall-off to the corners
    tint     [n, 3]: colour of the light
    distance [n]: size of a trunk of length 1 at the middle of the ground
    """

    colours: np.ndarray
    texture: np.ndarray
    line: np.ndarray
    grass: np.ndarray
    trunks: np.ndarray
    light: np.ndarray
    tint: np.ndarray
    distance: np.ndarray


def describe(z: Callable[[str], np.ndarray]) -> Site:
    """Return sites made from `z(name)`, a standard normal per site: float32 [n] for any name."""

    def between(name: str, low: float, high: float) -> np.ndarray:
        return spread(z(name), low, high).astype(F32)

    snow = ramp(z("snow") * 6 - 8.5)  # one site in twelve or so
    hue = between("ground hue", 0.02, 0.36)
    saturation = between("ground saturation", 0.08, 0.62) * (1 - 0.85 * snow)
    value = between("ground value", 0.20, 0.68)
    value = value + snow * (0.85 - value)
    grass_hue = hue + between("grass hue", -0.03, 0.12)
    wood_value = between("wood value", 0.12, 0.50)
    sky_hue, sky_value = between("sky hue", 0.50, 0.66), between("sky value", 0.55, 1.0)
    sky_saturation = between("sky saturation", 0.02, 0.45)
    colours = [
        rgb(sky_hue, sky_saturation, sky_value),
        rgb(sky_hue + between("glow hue", 0.0, 0.5), sky_saturation * 0.5, sky_value),
        rgb(between("wood hue", 0.15, 0.48), between("wood saturation", 0.05, 0.5), wood_value),
        rgb(hue, saturation, value),
        rgb(hue + between("tone hue", -0.07, 0.07), saturation, value * between("tone value", 0.50, 1.35)),
        rgb(grass_hue, saturation * 1.1, value * between("grass value", 0.5, 1.2)),
        rgb(
            between("trunk hue", 0.04, 0.12), between("trunk saturation", 0.05, 0.4), between("trunk value", 0.1, 0.45)
        ),
    ]
    trunks = [
        np.stack([between(f"trunk {k} x", -0.3, 1.3), between(f"trunk {k} width", *width),
                  between(f"trunk {k} lean", -0.15, 0.15), between(f"trunk {k} foot", *foot)], axis=1)
        for k, width, foot in (("behind", (0.0, 0.09), (0.50, 0.65)), ("before", (-0.05, 0.06), (0.9, 1.2)))
    ]  # fmt: skip
    warmth = between("warmth", -0.1, 0.1)
    tint = np.stack([1 + warmth, np.ones_like(hue), 1 - warmth], axis=1)
    return Site(
        colours=np.stack(colours, axis=1),
        texture=np.stack([between("texture x", 0.4, 3.2), between("texture y", 0.3, 2.6), between("phase x", 0, 4),
                          between("phase y", 0, 4), between("warp", 0.0, 0.5), between("contrast", 0.3, 1.2)], axis=1),
        line=np.stack([between("horizon", 0.06, 0.52), between("roughness", 0.0, 0.06), between("hills", 0.5, 2.5),
                       between("wood", -0.08, 0.42), between("wood frequency", 2, 9)], axis=1),
        grass=np.stack([between("grass height", -0.02, 0.12), between("grass frequency", 4, 14),
                        ramp(z("grass cover") * 1.5 + 0.6)], axis=1),
        trunks=np.stack(trunks, axis=1),
        light=np.stack([between("exposure", 0.65, 1.25), ramp(z("night") * 0.45 + 0.15), between("noise", 0.01, 0.08),
                        between("haze", 0.0, 0.25), between("fall-off", 0.0, 0.9)], axis=1),
        tint=tint.astype(F32),
        distance=between("distance", 0.20, 0.40),
    )  # fmt: skip


def paint(site: Site, x: np.ndarray, y: np.ndarray, pixel: float, wind: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return (sky, wood, ground, tone, behind, before, blades): masks, float32 [n, size or 1, size], in 0-1.

    sky is the share of the horizon's colour in the sky, tone that of the other ground tone; wind [n] moves the grass.
    """
    sharp = F32(1 / pixel)
    horizon, rough, hills, wood_height, wood_wave = (per_pixel(site.line[:, k]) for k in range(5))
    fx, fy, px, py, warp, contrast = (per_pixel(site.texture[:, k]) for k in range(6))

    edge = horizon + rough * wave(hills * x + px)
    crown = wave(wood_wave * x + py)
    crown *= wave(wood_wave * 0.37 * x + px)
    top = edge - wood_height * (crown * F32(0.35) + F32(0.65))
    ground = ramp((y - edge) * sharp + F32(0.5))
    wood = ramp((y - top) * sharp + F32(0.5))
    sky = ramp(y / (horizon + F32(0.05)))

    near = 1 / (ramp(y - horizon) + F32(0.18))  # perspective: the texture is finer towards the horizon
    across = (x - F32(0.5)) * near
    tone = wave(across * fx + (near * fy + px))
    tone *= warp
    tone += across * (fx * F32(0.55))
    tone += near * (fy * F32(0.8)) + py
    tone = wave(tone)
    tone *= contrast * F32(0.5)
    tone += F32(0.5)
    ramp(tone)

    blades = wave(per_pixel(site.grass[:, 1]) * x + per_pixel(wind))
    blades *= wave(per_pixel(site.grass[:, 1]) * F32(0.61) * x + px)
    blades *= F32(0.5)
    blades += F32(0.5)
    behind, before = (_trunk(site.trunks[:, k], x, y, sharp) for k in range(2))
    return sky, wood, ground, tone, behind, before, blades


def _trunk(trunk: np.ndarray, x: np.ndarray, y: np.ndarray, sharp: np.float32) -> np.ndarray:
    """Return the mask of a trunk [n, 4] (x, half-width, lean, foot y)."""
    middle, width, lean, foot = (per_pixel(trunk[:, j]) for j in range(4))
    mask = np.abs(x - (middle + lean * (y - F32(0.5))))
    np.subtract(width, mask, out=mask)
    mask *= sharp
    mask += F32(0.5)
    ramp(mask)
    mask *= ramp((foot - y) * sharp + F32(0.5))
    return mask
