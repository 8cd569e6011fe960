"""A picture: an animal at a site at an hour, as a camera sees it.

Defines `render`, the only entry to the drawing: ids, traits and sites in, uint8 pixels out. Numbers are made for a
block of images at once, pixels for a few at a time, so that they stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ray_robust.data.pool import mix_bits, seed_of
from ray_robust.data.world import animals, sites
from ray_robust.data.world.draws import F32, normal, per_pixel, ramp, uniform

RENDERER = "world-1"  # part of every fingerprint: raise it when any pixel changes
BLOCK = 2048  # images whose numbers are made together
CACHED = 64 * 1024  # pixels that are drawn together

SKY, GLOW, WOOD, GROUND, TONE, GRASS, TRUNK = range(7)


@dataclass(frozen=True, eq=False)
class Hour:
    """What the site does not decide, one per image: gain and tint of the light [n, 3], haze [n] and its colour [n, 3],
    noise and colour noise [n], where the flash lights and how much it falls off [n, 3], wind [n], noise seeds [n],
    the grass before the animal: where it begins and how high it is [n, 2], infra-red [n]."""

    gain: np.ndarray
    haze: np.ndarray
    mist: np.ndarray
    noise: np.ndarray
    flash: np.ndarray
    wind: np.ndarray
    seed: np.ndarray
    grass: np.ndarray
    infrared: np.ndarray


def _cut(numbers: Any, part: slice) -> Any:
    return replace(numbers, **{f.name: getattr(numbers, f.name)[part] for f in fields(numbers)})


def render(ids: np.ndarray, traits: dict[str, np.ndarray], site: sites.Site, size: int) -> np.ndarray:
    """Return uint8 [n, size, size, 3]: image i shows an animal of `traits[...][i]` at site i; `ids[i]` decides the
    rest."""
    out = np.empty((len(ids), size, size, 3), np.uint8)
    few = max(1, CACHED // (size * size))
    for start in range(0, len(ids), BLOCK):
        block = slice(start, start + BLOCK)
        numbers = _arrange(ids[block], {k: v[block] for k, v in traits.items()}, _cut(site, block))
        for first in range(start, min(start + BLOCK, len(ids)), few):
            part = slice(first - start, first - start + few)
            animal, here, hour = (_cut(group, part) for group in numbers)
            _draw(animal, here, hour, out[block][part])
    return out


def _arrange(ids: np.ndarray, traits: dict[str, np.ndarray], site: sites.Site):
    """The numbers of a block: who stands where, at what hour. Infra-red pictures lose their colours here."""
    horizon = site.line[:, 0]
    depth = 0.15 + 0.8 * uniform(ids, "depth")
    ground = horizon + (0.93 - horizon) * (0.45 + 0.55 * depth)
    scale = site.distance * (0.65 + 0.6 * depth) * (1 + 0.08 * normal(ids, "growth"))
    animal = animals.pose(ids, traits, scale.astype(F32), ground.astype(F32))

    infrared = (uniform(ids, "night") < site.light[:, 1]).astype(F32)
    luminance = np.array([0.30, 0.59, 0.11], F32)

    def without_colour(colours: np.ndarray) -> np.ndarray:
        red, green, blue = (colours[..., k] * luminance[k] for k in range(3))
        grey = (red + green + blue)[..., None]
        share = infrared.reshape(-1, *[1] * (colours.ndim - 1))
        return (colours + share * (grey - colours)).astype(F32)

    colours = without_colour(site.colours)
    colours[:, :WOOD] *= (1 - 0.88 * infrared)[:, None, None]  # the flash does not reach the sky
    colours[:, WOOD] *= (1 - 0.55 * infrared)[:, None]
    site = replace(site, colours=colours)
    animal = replace(animal, first=without_colour(animal.first), second=without_colour(animal.second))

    exposure = site.light[:, 0] * (1 + 0.16 * normal(ids, "hour"))
    warmth = 0.05 * normal(ids, "warmth") * (1 - infrared)
    one = np.ones_like(warmth)
    tint = site.tint + (1 - site.tint) * infrared[:, None]
    gain = (
        (np.maximum(exposure, 0.3) * (1 + 0.35 * infrared))[:, None]
        * tint
        * np.stack([1 + warmth, one, 1 - warmth], axis=1)
    )
    noise = site.light[:, 2] * (1 + 0.5 * infrared)
    fall = site.light[:, 4] * (0.35 + 1.1 * infrared)
    bright = 0.75 - 0.45 * infrared
    hour = Hour(
        gain=gain.astype(F32),
        haze=(site.light[:, 3] * uniform(ids, "haze") * 1.6).astype(F32),
        mist=np.stack([bright, bright, bright + 0.03 * (1 - infrared)], axis=1).astype(F32),
        noise=np.stack([noise, noise * 0.6 * (1 - infrared)], axis=1).astype(F32),
        flash=np.stack([0.5 + 0.05 * normal(ids, "aim"), 0.55 * one, fall], axis=1).astype(F32),
        wind=uniform(ids, "wind"),
        seed=(mix_bits(ids, seed_of("noise")) >> np.uint64(32)).astype(np.uint32),
        grass=np.stack([ground + 0.01, site.grass[:, 0]], axis=1).astype(F32),
        infrared=infrared,
    )
    return animal, site, hour


def _static(seed: np.ndarray, size: int) -> np.ndarray:
    """Return four independent bytes per pixel as uint8 [n, size, size, 4], from a 32-bit mix of pixel and image.

    The mix is Wellons's lowbias32 (https://nullprogram.com/blog/2018/07/31/).
    """
    bits = np.arange(size * size, dtype=np.uint32)[None] * np.uint32(0x9E3779B9) + seed[:, None]
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x7FEB352D)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(0x846CA68B)
    bits ^= bits >> np.uint32(16)
    return bits.astype("<u4", copy=False).view(np.uint8).reshape(len(seed), size, size, 4)


def _draw(animal: animals.Animal, site: sites.Site, hour: Hour, out: np.ndarray) -> None:
    """Draw these few images into `out`, back to front."""
    size = out.shape[1]
    centre = (np.arange(size, dtype=F32) + F32(0.5)) / F32(size)
    x, y, pixel = centre[None, None, :], centre[None, :, None], 1 / size
    sky, wood, ground, tone, behind, before, blades = sites.paint(site, x, y, pixel, hour.wind)
    cover, shade, mix, eye, shadow = animals.paint(animal, x, y, pixel)
    shadow *= F32(-0.45)
    shadow += 1
    grass = _grass(hour, site, y, blades)
    blades = blades * F32(0.35) + F32(0.75)
    light = _flash_light(hour, x, y)
    static = _static(hour.seed, size)
    grey = _centred(static[..., 3], hour.noise[:, 0])
    glint = per_pixel(hour.infrared) * F32(0.95) + F32(0.03)  # eyes shine back at the flash

    for c in range(3):
        colour = [per_pixel(site.colours[:, k, c]) for k in range(7)]
        layer = _lay(colour[SKY], colour[GLOW], sky)
        layer = _lay(layer, colour[WOOD], wood)
        floor = tone * (colour[TONE] - colour[GROUND])
        floor += colour[GROUND]
        floor *= shadow
        layer = _lay(layer, floor, ground)
        layer = _lay(layer, colour[TRUNK], behind)
        coat = mix * (per_pixel(animal.second[:, c]) - per_pixel(animal.first[:, c]))
        coat += per_pixel(animal.first[:, c])
        coat *= shade
        coat = _lay(coat, glint, eye)
        layer = _lay(layer, coat, cover)
        layer = _lay(layer, colour[GRASS] * blades, grass)
        layer = _lay(layer, colour[TRUNK] * F32(0.8), before)
        layer *= light
        layer *= per_pixel(hour.gain[:, c])
        layer *= 1 - per_pixel(hour.haze)
        layer += per_pixel(hour.mist[:, c]) * per_pixel(hour.haze)
        layer += grey
        layer += _centred(static[..., c], hour.noise[:, 1])
        ramp(layer)
        layer *= F32(255)
        layer += F32(0.5)
        out[..., c] = layer


def _grass(hour: Hour, site: sites.Site, y: np.ndarray, blades: np.ndarray) -> np.ndarray:
    """Return the mask of the grass before the animal, whose upper edge is that of the blades."""
    edge = per_pixel(hour.grass[:, 0]) - per_pixel(hour.grass[:, 1]) * (blades + F32(0.5))
    grass = ramp((y - edge) * F32(y.size) + F32(0.5))
    grass *= per_pixel(site.grass[:, 2])
    return grass


def _flash_light(hour: Hour, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how bright the flash lights each pixel: less with the squared distance from where it points."""
    dx, dy = x - per_pixel(hour.flash[:, 0]), y - per_pixel(hour.flash[:, 1])
    light = dx * dx + dy * dy
    light *= -per_pixel(hour.flash[:, 2])
    light += 1
    return np.maximum(light, F32(0.15), out=light)


def _centred(static: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return bytes [n, size, size] as numbers from -noise to noise, which is [n]."""
    centred = static.astype(F32)
    centred -= F32(127.5)
    centred *= per_pixel(noise) * F32(1 / 127.5)
    return centred


def _lay(below: np.ndarray, colour: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return below + mask (colour - below), reusing memory where it can."""
    step = colour - below
    if step.shape != mask.shape:
        step = step * mask
    else:
        step *= mask
    step += below
    return step
