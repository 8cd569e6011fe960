"""Whether drawn images keep up with training: `python -m bench.rendering [--model NAME@PX:BATCH] [--rounds N]`.

On one core, in turn: images of each built-in pool drawn at the model's size, and a model trained on as many
(test_resnet@32:128, the smallest that the studies use). The images of a pool whose ratio is below 1 take longer to draw
than the model takes to see them once; a sweep draws an image once, into the store, and sees it many times.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from bench import show
from bench.step import Shape, Way, measured, over, through_fit
from ray_robust.data.pool import Pool
from ray_robust.registry import find
from ray_robust.spec.training import Training
from ray_robust.train.context import Context
from ray_robust.train.images import ImageBank

POOLS = (("source", "species"), ("source", "fractals"), ("task", "camera-traps"))


def main(argv: list[str]) -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.rendering", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Shape.read, default=Shape("test_resnet", 32, 128), metavar="NAME@PX:BATCH")
    parser.add_argument("--seconds", type=float, default=2.0, help="one measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    shape = args.model
    pools = {name: find(kind, name)(name, find(kind, name).Options()) for kind, name in POOLS}
    images = next(iter(pools.values())).read(np.arange(8 * shape.batch), shape.px).images
    settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch)
    bank = ImageBank([(images, None)], torch.device("cpu"))
    ways = {"training": through_fit(shape, shape.section, settings, bank, Context())}
    ways |= {name: drawn(pool, shape) for name, pool in pools.items()}
    rates = measured(ways, shape.batch, args.seconds, args.rounds)
    found: dict[str, Any] = {"model": str(shape), "rounds": args.rounds}
    found["over_training"] = {name: over(rates[name], rates["training"]) for name in pools}
    rows = [(name, f"{median(of):,.0f}", f"{found['over_training'].get(name, 1.0):.2f}") for name, of in rates.items()]
    show(("what", "images/s", "over training"), rows, found)


def drawn(pool: Pool, shape: Shape) -> Way:
    """Seconds to draw so many batches of a pool's images, from all over it, a thousand at a time as the store does."""
    order = np.random.default_rng(0).permutation(len(pool.catalog))

    def run(steps: int) -> float:
        rows = np.resize(order, steps * shape.batch)
        begun = time.perf_counter()
        for start in range(0, len(rows), 1024):
            pool.read(rows[start : start + 1024], shape.px)
        return time.perf_counter() - begun

    return run


if __name__ == "__main__":
    main(sys.argv[1:])
