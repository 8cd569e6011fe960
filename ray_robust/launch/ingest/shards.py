"""Filling a store from shards, through Ray Data: a block of rows is of one shard, read in one go, decoded where it is.

Owns the division into blocks and the streaming, which keeps no more in flight than memory allows and starts again what
a lost worker had. Hands on counts of images; `launch.ingest` decides which node's store is filled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from ray_robust.data.sources.shards import ShardSource
from ray_robust.errors import Problem, UserError

MOST = 2048  # rows in a block


def fill_from_shards(
    fill: Callable[[np.ndarray], int], source: ShardSource, rows: np.ndarray, node: str, done: Callable[[int], None]
) -> None:
    """Call `fill(rows)` on the node of that id until all `rows` are done, and `done(count)` after each block.

    Raises UserError, of the first block that did.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = by_shard(source, rows)
    data = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map(
        lambda block: _filled(fill, block["rows"]), num_cpus=1, label_selector={"ray.io/node-id": node}
    )
    for batch in data.iter_batches(batch_size=None, batch_format="numpy"):
        for wrong in filter(None, batch["wrong"]):
            raise UserError(*(Problem(where, what) for where, what in json.loads(wrong)))
        done(int(batch["done"].sum()))


def by_shard(source: ShardSource, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return rows in blocks: each of one shard, none larger than MOST."""
    parts = np.split(rows, np.flatnonzero(np.diff(source.shard_of(rows))) + 1)
    return [{"rows": part[i : i + MOST]} for part in parts for i in range(0, len(part), MOST)]


def _filled(fill: Callable[[np.ndarray], int], rows: np.ndarray) -> dict[str, Any]:
    """A row of the results. A mistake travels in it: what is raised, Ray Data hands on as a text among its own."""
    try:
        return {"done": fill(rows), "wrong": ""}
    except UserError as error:
        return {"done": 0, "wrong": json.dumps([(problem.where, problem.what) for problem in error.problems])}
