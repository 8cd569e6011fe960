"""Random-resized crops of images that are stored whole: which box of each is shown (torchvision's RandomResizedCrop).

Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), with the area of `strong`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

AREA = (0.3, 1.0)  # of the image, as in `augmentation.strong`
RATIO = (3 / 4, 4 / 3)  # of width to height
TRIES = 10  # at a box that lies inside the image, after which it is the largest in the centre with such a ratio


@dataclass(frozen=True)
class RandomCrops:
    """So many random crops of every image of a batch, drawn from a seed."""

    seed: int
    views: int = 1

    def boxes(self, shapes: np.ndarray) -> np.ndarray:
        """Return int64 [views, n, 4]: left, top, right, bottom, for images of `shapes` int64 [n, 2] (height, width)."""
        draws = np.random.default_rng(self.seed).random((4, self.views, len(shapes), TRIES))
        height, width = shapes.T[:, None, :, None]  # [1, n, 1] each
        area = height * width * (AREA[0] + draws[0] * (AREA[1] - AREA[0]))
        ratio = np.exp(math.log(RATIO[0]) + draws[1] * math.log(RATIO[1] / RATIO[0]))
        wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        first = fits.argmax(-1)[..., None]
        wide, high, x, y = (np.take_along_axis(each, first, -1)[..., 0] for each in (wide, high, draws[2], draws[3]))
        height, width, none = height[..., 0], width[..., 0], ~fits.any(-1)
        wide = np.where(none, np.minimum(width, np.maximum(1, np.rint(height * RATIO[1]))), wide).astype(np.int64)
        high = np.where(none, np.minimum(height, np.maximum(1, np.rint(width / RATIO[0]))), high).astype(np.int64)
        left = np.where(none, (width - wide) // 2, np.floor(x * (width - wide + 1))).astype(np.int64)
        top = np.where(none, (height - high) // 2, np.floor(y * (height - high + 1))).astype(np.int64)
        return np.stack([left, top, left + wide, top + high], axis=-1)
