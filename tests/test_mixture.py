"""Mixtures by property: exact counts, nested subsets, and draws that depend on names alone."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from ray_robust.data.mixtures.mixture import HELD_OUT_PER_CLASS, Subset, draw
from ray_robust.data.pool import Catalog, Options, mix_bits, seed_of
from ray_robust.data.rounding import apportion, fill_evenly
from ray_robust.errors import UserError
from ray_robust.spec.load import Pretrain, SourceSection

ROOT = Path(__file__).parents[1]

sizes = some.lists(some.integers(0, 60), min_size=2, max_size=12).filter(lambda s: sum(s) > 0)
full_sizes = some.lists(some.integers(1, 60), min_size=2, max_size=12)
seeds = some.integers(0, 1000)
many = settings(max_examples=60)  # `test_thousands_of_random_mixtures` goes on


def catalog(counts: list[int], name: str = "a") -> Catalog:
    """A pool with so many images of each class, two classes to a family."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    classes = tuple(f"{name}{k}" for k in range(len(counts)))
    hierarchy = pd.DataFrame({"family": [f"f{k // 2}" for k in range(len(counts))], "class": classes}, index=[*classes])
    ids = mix_bits(np.arange(len(labels), dtype=np.uint64), seed_of("test", name))
    return Catalog(labels, classes, ids, "x", "none", hierarchy)


def taken(counts: dict[str, list[int]], seed: int = 1, usable: dict[str, Any] | None = None, **asked: Any) -> Subset:
    weights = asked.pop("weights", {})
    sources = {n: SourceSection(kind="test", options=Options(), weight=weights.get(n, 1.0)) for n in counts}
    mixture = Pretrain(sources=sources, epochs=1, **asked)
    catalogs = {name: catalog(sizes, name) for name, sizes in counts.items()}
    return draw(mixture, catalogs, usable or dict.fromkeys(counts), seed)


def images(subset: Subset) -> set[tuple[str, int]]:
    return {(share.source, int(row)) for share in subset.shares for row in share.rows}


# --- rounding


@many
@given(some.lists(some.floats(0.01, 100), min_size=1, max_size=20), some.integers(0, 500))
def test_apportioned_counts_sum_exactly_and_grow_with_the_total(weights, total):
    less, more = apportion(total, np.array(weights)), apportion(total + 1, np.array(weights))
    assert (less.sum(), more.sum()) == (total, total + 1)
    assert (more >= less).all()


@many
@given(sizes, some.data())
def test_no_class_gives_more_than_it_holds(counts, data):
    total = data.draw(some.integers(0, sum(counts)))
    order = np.array(data.draw(some.permutations(range(len(counts)))))
    assert (apportion(total, np.array(counts), order) <= counts).all()
    even = fill_evenly(total, np.array(counts), order)
    assert even.sum() == total
    assert (even <= counts).all()
    if total < sum(counts):
        assert (fill_evenly(total + 1, np.array(counts), order) >= even).all()
    below = even[even < counts]
    assert not len(below) or even.max() <= below.min() + 1


@many
@given(some.lists(some.integers(1, 50), min_size=1, max_size=8), some.integers(0, 60))
def test_apportioning_is_the_textbook_divisor_method(weights, total):
    """Seat by seat to the highest w / (2 c + 1), the definition of Sainte-Lague."""
    seats = np.zeros(len(weights), dtype=np.int64)
    for _ in range(total):
        seats[max(range(len(weights)), key=lambda i: (weights[i] / (2 * seats[i] + 1), -i))] += 1
    assert apportion(total, np.array(weights)).tolist() == seats.tolist()


# --- draws


@many
@given(full_sizes, full_sizes, some.floats(0.05, 20), seeds, some.sampled_from(["natural", "uniform"]), some.data())
def test_a_mix_is_exact_and_grows_by_adding(first, second, weight, seed, balance, data):
    counts = {"a": first, "b": second}
    total = data.draw(some.integers(2, sum(first) + sum(second)))
    asked = {"weights": {"a": weight}, "balance": balance, "holdout": 0.0}
    try:
        larger = taken(counts, seed, num_images=total, **asked)
    except UserError as error:  # one of the two holds too few, or gets nothing
        assume(not all("needs" in str(p) or "no image" in str(p) for p in error.problems))
        raise
    assert len(larger) == len(images(larger)) == total
    target = total * np.array([weight, 1.0]) / (weight + 1)
    assert np.abs([c["selected"] for c in larger.composition] - target).max() <= 1
    for share in larger.shares:
        assert (np.diff(share.rows) > 0).all()
        known = catalog(counts[share.source], share.source)
        names = [larger.classes[k] for k in share.labels]
        assert names == [f"{share.source}/{known.classes[k]}" for k in known.labels[share.rows]]
    smaller_total = data.draw(some.integers(2, total))
    try:
        smaller = taken(counts, seed, num_images=smaller_total, **asked)
    except UserError:
        assume(False)
    assert images(smaller) <= images(larger)


@many
@given(full_sizes, seeds, some.data())
def test_more_classes_hold_fewer_classes(counts, seed, data):
    each = data.draw(some.integers(1, max(counts)))
    able = sum(c >= each for c in counts)
    more = data.draw(some.integers(1, able))
    fewer = data.draw(some.integers(1, more))
    drawn = [taken({"a": counts}, seed, num_classes=k, images_per_class=each, holdout=0.0) for k in (fewer, more)]
    assert [(len(s), s.leaf_classes) for s in drawn] == [(fewer * each, fewer), (more * each, more)]
    assert images(drawn[0]) <= images(drawn[1])


@many
@given(full_sizes, seeds, some.data())
def test_more_images_per_class_hold_fewer(counts, seed, data):
    more = data.draw(some.integers(1, min(counts)))  # every class has that many, so the classes stay
    fewer = data.draw(some.integers(1, more))
    classes = data.draw(some.integers(1, len(counts)))
    drawn = [taken({"a": counts}, seed, num_classes=classes, images_per_class=n, holdout=0.0) for n in (fewer, more)]
    assert images(drawn[0]) <= images(drawn[1])
    assert drawn[0].classes == drawn[1].classes


@many
@given(full_sizes, seeds, some.sampled_from(["natural", "uniform"]), some.data())
def test_so_many_classes_are_so_many_however_rare(counts, seed, balance, data):
    classes = data.draw(some.integers(1, len(counts)))
    total = data.draw(some.integers(classes, sum(counts)))
    asked = {"num_classes": classes, "balance": balance, "holdout": 0.0}
    try:
        larger = taken({"a": counts}, seed, num_images=total, **asked)
    except UserError as error:
        assume("pretrain.num_images: source a needs" not in str(error))
        raise
    assert (len(larger), larger.leaf_classes) == (total, classes)
    smaller = taken({"a": counts}, seed, num_images=data.draw(some.integers(classes, total)), **asked)
    assert images(smaller) <= images(larger)


@many
@given(full_sizes, full_sizes, seeds, some.data())
def test_another_source_leaves_the_first_as_it_was(first, second, seed, data):
    each = data.draw(some.integers(1, min(sum(first), sum(second))))
    alone = taken({"a": first}, seed, num_images=each, holdout=0.0)
    both = taken({"b": second, "a": first}, seed, num_images=2 * each, holdout=0.0)
    assert images(alone) == {image for image in images(both) if image[0] == "a"}


@many
@given(sizes, seeds, seeds, some.floats(0, 0.9), some.data())
def test_held_out_images_are_never_drawn_and_always_the_same(counts, seed, other, holdout, data):
    everything = taken({"a": counts}, seed, holdout=holdout)
    held = sum(min(HELD_OUT_PER_CLASS, int(np.floor(c * holdout))) for c in counts)
    (part,) = everything.composition
    assert (part["held_out"], len(everything)) == (held, sum(counts) - held)
    shown = set(everything.shares[0].held_out_rows.tolist())
    assert len(shown) == held
    assert shown.isdisjoint(everything.shares[0].rows.tolist())
    again = taken({"a": counts}, other, holdout=holdout, num_images=data.draw(some.integers(1, len(everything))))
    assert set(again.shares[0].held_out_rows.tolist()) <= shown  # of the classes that it has
    assert shown.isdisjoint(again.shares[0].rows.tolist())


@pytest.mark.slow
@many
@given(full_sizes, seeds, some.data())
def test_broken_images_are_no_supply(counts, seed, data):
    mask = np.array(data.draw(some.lists(some.booleans(), min_size=sum(counts), max_size=sum(counts))))
    assume(mask.any())
    drawn = taken({"a": counts}, seed, usable={"a": mask}, holdout=0.3)
    assert mask[drawn.shares[0].rows].all()
    assert mask[drawn.shares[0].held_out_rows].all()


POOLS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7], [9, 3, 2, 3], [8, 4], [30, 1, 12, 7, 2, 2, 1], [1] * 12]
WEIGHTS = [0.05, 0.5, 1.0, 1.0, 3.0, 20.0]


@pytest.fixture(scope="module")
def pools() -> dict[str, list[Catalog]]:
    return {name: [catalog(counts, name) for counts in POOLS] for name in "abc"}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_random_mixtures(pools, part):
    """Counts sum exactly, the smaller lies inside the larger, and a source's images do not depend on the others."""
    checked, numbers = 0, count()
    while checked < 700:
        number = next(numbers)
        random = np.random.default_rng(seed_of("random mixture", part, number))
        names = list("abc"[: random.integers(1, 4)])
        catalogs = {name: pools[name][random.integers(len(POOLS))] for name in names}
        sources = {n: SourceSection(kind="t", options=Options(), weight=float(random.choice(WEIGHTS))) for n in names}
        total = int(random.integers(1, sum(map(len, catalogs.values())) + 1))
        mixture = Pretrain(
            sources=sources,
            epochs=1,
            holdout=float(random.choice([0.0, 0.2])),
            balance=str(random.choice(["natural", "uniform"])),
            granularity=str(random.choice(["class", "family", "labels:2"])),
            label_space=str(random.choice(["separate", "shared"])),
        )
        seed = int(random.integers(5))

        def drawn(total: int, only: str | None = None) -> Subset | None:
            kept = {n: s for n, s in sources.items() if only in (None, n)}  # noqa: B023 - called at once
            asked = mixture.model_copy(update={"sources": kept, "num_images": total})  # noqa: B023
            try:
                return draw(asked, catalogs, dict.fromkeys(names), seed)  # noqa: B023
            except UserError:
                return None

        while (larger := drawn(total)) is None and total > 1:  # a source holds too little of its share
            total //= 2
        if larger is None:  # and now another gets nothing
            continue
        checked += 1
        smaller = drawn(int(random.integers(1, total + 1)))
        assert len(larger) == len(images(larger)) == total == sum(larger.images_per_label().values())
        if smaller is not None:
            assert images(smaller) <= images(larger)
        for share in larger.shares if len(names) > 1 else ():
            alone = drawn(len(share.rows), share.source)
            assert alone is not None
            assert (alone.shares[0].rows == share.rows).all()


def test_seeds_draw_different_images_and_the_same_seed_the_same():
    first, again, other = (taken({"a": [50, 50]}, seed, num_images=20) for seed in (1, 1, 2))
    assert images(first) == images(again)
    assert images(first) != images(other)


def test_a_rank_of_the_hierarchy_labels_the_same_images():
    fine = taken({"a": [20] * 6}, num_images=30)
    coarse = taken({"a": [20] * 6}, num_images=30, granularity="family")
    assert images(fine) == images(coarse)
    assert coarse.classes == ("f0", "f1", "f2")
    assert (coarse.shares[0].labels == fine.shares[0].labels // 2).all()
    assert (fine.leaf_classes, coarse.leaf_classes) == (6, 6)


def test_the_composition_tells_what_was_asked_and_taken():
    mix = taken({"a": [30, 10], "b": [40, 40]}, num_images=40, weights={"a": 3.0}, holdout=0.1)
    assert mix.composition == (
        {"source": "a", "available": 36, "held_out": 4, "selected": 30, "target_share": 0.75, "share": 0.75,
         "classes": 2, "fewest_per_class": 7, "most_per_class": 23,
         "labels": 2, "fewest_per_label": 7, "most_per_label": 23},
        {"source": "b", "available": 72, "held_out": 8, "selected": 10, "target_share": 0.25, "share": 0.25,
         "classes": 2, "fewest_per_class": 5, "most_per_class": 5,
         "labels": 2, "fewest_per_label": 5, "most_per_label": 5},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (
            {"num_images": 21},
            [
                "pretrain.num_images: source a needs 21 images, supply is 20 (in 2 classes, without the images held "
                "out for upstream accuracy)"
            ],
        ),
        ({"num_classes": 3}, ["pretrain.num_classes: source a needs 3 classes, supply is 2 (of 2 in all)"]),
        (
            {"num_classes": 2, "images_per_class": 12},
            [
                "pretrain.num_classes: source a needs 2 classes with at least 12 images each, supply is 1 (of 2 in "
                "all)",
            ],
        ),
        (
            {"images_per_class": 12},
            [
                "pretrain.images_per_class: source a needs 12 images in every class, but 1 of its 2 classes hold fewer "
                "(the smallest 5)"
            ],
        ),
        (
            {"granularity": "genus", "num_classes": 9},
            [
                "pretrain.num_classes: source a needs 9 classes, supply is 2 (of 2 in all)",
                "pretrain.granularity: source a has no rank 'genus': it has family, class",
            ],
        ),
    ],
)
def test_what_cannot_be_names_source_need_and_supply(asked, lines):
    with pytest.raises(UserError) as caught:
        taken({"a": [15, 5]}, holdout=0.0, **asked)
    assert str(caught.value).splitlines() == lines


HASH = """
import sys, hashlib
from ray_robust.data.mixtures.mixture import draw
from ray_robust.plan.plan import pool_key
from ray_robust.spec.load import load_spec
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import draw_all
sweep = open_sweep(load_spec(sys.argv[1]))
for id in sorted(draw_all(sweep, {})):
    (trial,) = [trial for trial in sweep.plan if trial.id == id]
    sources = trial.pretrain.sources
    catalogs = {name: sweep.sources[pool_key(name, section)].catalog for name, section in sources.items()}
    subset = draw(trial.pretrain, catalogs, dict.fromkeys(catalogs), trial.subset_seed)
    digest = hashlib.blake2b(digest_size=8)
    for share in sorted(subset.shares, key=lambda share: share.source):
        digest.update(share.source.encode() + share.rows.tobytes() + share.held_out_rows.tobytes())
    print(id, digest.hexdigest())
"""


@pytest.mark.slow
def test_draws_and_ids_are_the_same_in_every_process_and_key_order(tmp_path):
    """Neither the process's hash seed nor the order of keys matters."""
    total, mix = "num_images: {grid: [500, 900]}", "sources: {species: {weight: 2, species: 20}, fractals: 1}"
    parts = ["task: {name: camera-traps, train_images: 400}", f"pretrain: {{{total}, epochs: 1, {mix}}}", "seeds: 2"]
    mix = "sources: {fractals: 1.0, species: {species: 20, weight: 2.0}}"
    turned = [
        "seeds: [1, 2]",
        f"pretrain: {{epochs: 1, {mix}, {total}}}",
        "task: {train_images: 400, name: camera-traps}",
    ]
    found = []
    for seed, lines in (("0", parts), ("1", parts), ("12345", turned)):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "x.yaml").write_text("\n".join(lines))
        asked = [sys.executable, "-c", HASH, str(folder / "x.yaml")]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run(asked, capture_output=True, text=True, check=True, env=env, cwd=ROOT)
        found.append(ended.stdout)
    assert len(found[0].splitlines()) == 4
    assert found[0] == found[1] == found[2]
