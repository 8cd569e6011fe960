"""A mixture at scale: `python -m bench.index [--images N] [--classes K] [--sources S] [--out FILE]`.

Draws so many images (100 million) from a fifth more, in long-tailed classes (20,000) of several sources (3), and writes
them as a fingerprinted index. The last line has the seconds to draw and to write, and this process's peak of memory,
the listing of the sources included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import show
from ray_robust.data.mixtures.index import write_index
from ray_robust.data.mixtures.mixture import draw
from ray_robust.data.pool import Catalog, Options, mix_bits, seed_of
from ray_robust.data.rounding import apportion
from ray_robust.spec.load import parse_number
from ray_robust.spec.sections import Pretrain, SourceSection

BLOCK = 1 << 20


def main(argv: list[str]) -> None:
    """List the sources, draw, write; print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.index", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=parse_number, default=100_000_000)
    parser.add_argument("--classes", type=parse_number, default=20_000)
    parser.add_argument("--sources", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    names = [f"source{i + 1}" for i in range(args.sources)]
    classes = apportion(args.classes, np.ones(args.sources))
    images = -(-args.images * 6 // 5 // args.sources)
    catalogs = {name: listed(name, images, int(count)) for name, count in zip(names, classes, strict=True)}
    mixture = Pretrain(
        sources={name: SourceSection(kind="listed", options=Options()) for name in names},
        num_images=args.images,
        epochs=1,
    )
    begun = time.perf_counter()
    subset = draw(mixture, catalogs, dict.fromkeys(names), 1)
    drawn = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = args.out or Path(folder, "index.parquet")
        found = write_index(subset, catalogs, path)
        written, size = time.perf_counter(), path.stat().st_size
    told = {
        "images": len(subset),
        "classes": subset.leaf_classes,
        "seconds": round(drawn - begun, 2),
        "seconds_write": round(written - drawn, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "index_gb": round(size / 1e9, 2),
        "fingerprint": found,
    }
    rows = [(part["source"], *(f"{part[k]:,}" for k in ("available", "selected", "classes")))
            for part in subset.composition]  # fmt: skip
    show(("source", "available", "drawn", "classes"), rows, told)


def listed(name: str, images: int, classes: int) -> Catalog:
    """A listing without pixels: classes by Zipf's law with a floor, in no order."""
    share = 1 / np.arange(1, classes + 1) ** 0.5
    ends = np.cumsum(share / share.sum())
    labels, ids = np.empty(images, np.int32), np.empty(images, np.uint64)
    generator = np.random.default_rng(seed_of("bench", name))
    for start in range(0, images, BLOCK):
        block = slice(start, min(start + BLOCK, images))
        labels[block] = np.searchsorted(ends, generator.random(block.stop - start)).clip(max=classes - 1)
        ids[block] = mix_bits(np.arange(start, block.stop, dtype=np.uint64), seed_of("bench", name))
    return Catalog(labels, tuple(f"{name} {k}" for k in range(classes)), ids, name, "none")


if __name__ == "__main__":
    main(sys.argv[1:])
