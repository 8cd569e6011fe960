"""Filling image stores: in Ray tasks over blocks of rows where Ray runs and it is worth it, else in this process.

Owns the division of the work, the filling of every node whose store is its own, and the refusal of broken images. Hands
on filled stores. Stopping at any instant is safe: the next call fills what is still missing.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.pool import Pool
from ray_robust.data.sources.diffusion import Diffusion
from ray_robust.data.sources.shards import ShardSource
from ray_robust.errors import Outage, Problem, Refused, UserError
from ray_robust.launch.cluster.connect import Cluster, connect
from ray_robust.launch.ingest.generate import generate

Job = tuple[Pool, Form | int, np.ndarray | None]  # a pool, the form (px: decoded), the rows wanted (None: all)
Progress = Callable[[int, int], None]  # images done, images in all

SECONDS = {True: 1e-4, False: 1e-3}  # rough cost of one image by `Pool.rendered`, only to weigh Ray's start against it
MAKING = 1.0  # seconds in which a diffusion model makes an image, as roughly
WORTH_RAY = 20.0  # seconds of one core's work from which it pays to start Ray (about 5 s) for this alone
WORTH = 2.0  # seconds of work below which warm Ray workers are not worth asking
HEAD_START = "head start"
LARGEST_BLOCK = 2048  # rows
AHEAD = 4  # blocks that are given out per core
SHOWN = 20  # broken images that are named; the others are counted


def ingest(jobs: Sequence[Job], store_root: Path | None = None, progress: Progress | None = None) -> list[ImageStore]:
    """Fill the store of every job and return the stores, in order.

    A rendered pool's store is filled with the rows asked for; any other wholly, since which images are broken must be
    known before any is drawn. Raises UserError when an image of a pool with `broken: fail` cannot be read, naming each;
    such images are tried again by every call, so that mending them is enough.
    """
    root = store_root or default_root()
    stores = [ImageStore.open(root, pool, form) for pool, form, _ in jobs]
    work = list(missing(jobs, stores))
    total = sum(len(rows) for _, rows in work)
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, max(done, total))

    for store, rows in work:
        if isinstance(store.pool, Diffusion):
            generate(store.pool, rows)
    if _ray_runs() and (estimate(jobs, stores) > WORTH or len(_alive()) > 1):
        wanted = [(store, rows if pool.rendered else None) for (pool, _, rows), store in zip(jobs, stores, strict=True)]
        _fill_on_ray(work, wanted, more)
    else:
        for store, rows in work:
            store.fill(rows, more, again=_again(store.pool))
    for store in stores:
        store.settle()
        if not store.pool.rendered:  # of files that changed between two readings the last one counts
            store.fill(store.missing())
    _refuse_broken(stores)
    return stores


def read_files(
    jobs: Sequence[Job], address: str | None, stack: ExitStack, progress: Progress | None = None
) -> Cluster | None:
    """Fill the stores of pools whose files have not been read, so that a plan can go by what they contain.

    In this process, or where that takes long on a cluster, which is left running until `stack` is closed and returned.
    """
    stores, cluster = [ImageStore.open(default_root(), pool, form) for pool, form, _ in jobs], None
    if estimate(jobs, stores) > WORTH_RAY:
        cluster = stack.enter_context(connect(address))
    ingest(jobs, progress=progress)
    return cluster


@contextmanager
def head_start(jobs: Sequence[Job], store_root: Path) -> Iterator[None]:
    """Render in a thread during the with-block: Ray takes seconds to start, in which its processes mostly wait.

    Only rendered images, which cannot be broken; `ingest` meets and reports any other error.
    """
    over = threading.Event()

    def render() -> None:
        with suppress(UserError):
            for pool, form, rows in jobs:
                if not pool.rendered:
                    continue
                store = ImageStore.open(store_root, pool, form)
                for block in divide(pool, store.missing(rows), cpus=1):
                    if over.is_set():
                        return
                    store.fill(block)

    thread = threading.Thread(target=render, name=HEAD_START, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def missing(jobs: Sequence[Job], stores: Sequence[ImageStore]) -> Iterator[tuple[ImageStore, np.ndarray]]:
    """Yield, per job, its store and the rows that are yet to be filled; jobs with nothing to do are left out."""
    for (pool, _, rows), store in zip(jobs, stores, strict=True):
        todo = store.missing(rows if pool.rendered else None, again=_again(pool))
        if len(todo):
            yield store, todo


def estimate(jobs: Sequence[Job], stores: Sequence[ImageStore]) -> float:
    """Return roughly how many seconds of one core the missing images will take."""
    work = list(missing(jobs, stores))
    made = sum(len(store.pool.unmade(rows)) for store, rows in work)
    return sum((len(rows) * SECONDS[store.pool.rendered] for store, rows in work), made * MAKING)


def _again(pool: Pool) -> bool:
    return pool.broken == "fail"


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")  # where nobody has imported it, nobody has started it either
    return ray is not None and ray.is_initialized()


def _fill_on_ray(
    work: list[tuple[ImageStore, np.ndarray]],
    wanted: list[tuple[ImageStore, np.ndarray | None]],
    done: Callable[[int], None],
) -> None:
    """Fill this node's stores with what they lack, then those of nodes that do not see them with what is `wanted`: a
    node that joined since lacks what this one has had for long. None: all rows."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    cpus = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    if cpus.get(here, 0) >= 1:
        _fill_node(here, int(cpus[here]), [(store.pool, ray.put(store), rows) for store, rows in work], done)
    else:  # a driver on a head without CPUs fills its own: sample images are read here
        for store, rows in work:
            store.fill(rows, done, again=_again(store.pool))
    others = [node for node in cpus if cpus[node] >= 1 and node != here]
    if not others:
        return
    for store, _ in wanted:  # what the files contain is decided here, by what was read first
        store.settle()
    sent = [(store.pool, ray.put(store), rows) for store, rows in wanted]
    asked = {node: [_remote(_missing, node, cpus=0)([ref], rows) for _, ref, rows in sent] for node in others}
    for node in others:
        try:
            absent = ray.get(asked[node])
            own = [(pool, ref, rows) for (pool, ref, _), rows in zip(sent, absent, strict=True)]
            _fill_node(node, int(cpus[node]), own, done)
        except (ray.exceptions.RayError, Outage) as error:
            if isinstance(error, ray.exceptions.RayTaskError) or node in _alive():
                raise
            # it was lost on the way: trials go to other nodes, and one that comes back fills what they ask for


def _fill_node(node: str, cpus: int, sent: list[tuple[Pool, Any, np.ndarray]], done: Callable[[int], None]) -> None:
    """Fill a node's stores: a pool, the reference of its store, and rows, of each."""
    import ray

    blocks = (([ref], block, _again(pool)) for pool, ref, rows in sent for block in divide(pool, rows, cpus))
    _run_all(ray, _remote(_fill, node), blocks, AHEAD * cpus, done)


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _remote(function: Callable, node: str, cpus: int = 1) -> Callable:
    """`function` as a task of that node; without cores it waits for nobody's trials. Its own strategy keeps it out of a
    surrounding trial's placement group."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy: Any = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=cpus, scheduling_strategy=strategy)(function).remote


def _run_all(ray: Any, task: Callable, blocks: Iterator[tuple], at_once: int, done: Callable[[int], None]) -> None:
    """Run a task on every block of arguments, so many of them given out at once: of a hundred thousand shards Ray would
    look at all at every step."""
    waiting: list = []
    try:
        while waiting := [*waiting, *(task(*block) for block in islice(blocks, at_once - len(waiting)))]:
            ready, waiting = ray.wait(waiting)
            for ref in ready:
                done(ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | Outage | Refused):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        what = "the process that decodes them was killed again and again, as is done where memory is short"
        raise Outage(f"images: {what}; what is decoded is kept, and the same command goes on") from None
    finally:
        for ref in waiting:  # Ctrl-C, or one has failed
            ray.cancel(ref)


def divide(pool: Pool, rows: np.ndarray, cpus: int) -> list[np.ndarray]:
    """Return rows in blocks of neighbours, one for each task: of shards no block is of two, so that it opens one;
    of other pools they are small enough that all cores end at about the same time."""
    if isinstance(pool, ShardSource):
        parts = np.split(rows, np.flatnonzero(np.diff(pool.shard_of(rows))) + 1)
        return [part[i : i + LARGEST_BLOCK] for part in parts for i in range(0, len(part), LARGEST_BLOCK)]
    count = math.ceil(len(rows) / int(np.clip(len(rows) / (16 * cpus), 64, LARGEST_BLOCK)))
    return np.array_split(rows, count) if count else []


_sent: dict[str, ImageStore] = {}  # the last store that this worker was sent: unpacking a million keys takes a while


def _fill(refs: list, rows: np.ndarray, again: bool) -> int:
    _open(refs).fill(rows, again=again)
    return len(rows)


def _missing(refs: list, rows: np.ndarray | None) -> np.ndarray:
    return _open(refs).missing(rows)


def _open(refs: list) -> ImageStore:
    import ray

    key = refs[0].hex()
    if key not in _sent:
        _sent.clear()
        store = ray.get(refs[0])
        _sent[key] = ImageStore.open(store.root, store.pool, store.form)
    return _sent[key]


def _refuse_broken(stores: Sequence[ImageStore]) -> None:
    problems: list[Problem] = []
    for store in {(id(store.pool), store.form): store for store in stores}.values():
        pool, broken = store.pool, store.broken
        where = getattr(pool, "where", pool.name)
        if broken and _again(pool):
            rows = list(broken)[:SHOWN]
            keys = pool.keys(np.asarray(rows))
            problems += [Problem(f"{where}/{key}", broken[row]) for key, row in zip(keys, rows, strict=True)]
            what = f"{len(broken)} of {store.n} images are broken; mend or remove them, or say `broken: drop`"
            problems.append(Problem(where, what))
        elif len(broken) * 2 > store.n:
            what = f"{len(broken)} of {store.n} images cannot be read ({next(iter(broken.values()))}): too many to drop"
            problems.append(Problem(where, what))
    if problems:
        raise UserError(*problems)
