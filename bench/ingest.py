"""How fast JPEGs get into the store: `python -m bench.ingest [--images N] [--px 64 224] [--rounds N]`.

The same generated pictures (short side 500 px, photo-like, quality 90) three ways in turn: through the image store
(listed, decoded, checksummed, on disk and synced), through torchvision's ImageFolder with the same resize (uint8
tensors, nothing kept), and through a bare loop over libjpeg-turbo that decodes at the smallest sufficient scale and
resizes into memory, without a look at formats, orientation or damage. A core's second is a second of CPU time of all
threads, the kernel's share included, which neighbours on the machine disturb least; ratios are medians over the rounds.
Ratios of wall time, in which waiting for the disk counts, stand beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from bench import show
from ray_robust.data.images.store import ImageStore
from ray_robust.data.sources.folder import FolderSource
from tests.make_images import encoded, photo

CLASSES = 10
Times = dict[tuple[int, str], list[float]]  # seconds of every round by (px, way)


def main(argv: list[str]) -> None:
    """Measure every size in every way and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.ingest", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--px", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where pictures and stores are written (default: the temporary folder)")
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # all threads on one core
    ways: dict[str, Callable[[Path, Path, int], None]] = {
        "store": through_store, "imagefolder": through_imagefolder, "libjpeg": through_libjpeg
    }  # fmt: skip
    cpu: Times = {(px, way): [] for px in args.px for way in ways}
    wall: Times = {(px, way): [] for px in args.px for way in ways}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder) as folder:
        pictures = make_pictures(Path(folder, "pictures"), args.images)
        for turn in range(args.rounds + 1):
            for px, way in cpu:
                begun = time.process_time(), time.perf_counter()
                ways[way](pictures, Path(folder, f"store-{turn}"), px)
                if turn:  # the first round warms imports and the page cache
                    cpu[px, way].append(time.process_time() - begun[0])
                    wall[px, way].append(time.perf_counter() - begun[1])
    found: dict[str, Any] = {"images": args.images, "rounds": args.rounds}
    for name, seconds in (("", cpu), ("_wall", wall)):
        for way in ("imagefolder", "libjpeg"):
            found[f"store_over_{way}{name}"] = {str(px): over(seconds, px, way) for px in args.px}
    rows = [
        (f"{px} px", way, f"{args.images / median(cpu[px, way]):.0f}", f"{args.images / median(wall[px, way]):.0f}",
         f"{over(cpu, px, way):.2f}", f"{over(wall, px, way):.2f}")
        for px, way in cpu
    ]  # fmt: skip
    show(("to", "way", "images/s of a core", "by the clock", "store over it", "by the clock"), rows, found)


def over(seconds: Times, px: int, way: str) -> float:
    """The store's rate over another way's: the median of the rounds' ratios, since what runs in turn meets the same
    neighbours."""
    pairs = zip(seconds[px, "store"], seconds[px, way], strict=True)
    return round(median(other / ours for ours, other in pairs), 2)


def make_pictures(root: Path, count: int) -> Path:
    """JPEGs in class folders, upright and lying ones."""
    for i in range(count):
        path = root / f"class-{i % CLASSES}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (667, 500) if i % 3 else (500, 667)
        path.write_bytes(encoded(photo(*size, seed=i), quality=90))
    return root


def through_store(pictures: Path, root: Path, px: int) -> None:
    """List the folder and fill a new store."""
    pool = FolderSource("pictures", FolderSource.Options(path=str(pictures)))
    store = ImageStore.open(root, pool, px)
    store.fill(np.arange(store.n))


def through_imagefolder(pictures: Path, _root: Path, px: int) -> None:
    """One epoch of an ImageFolder in this process."""
    from torchvision import datasets, transforms

    steps = (transforms.Resize(px), transforms.CenterCrop(px), transforms.PILToTensor())
    data = datasets.ImageFolder(str(pictures), transforms.Compose(steps))
    for i in range(len(data)):
        data[i]


def through_libjpeg(pictures: Path, _root: Path, px: int) -> None:
    """Decode and resize, and nothing else."""
    files = sorted(pictures.rglob("*.jpg"))
    images = np.empty((len(files), px, px, 3), np.uint8)
    for i, file in enumerate(files):
        data = file.read_bytes()
        image = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=px, min_width=px))
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        images[i] = np.asarray(image.resize((px, px), Image.Resampling.BILINEAR, box=box))


if __name__ == "__main__":
    main(sys.argv[1:])
