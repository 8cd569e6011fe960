"""What all loaders of `bench.loaders` have in common: the images, and what becomes of each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore
from ray_robust.data.sources.folder import FolderSource
from ray_robust.spec.store import MARGIN
from ray_robust.train.crops import AREA, RATIO
from tests.make_images import encoded, photo

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10
Batches = Iterator[torch.Tensor]


class Loader(Protocol):
    """A way to load; made in a process of its own, and whatever it raises is reported.

    `write` puts the data into a folder in its own format; `epoch` yields every image once in random order, as random
    resized crops, flipped or not, float32 [b, 3, px, px], normalised, by `cores` processes or threads.
    """

    def __init__(self, data: Data) -> None: ...
    def write(self, folder: Path) -> None: ...
    def epoch(self, cores: int) -> Batches: ...


@dataclass(frozen=True)
class Data:
    """Photographs in class folders below `pictures`, and the model's size; `root` has the stores."""

    pictures: Path
    root: Path
    px: int

    @cached_property
    def source(self) -> FolderSource:
        """The photographs as a pool."""
        return FolderSource("pictures", FolderSource.Options(path=str(self.pictures)))

    def store(self, compact: bool) -> ImageStore:
        """Return a store of them, filled."""
        form = Form(self.px, math.ceil(self.px * MARGIN) if compact else None)
        store = ImageStore.open(self.root / "store", self.source, form)
        store.fill(store.missing())
        return store

    @cached_property
    def jpegs(self) -> list[bytes]:
        """What the compact store has of each: what every other format holds, so that all have equal images."""
        store = self.store(compact=True)
        return [bytes(image.data) for image in store.pack.stored(store.slots(np.arange(store.n)))]

    @cached_property
    def labels(self) -> list[int]:
        """The class of each."""
        return [int(label) for label in self.source.catalog.labels]

    def as_files(self, folder: Path) -> None:
        """Write the JPEGs into class folders."""
        for i, (jpeg, label) in enumerate(zip(self.jpegs, self.labels, strict=True)):
            path = folder / f"class-{label}" / f"{i:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)

    @cached_property
    def transform(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 [3, h, w] -> float32 [3, px, px]: torchvision's, for the loaders that have none of their own."""
        from torchvision.transforms import v2

        return v2.Compose([
            v2.RandomResizedCrop(self.px, scale=AREA, ratio=RATIO, antialias=True), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def prepare(self, jpeg: bytes) -> torch.Tensor:
        """Decode by torchvision, which is faster than Pillow, and transform."""
        from torchvision.io import ImageReadMode, decode_jpeg

        return self.transform(decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), ImageReadMode.RGB))


def workers(cores: int) -> int:
    """Return how many processes load: on one core none, which saves sending images to the main one."""
    return 0 if cores == 1 else cores


def make_pictures(root: Path, count: int) -> Path:
    """JPEGs of photograph-like noise in class folders, short side 500 px, quality 90; those that exist are kept."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        list(pool.map(partial(_make_picture, root), range(count), chunksize=16))
    return root


def _make_picture(root: Path, number: int) -> None:
    path = root / f"class-{number % CLASSES}" / f"{number:06d}.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        wide, high = (667, 500) if number % 3 else (500, 667)
        path.write_bytes(encoded(photo(wide, high, seed=number), quality=90))
