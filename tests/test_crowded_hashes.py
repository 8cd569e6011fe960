"""The search for near-identical images among many that are all alike: bounded, and what is left out is told."""

from __future__ import annotations

import numpy as np
from make_pools import open_pool

from ray_robust.data.duplicates import comparison, phash
from ray_robust.data.duplicates.removal import deduplicate
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.spec.image_selection import Deduplication
from tests import make_images as make


def test_a_search_among_images_that_are_all_alike_is_bounded(monkeypatch):
    """Of a fixed camera every pair was compared, hours for 100,000 images."""
    random = np.random.default_rng(0)
    flips = np.packbits(random.random((600, 64)) < 0.06, axis=1).view(">u8")[:, 0].astype(np.uint64)
    hashes, copies = np.uint64(2**60 + 12345) ^ flips, random.permutation(600)
    index, queries = phash.Index(hashes), hashes[copies]
    assert index.limit(queries) is None
    exact = index.near(queries)
    everything = index.pairs(queries)
    monkeypatch.setattr(phash, "MOST_PAIRS", 150_000)
    limit = index.limit(queries)
    assert limit is not None
    assert index.pairs(queries, limit) <= 150_000 < index.pairs(queries, 2 * limit) < everything
    done = []
    query, place, bits = index.near(queries, progress=lambda *pair: done.append(pair))
    assert done[-1] == (index.pairs(queries, limit),) * 2
    assert (bits == np.bitwise_count(queries[query] ^ hashes[place])).all()
    first = np.unique(query, return_index=True)[1]
    assert (bits[first] == 0).all()  # a hash itself is next to its query
    assert bits.mean() < exact[2].mean() + 3  # and what is near it, not what comes first
    small = phash.Index(hashes[:50])
    monkeypatch.setattr(phash, "MOST_PAIRS", 1)
    assert small.limit(queries) == 1


def test_what_a_bounded_search_leaves_out_is_said(tmp_path, monkeypatch):
    for i in range(12):
        make.write(tmp_path / "t" / ("cat", "dog")[i % 2] / f"{i}.png", make.encoded(make.photo(64, 64, seed=i), "PNG"))
    store = ingest([(open_pool("source", "folder", {"path": str(tmp_path / "t")}), 32, None)], tmp_path / "store")[0]
    whole = comparison.within(store)
    assert whole.note == ""
    lines: list[str] = []
    monkeypatch.setattr(comparison, "LONG", 1)
    monkeypatch.setattr(phash, "MOST_PAIRS", 1)
    bounded = comparison.within(store, lines.append)
    assert bounded.note.startswith("so many images look alike, as of a fixed camera, that near-identical ones were ")
    assert bounded.note.endswith("the 1 closest of each part of the hash, not among all; identical ones were among all")
    assert lines[-1] == "near-identical images: 100 % of 0.0 billion pairs compared"
    assert deduplicate(Deduplication(within=True), store, []).note.endswith(bounded.note)
