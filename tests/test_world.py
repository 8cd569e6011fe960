"""The built-in world: pictures that depend on their id alone, pools that nest, a shift that can be turned off."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
from effort import calls
from make_pools import open_pool
from pydantic import ValidationError

from ray_robust.data.pool import SPLITS
from ray_robust.data.world import draws
from ray_robust.data.world.taxonomy import SOURCE_SPECIES, TASK_SPECIES, make_taxonomy
from ray_robust.errors import UserError

POOLS = [("source", "species"), ("source", "fractals"), ("task", "camera-traps")]


@pytest.mark.parametrize(("kind", "name"), POOLS)
@pytest.mark.parametrize("size", [17, 32, 96])
def test_an_image_alone_equals_the_same_image_in_any_batch(kind, name, size):
    pool = open_pool(kind, name, {})
    rows = np.random.default_rng(size).permutation(len(pool.catalog))[: 150 if size < 96 else 20]
    batch = pool.read(rows, size)
    assert batch.images.shape == (len(rows), size, size, 3)
    assert batch.images.dtype == np.uint8
    assert batch.broken == {}
    for place in (0, 1, len(rows) // 2, len(rows) - 1):
        assert np.array_equal(pool.read(rows[place : place + 1], size).images[0], batch.images[place])
    assert np.array_equal(pool.read(rows[::-1], size).images, batch.images[::-1])


def test_images_do_not_hang_on_the_block_they_are_made_in():
    pool = open_pool("source", "species", {})
    rows = np.arange(2500)  # past one block of numbers
    assert np.array_equal(pool.read(rows, 12).images[2030:2070], pool.read(rows[2030:2070], 12).images)


@pytest.mark.parametrize(("kind", "name"), POOLS)
def test_another_process_draws_the_same_bits(kind, name):
    pool = open_pool(kind, name, {})
    rows = np.arange(0, len(pool.catalog), len(pool.catalog) // 7)
    code = (
        "import sys, zlib, numpy as np\nfrom ray_robust import registry\n"
        f"cls = registry.find({kind!r}, {name!r})\npool = cls({name!r}, cls.Options())\n"
        f"print(zlib.crc32(pool.read(np.array({rows.tolist()}), 32).images.tobytes()))\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(told) == zlib.crc32(pool.read(rows, 32).images.tobytes())


@pytest.mark.parametrize(("kind", "name"), POOLS)
def test_ids_and_keys_are_unique_and_stable(kind, name):
    pool = open_pool(kind, name, {})
    catalog = pool.catalog
    assert catalog.ids.dtype == np.uint64
    assert len(np.unique(catalog.ids)) == len(catalog)
    keys = pool.keys(np.arange(len(catalog)))
    assert len(set(keys)) == len(catalog)
    assert pool.keys(np.array([3, 1])) == [keys[3], keys[1]]
    again = open_pool(kind, name, {})
    assert again.catalog.fingerprint == catalog.fingerprint
    assert np.array_equal(again.catalog.ids, catalog.ids)


@pytest.mark.parametrize(("name", "classes"), [("species", "species"), ("fractals", "classes")])
def test_more_classes_or_images_leave_the_others_as_they_are(name, classes):
    small = open_pool("source", name, {classes: 10, "images_per_class": 4})
    large = open_pool("source", name, {classes: 30, "images_per_class": 9})
    in_small, in_large = np.array([0, 3, 38, 39]), np.array([0, 3, 83, 84])
    assert small.keys(in_small) == large.keys(in_large)
    assert np.array_equal(small.catalog.ids[in_small], large.catalog.ids[in_large])
    assert np.array_equal(small.read(in_small, 24).images, large.read(in_large, 24).images)
    assert small.catalog.classes == large.catalog.classes[:10]
    assert small.catalog.fingerprint != large.catalog.fingerprint


@pytest.mark.parametrize("name", ["species", "fractals"])
def test_the_seed_makes_another_world(name):
    one, two = (open_pool("source", name, {"seed": s}) for s in (0, 1))
    assert one.catalog.fingerprint != two.catalog.fingerprint
    assert not np.array_equal(one.read(np.arange(8), 32).images, two.read(np.arange(8), 32).images)


def test_the_hierarchy_is_a_tree_with_a_row_per_class():
    catalog = open_pool("source", "species", {}).catalog
    tree = catalog.hierarchy
    assert list(tree.columns) == ["order", "family", "species"]
    assert tuple(tree.index) == catalog.classes == tuple(tree["species"])
    assert len(catalog) == 128_000
    assert (tree["order"].nunique(), tree["family"].nunique(), tree["species"].nunique()) == (8, 40, 200)
    assert (tree.groupby("family")["order"].nunique() == 1).all()
    assert open_pool("task", "camera-traps", {}).catalog.hierarchy["order"].isin(tree["order"]).all()


def test_no_species_of_the_task_is_in_any_source():
    sources = make_taxonomy(0, SOURCE_SPECIES, 0).classes
    tasks = make_taxonomy(SOURCE_SPECIES, TASK_SPECIES, 0).classes
    assert len(set(sources) | set(tasks)) == SOURCE_SPECIES + TASK_SPECIES


def test_shape_is_the_order_s_and_coat_the_species_own():
    taxonomy = make_taxonomy(0, 200, 0)
    traits = taxonomy.of(np.arange(200))
    order = taxonomy.hierarchy["order"].to_numpy()

    def share_between_orders(values):
        means = {o: values[order == o].mean() for o in set(order)}
        return np.var([means[o] for o in order]) / values.var()

    assert share_between_orders(traits["leg"]) > 0.4
    assert share_between_orders(traits["chest"]) > 0.4
    assert share_between_orders(traits["value"]) < 0.2


def test_camera_traps_have_the_splits_they_promise():
    catalog = open_pool("task", "camera-traps", {}).catalog
    sizes = {split: len(catalog.rows(split)) for split in SPLITS}
    assert sizes == {"train": 4000, "id_val": 1000, "id_test": 1500, "ood_val": 1000, "ood_test": 1500}
    cameras = {split: set(catalog.group[catalog.rows(split)]) for split in SPLITS}
    assert cameras["train"] == cameras["id_val"] == cameras["id_test"]
    assert not cameras["train"] & cameras["ood_val"] | cameras["train"] & cameras["ood_test"]
    assert not cameras["ood_val"] & cameras["ood_test"]
    assert [len(cameras[s]) for s in SPLITS] == [24, 24, 24, 12, 24]
    assert len(catalog.groups) == 60
    for split in SPLITS:
        assert (np.bincount(catalog.labels[catalog.rows(split)], minlength=16) >= 10).all(), split


def _background_tells(catalog, split):
    """How well the camera alone predicts the species: share of images of each camera's commonest species."""
    rows = catalog.rows(split)
    table = np.zeros((len(catalog.groups), len(catalog.classes)))
    np.add.at(table, (catalog.group[rows], catalog.labels[rows]), 1)
    return table.max(1).sum() / len(rows), table


def test_each_camera_sees_a_few_species_and_other_cameras_others():
    catalog = open_pool("task", "camera-traps", {}).catalog
    share, train = _background_tells(catalog, "train")
    assert share > 0.35
    _, ood = _background_tells(catalog, "ood_test")
    a, b = train[:24] / train[:24].sum(1, keepdims=True), ood[36:] / ood[36:].sum(1, keepdims=True)
    assert np.abs(a - b).sum(1).mean() > 0.8


def test_without_shift_the_ood_cameras_are_the_id_cameras():
    pool = open_pool("task", "camera-traps", {"shift": 0})
    catalog = pool.catalog
    _, id_test = _background_tells(catalog, "id_test")
    _, ood_test = _background_tells(catalog, "ood_test")
    assert np.abs(id_test[:24] - ood_test[36:]).max() <= 2  # the same mixes, sampled to within one image each
    # The same places: averaged over its pictures, an OOD camera looks like its ID twin and unlike the next one.
    mean = {
        k: pool.read(np.flatnonzero((catalog.group == k) & (catalog.split != 0))[:40], 16).images.mean(0)
        for k in (0, 1, 2, 36, 37, 38)
    }
    for k in range(3):
        gaps = [np.abs(mean[k] - mean[36 + j]).mean() for j in range(3)]
        assert int(np.argmin(gaps)) == k
    shifted = open_pool("task", "camera-traps", {"shift": 1})
    assert np.array_equal(
        shifted.read(shifted.catalog.rows("train")[:50], 16).images, pool.read(catalog.rows("train")[:50], 16).images
    )


def test_a_larger_task_holds_the_smaller_one():
    small, large = (open_pool("task", "camera-traps", {"train_images": n}) for n in (500, 4000))
    of = {key: i for i, key in enumerate(large.keys(np.arange(len(large.catalog))))}
    rows = small.catalog.rows("train")
    keys = small.keys(rows)
    assert all(key in of for key in keys)
    twin = np.array([of[key] for key in keys])
    assert np.array_equal(small.read(rows[:64], 16).images, large.read(twin[:64], 16).images)


def test_too_few_images_for_every_species_are_refused_all_at_once():
    task = open_pool("task", "camera-traps", {"train_images": 10, "id_val_images": 5})
    with pytest.raises(UserError) as error:
        _ = task.catalog
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("camera-traps: train_images: 10 images leave ")
    assert lines[0].endswith("of 16 species without one; ask for more images or fewer species")
    assert lines[1].startswith("camera-traps: id_val_images: 5 images leave ")


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("source", "species", {"species": 1}),
        ("source", "species", {"species": SOURCE_SPECIES + 1}),
        ("source", "fractals", {"images": 3}),
        ("task", "camera-traps", {"shift": -0.1}),
        ("task", "camera-traps", {"shift": float("nan")}),
    ],
)
def test_impossible_options_are_refused(kind, name, options):
    with pytest.raises(ValidationError):
        open_pool(kind, name, options)


def test_fractals_fill_their_frames():
    pool = open_pool("source", "fractals", {"classes": 40, "images_per_class": 3})
    images = pool.read(np.arange(120), 32).images.astype(int)
    spread = images.max(axis=3).reshape(120, -1)
    touched = (spread > spread.min(1, keepdims=True) + 40).mean(1)
    assert np.median(touched) > 0.08
    assert (touched > 0.01).all()


def test_waves_are_waves():
    turns = np.linspace(-3, 3, 601, dtype=np.float32)
    assert np.abs(draws.wave(turns) - np.sin(2 * np.pi * turns)).max() < 0.06
    assert np.allclose(draws.rgb(*(np.float32([v]) for v in (0.0, 1.0, 1.0))), [[1, 0, 0]])
    z = draws.normal(np.arange(20_000, dtype=np.uint64), "z")
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.02


@pytest.mark.parametrize(("kind", "name"), POOLS)
def test_images_are_rendered_together(kind, name):
    """By NumPy over whole blocks: 500 more take a small part of the calls that each would alone. `bench.rendering` has
    the speed."""
    pool = open_pool(kind, name, {})
    rows = np.random.default_rng(0).permutation(len(pool.catalog))[:1000]
    pool.read(rows[:100], 32)
    alone, few, many = (calls(lambda count=count: pool.read(rows[:count], 32)) for count in (1, 500, 1000))
    print(alone, few, many)
    assert many - few < 0.1 * 500 * alone
