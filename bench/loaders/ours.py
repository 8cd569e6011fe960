"""The two stores of this project, as a training on a CPU reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.loaders.data import BATCH, MEAN, STD, Batches, Data
from ray_robust.data.opened import images_of
from ray_robust.train.augmentation import augment
from ray_robust.train.crops import RandomCrops
from ray_robust.train.images import ImageBank, normalise

SCALE = [255 * value for value in MEAN], [255 * value for value in STD]  # of pixels up to 255


class Compact:
    """Random-resized crops of the stored JPEGs."""

    compact = True

    def __init__(self, data: Data) -> None:
        self.data, self.epochs = data, 0

    def write(self, folder: Path) -> None:
        """Fill the store; it lies beside `folder`, for it is what all others are made of."""
        store = self.data.store(self.compact)
        folder.rmdir()
        folder.symlink_to(store.folder, target_is_directory=True)

    def epoch(self, cores: int) -> Batches:
        """One pass, by so many threads."""
        torch.set_num_threads(cores)
        store, self.epochs = self.data.store(self.compact), self.epochs + 1
        bank = ImageBank([images_of(store, np.arange(store.n))], torch.device("cpu"))
        for number, positions in enumerate(torch.randperm(store.n).split(BATCH)):
            yield normalise(self.shown(bank, positions, 1000 * self.epochs + number), *SCALE)

    @staticmethod
    def shown(bank: ImageBank, positions: torch.Tensor, seed: int) -> torch.Tensor:
        """Return a batch in uint8."""
        return augment(bank.take(positions, RandomCrops(seed)), "flip")


class Raw(Compact):
    """Squares that were decoded once, shifted at random: cutting them smaller would need larger ones."""

    compact = False

    @staticmethod
    def shown(bank: ImageBank, positions: torch.Tensor, seed: int) -> torch.Tensor:
        """Return a batch in uint8."""
        return augment(bank.take(positions), "crop")
