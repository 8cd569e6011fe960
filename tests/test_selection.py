"""Picking images by threshold is picking them by sorting, in blocks of any size; an index tells every image."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ray_robust.data.mixtures import selection
from ray_robust.data.mixtures.index import fingerprint, write_index
from ray_robust.data.mixtures.mixture import Share, Subset
from ray_robust.data.pool import Catalog, mix_bits, seed_of
from ray_robust.data.rounding import apportion, most_to_apportion

SEED = seed_of("test")


def catalog(labels: np.ndarray, classes: int) -> Catalog:
    ids = mix_bits(np.arange(len(labels), dtype=np.uint64), 7)
    return Catalog(labels.astype(np.int32), tuple(f"c{k}" for k in range(classes)), ids, "x", "none")


def by_sorting(pool: Catalog, allowed: np.ndarray, counts: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(pool), dtype=bool)
    priority = mix_bits(pool.ids, SEED)
    for k, count in enumerate(counts):
        rows = np.flatnonzero(allowed & (pool.labels == k))
        chosen[rows[np.argsort(priority[rows], kind="stable")[:count]]] = True
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("block", [97, 4096, 1 << 20])
def test_the_lowest_are_those_of_sorting(share, block, monkeypatch):
    monkeypatch.setattr(selection, "BLOCK", block)
    random = np.random.default_rng(3)
    pool = catalog(random.choice(6, 20_000, p=[0.7, 0.2, 0.08, 0.015, 0.0049, 0.0001]), 6)
    allowed = random.random(len(pool)) < 0.9
    have = selection.count_labels(pool, allowed)
    counts = np.floor(have * share).astype(np.int64)
    found = selection.lowest(pool, allowed, have, counts, SEED)
    assert (found == by_sorting(pool, allowed, counts)).all()


def test_ids_that_are_not_spread_evenly_only_cost_time():
    """Twenty thousand images with the id of one are all on one side of every limit, and the first rows are taken."""
    pool = catalog(np.repeat([0, 1], 20_000), 2)
    pool.ids[:20_000] = pool.ids[0]
    counts = np.array([5_000, 5_000])
    found = selection.lowest(pool, None, np.array([20_000, 20_000]), counts, SEED)
    assert (found == by_sorting(pool, np.ones(len(pool), dtype=bool), counts)).all()
    assert np.flatnonzero(found[:20_000]).tolist() == list(range(5_000))


@settings(max_examples=100)
@given(some.lists(some.tuples(some.floats(0.01, 50), some.integers(0, 200)), min_size=1, max_size=5))
def test_the_most_that_can_be_apportioned_is_the_most(parts):
    weights, supply = (np.array(part) for part in zip(*parts, strict=True))
    most = most_to_apportion(weights, supply)
    assert (apportion(most, weights) <= supply).all()
    assert most == supply.sum() or not (apportion(most + 1, weights) <= supply).all()


def test_an_index_holds_every_row_and_its_fingerprint_tells_any_change(tmp_path):
    pools = {"a": catalog(np.repeat(np.arange(3), 10), 3), "b": catalog(np.repeat(np.arange(2), 10), 2)}

    def subset(a: list[int], classes: tuple[str, ...] = ("a/c0", "a/c1", "a/c2", "b/c0", "b/c1")) -> Subset:
        shares = []
        for name, rows in (("a", np.array(a)), ("b", np.array([1, 15]))):
            labels = pools[name].labels[rows] + np.int64(0 if name == "a" else 3)
            shares.append(Share(name, rows, labels, rows[:0], labels[:0]))
        return Subset(tuple(shares), classes, 5, ())

    found = write_index(subset([0, 10, 29]), pools, tmp_path / "index.parquet")
    table = pq.read_table(tmp_path / "index.parquet")
    assert table.to_pydict() == {
        "source": ["a", "a", "a", "b", "b"],
        "row": [0, 10, 29, 1, 15],
        "label": [0, 1, 2, 3, 4],
    }
    assert table.schema.metadata[b"fingerprint"].decode() == found
    assert [path.name for path in tmp_path.iterdir()] == ["index.parquet"]
    assert found == fingerprint(subset([0, 10, 29]), pools)
    others = [subset([0, 10, 28]), subset([0, 10]), subset([0, 10, 29], ("a/x", "a/c1", "a/c2", "b/c0", "b/c1"))]
    assert len({found, *(fingerprint(other, pools) for other in others)}) == 4
