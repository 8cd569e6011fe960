"""Twelve of ImageNet-C's corruptions in five severities, of images as the models see them.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR
2019), kinds and parameters of its published code (github.com/hendrycks/robustness, Apache-2.0; make_cifar_c.py,
make_tinyimagenet_c.py, make_imagenet_c.py): up to 32 px those of CIFAR-10-C, up to 64 px those of Tiny-ImageNet-C,
above it those of ImageNet-C. Made with numpy, scipy.ndimage and Pillow; every random number is drawn from the image's
own id, so that an image is corrupted alike in any batch, on any machine. `VERSION` is raised when pixels change.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ray_robust.data.pool import seed_of

VERSION = 2
LARGEST = (32, 64)  # px, up to which the parameters of CIFAR-10-C and of Tiny-ImageNet-C hold
SEVERITIES = (1, 2, 3, 4, 5)
Operation = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]  # float [s, s, 3] in 0..1, and out


def corrupt(image: np.ndarray, kind: str, severity: int, image_id: int) -> np.ndarray:
    """Return the corrupted image, uint8 [s, s, 3] in and out; `image_id` seeds what is drawn."""
    operation, *strengths = KINDS[kind]
    strength = strengths[bisect_left(LARGEST, len(image))][severity - 1]
    random = np.random.default_rng(seed_of("corruption", kind, severity, image_id))
    corrupted = operation(image.astype(np.float64) / 255, strength, random)
    return np.round(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def _ndimage() -> Any:
    from scipy import ndimage  # late: a plan names the kinds without it

    return ndimage


def _gaussian_noise(x: np.ndarray, scale: float, random: np.random.Generator) -> np.ndarray:
    return x + random.normal(0, scale, x.shape)


def _shot_noise(x: np.ndarray, photons: float, random: np.random.Generator) -> np.ndarray:
    return random.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Salt and pepper, half each, of every channel by itself."""
    drawn = random.random(x.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, x))


def _speckle_noise(x: np.ndarray, scale: float, random: np.random.Generator) -> np.ndarray:
    return x + x * random.normal(0, scale, x.shape)


def _gaussian_blur(x: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    return _ndimage().gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def _defocus_blur(x: np.ndarray, disk: tuple[float, float], _: np.random.Generator) -> np.ndarray:
    """A disk of that radius, its edge smoothed."""
    radius, smooth = disk
    reach = int(np.ceil(radius)) + 2
    across = np.arange(-reach, reach + 1)
    kernel = (across[:, None] ** 2 + across[None, :] ** 2 <= radius**2).astype(float)
    kernel = _ndimage().gaussian_filter(kernel / kernel.sum(), smooth)
    return _ndimage().convolve(x, (kernel / kernel.sum())[:, :, None], mode="reflect")


def _motion_blur(x: np.ndarray, motion: tuple[int, float], random: np.random.Generator) -> np.ndarray:
    """Along a line at -45 to 45 degrees, with the weights of half a Gaussian."""
    radius, sigma = motion
    angle = np.deg2rad(random.uniform(-45, 45))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    moved = [_ndimage().shift(x, (step * np.sin(angle), step * np.cos(angle), 0), order=1, mode="nearest")
             for step in steps[weights > 1e-3]]  # fmt: skip
    return np.average(moved, axis=0, weights=weights[weights > 1e-3])


def _brightness(x: np.ndarray, more: float, _: np.random.Generator) -> np.ndarray:
    """The value of HSV, at the same hue and saturation."""
    value = x.max(-1, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _saturate(x: np.ndarray, change: tuple[float, float], _: np.random.Generator) -> np.ndarray:
    """The saturation of HSV, at the same hue and value; grey has the hue red."""
    value = x.max(-1, keepdims=True)
    apart = value - x
    saturation = apart.max(-1, keepdims=True) / np.where(value > 0, value, 1)
    changed = np.clip(saturation * change[0] + change[1], 0, 1)
    red = value * np.array([0.0, 1.0, 1.0])
    return value - np.where(saturation > 0, apart / np.where(saturation > 0, saturation, 1), red) * changed


def _contrast(x: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * share + mean


def _pixelate(x: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    size = len(x)
    small = _picture(x).resize((max(1, int(size * share)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BOX), np.float64) / 255


def _jpeg(x: np.ndarray, quality: int, _: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    _picture(x).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"), np.float64) / 255


def _picture(x: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(x * 255).astype(np.uint8))


Strengths = tuple[Any, ...]  # by severity

# name -> what it does, its strengths in CIFAR-10-C, in Tiny-ImageNet-C and in ImageNet-C
KINDS: dict[str, tuple[Operation, Strengths, Strengths, Strengths]] = {
    "gaussian_noise": (
        _gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.04, 0.08, 0.12, 0.15, 0.18),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
    "impulse_noise": (
        _impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.01, 0.02, 0.05, 0.08, 0.14),
        (0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "speckle_noise": (
        _speckle_noise,
        (0.06, 0.1, 0.12, 0.16, 0.2),
        (0.15, 0.2, 0.25, 0.3, 0.35),
        (0.15, 0.2, 0.35, 0.45, 0.6),
    ),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (0.5, 0.75, 1, 1.25, 1.5), (1, 2, 3, 4, 6)),
    "defocus_blur": (
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "motion_blur": (
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        _saturate,
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
}
