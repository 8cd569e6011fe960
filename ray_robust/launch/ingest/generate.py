"""Generating images of a `diffusion` source: on every GPU that Ray has, else in this process.

Owns the division of the work among devices; what to make and how is the source's. Stopping at any instant is safe: the
next call makes what is still missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ray_robust.data.sources.diffusion import Diffusion, Painter
from ray_robust.errors import Problem, UserError

MOST_ON_CPU = 4  # pipelines side by side where there is no GPU: each holds a whole model in memory


def generate(source: Diffusion, rows: np.ndarray, done: Callable[[int], None] | None = None) -> None:
    """Generate those of `rows` that are missing, calling `done(count)` after each batch. Raises UserError where images
    that were made on other nodes cannot be read here."""
    rows = source.unmade(rows)
    if not len(rows):
        return
    source.begin()
    batches = [rows[i : i + source.options.batch].tolist() for i in range(0, len(rows), source.options.batch)]
    ray = sys.modules.get("ray")
    make = _on_ray if ray is not None and ray.is_initialized() and len(batches) > 1 else _here
    make(source, batches, done or (lambda count: None))
    if len(lost := source.unmade(rows)):
        what = f"{len(lost)} images were made on other nodes and cannot be seen here; give a root that all nodes share"
        raise UserError(Problem(source.options.root, what))


def _here(source: Diffusion, batches: list[list[int]], done: Callable[[int], None]) -> None:
    import torch

    painter = Painter(source, "cuda" if torch.cuda.is_available() else "cpu")
    for batch in batches:
        done(painter.paint(batch))


def _on_ray(source: Diffusion, batches: list[list[int]], done: Callable[[int], None]) -> None:
    import ray
    from ray.util import ActorPool

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    count = min(len(batches), gpus or min(MOST_ON_CPU, int(there.get("CPU", 1))))
    remote = ray.remote(num_gpus=1 if gpus else 0, num_cpus=1)(Painter)
    actors: list[Any] = [remote.remote(source, "cuda" if gpus else "cpu") for _ in range(count)]
    try:
        for made in ActorPool(actors).map_unordered(lambda actor, batch: actor.paint.remote(batch), batches):
            done(made)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None
    finally:
        for actor in actors:
            ray.kill(actor)
