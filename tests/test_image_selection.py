"""`pretrain.select`: the images that pandas would take, nested, with a control of equal size, on any machine."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ray_robust.data.columns import Column
from ray_robust.data.mixtures.matching import match
from ray_robust.data.mixtures.mixture import Subset, draw
from ray_robust.data.pool import Catalog, mix_bits
from ray_robust.errors import UserError
from ray_robust.spec.load import load_spec
from tests.make_mixtures import asked, pool

many = settings(max_examples=12, deadline=None)
counts = some.lists(some.integers(1, 30), min_size=2, max_size=6)
shares = some.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0])
seeds = some.integers(0, 100)


def column(values: Any) -> Column:
    values = np.asarray(values, float)
    return Column(values, ~np.isnan(values), "x")


def catalog(sizes: list[int]) -> Catalog:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Catalog(labels, tuple(f"c{k}" for k in range(len(sizes))), mix_bits(np.arange(len(labels)), 5), "x", "none")


def values_for(images: int, seed: int, levels: int) -> np.ndarray:
    """Few levels, so that there are ties."""
    return np.random.default_rng(seed).integers(0, levels, images).astype(float)


def drawn(images: Catalog, values: np.ndarray, seed: int = 1, select: Any = None, **keys: Any) -> Subset:
    mixture = asked(select=select, **keys)
    return draw(mixture, {"a": images}, {"a": None}, seed, {"a": column(values)})


def rows(subset: Subset) -> set[int]:
    return set(subset.shares[0].rows.tolist())


# --- counts, by pandas


@many
@given(counts, shares, some.integers(2, 50), some.booleans())
def test_as_many_images_as_pandas_takes(sizes, share, levels, per_class):
    images = catalog(sizes)
    values = values_for(len(images), 3, levels)
    frame = pd.DataFrame({"label": images.labels, "value": values})
    parts = [part for _, part in frame.groupby("label")] if per_class else [frame]
    expected = [part["value"].nlargest(math.ceil(Fraction(repr(share)) * len(part))) for part in parts]
    chosen = rows(drawn(images, values, select={"column": "s", "top": share, "per_class": per_class}))
    assert len(chosen) == sum(map(len, expected))
    assert sorted(values[sorted(chosen)]) == sorted(pd.concat(expected))


@pytest.mark.parametrize(
    ("select", "query"),
    [
        ({"at_least": 5}, "value >= 5"),
        ({"at_most": 5}, "value <= 5"),
        ({"at_least": 3, "at_most": 5}, "3 <= value <= 5"),
        ({"bottom": 0.5}, "rank <= 10"),
    ],
)
def test_limits_are_those_of_a_pandas_query(select, query):
    images, values = catalog([10, 10]), np.arange(20) % 9.0
    frame = pd.DataFrame({"value": values})
    frame["rank"] = frame["value"].rank(method="first")
    subset = drawn(images, values, select={"column": "s", **select})
    assert sorted(values[sorted(rows(subset))]) == sorted(frame.query(query)["value"])


def test_a_share_is_the_decimal_number_that_is_written():
    images = catalog([15, 15])
    assert len(drawn(images, np.arange(30), select={"column": "s", "top": 0.1})) == 3  # 0.1 * 30 is 3.0000000000000004


def test_texts_match_an_expression():
    images = catalog([3, 3])
    texts = np.array(["a dog", "a cat", "Dogs", "a wolf", "", "hotdog"], object)
    mixture = asked(select={"column": "caption", "matches": r"\bdog", "missing": "drop"})
    subset = draw(mixture, {"a": images}, {"a": None}, 1, {"a": Column(texts, texts != "", "x")})
    assert rows(subset) == {0}
    ignoring = asked(select={"column": "caption", "matches": "(?i)dog", "missing": "drop"})
    assert rows(draw(ignoring, {"a": images}, {"a": None}, 1, {"a": Column(texts, texts != "", "x")})) == {0, 2, 5}


# --- properties


@many
@given(
    counts, shares, shares, some.integers(1, 8), some.sampled_from([False, True, "per_class"]), some.booleans(), seeds
)
def test_smaller_shares_lie_inside_larger_ones(sizes, one, other, levels, random, per_class, seed):
    images = catalog(sizes)
    values, (less, more) = values_for(len(images), seed, levels), sorted((one, other))
    how = {"column": "s", "per_class": per_class, "random": random}
    assert rows(drawn(images, values, seed, {**how, "top": less})) <= rows(
        drawn(images, values, seed, {**how, "top": more})
    )


@many
@given(counts, shares, some.integers(1, 8), some.booleans(), seeds)
def test_the_random_control_is_of_equal_size(sizes, share, levels, per_class, seed):
    images = catalog(sizes)
    values, how = values_for(len(images), seed, levels), {"column": "s", "top": share, "per_class": per_class}
    best, control = (drawn(images, values, seed, {**how, "random": random}) for random in (False, True))
    alike = drawn(images, values, seed, {**how, "random": "per_class"})
    assert len(best) == len(control) == len(alike)
    of_class = [np.bincount(images.labels[sorted(rows(one))], minlength=len(sizes)) for one in (best, control, alike)]
    assert (of_class[0] == of_class[2]).all()
    if per_class:
        assert (of_class[0] == of_class[1]).all()
    else:  # the source's shares of classes
        assert (abs(of_class[1] - len(best) * np.array(sizes) / sum(sizes)) < 1 + 1e-6).all() or len(best) < len(sizes)


@many
@given(counts, shares, some.integers(1, 4), seeds)
def test_images_do_not_depend_on_the_seed_but_those_of_the_control_do(sizes, share, levels, seed):
    images = catalog(sizes)
    values = values_for(len(images), seed, levels)
    once, again = (rows(drawn(images, values, s, {"column": "s", "top": share})) for s in (1, 2))
    assert once == again


def test_each_seed_draws_a_control_of_its_own():
    images, how = catalog([50, 50]), {"column": "s", "top": 0.3, "random": True}
    assert rows(drawn(images, np.arange(100.0), 1, how)) != rows(drawn(images, np.arange(100.0), 2, how))


def test_the_order_of_rows_decides_no_tie():
    """Another machine may list the images of a pool in another order."""
    images, values = catalog([40, 40]), np.zeros(80)
    order = np.random.default_rng(1).permutation(80)
    shuffled = Catalog(images.labels[order], images.classes, images.ids[order], "x", "none")
    for select in ({"column": "s", "top": 0.3}, {"column": "s", "top": 0.3, "random": True}):
        one, other = (pool.ids[sorted(rows(drawn(pool, values, 1, select)))] for pool in (images, shuffled))
        assert sorted(one) == sorted(other)


def test_the_choice_is_the_same_everywhere():
    images = catalog([40, 40, 7])
    text = "".join(
        str(sorted(rows(drawn(images, values_for(87, 1, 5), 7, {"column": "s", "top": 0.3, **more}))))
        for more in ({}, {"random": True}, {"per_class": True}, {"random": "per_class"})
    )
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "2d24f353500bfb38"


# --- order of the keys


def test_classes_come_before_the_share_and_numbers_after():
    images, values = catalog([20, 20, 20]), np.arange(60.0)
    subset = drawn(images, values, select={"column": "s", "top": 0.5}, classes=["c0", "c1"])
    assert rows(subset) == set(range(20, 40))  # half of what the two classes have, and none of c0
    few = drawn(images, values, select={"column": "s", "top": 0.5}, num_images=5)
    assert len(few) == 5
    assert rows(few) <= set(range(30, 60))
    each = drawn(images, values, select={"column": "s", "top": 0.5, "per_class": True}, images_per_class=4)
    assert (np.bincount(images.labels[sorted(rows(each))]) == 4).all()
    more = drawn(images, values, select={"column": "s", "top": 0.5, "per_class": True}, num_classes=3)
    fewer = drawn(images, values, select={"column": "s", "top": 0.5, "per_class": True}, num_classes=2)
    assert rows(fewer) <= rows(more)


def test_held_out_images_are_those_of_the_whole_source():
    images, values = catalog([40, 40]), np.arange(80.0)
    whole, best = (
        drawn(images, values, select=one).shares[0] for one in (None, {"column": "s", "top": 0.4, "per_class": True})
    )
    assert set(best.held_out_rows) == set(whole.held_out_rows)
    assert not set(best.rows) & set(best.held_out_rows)


def test_the_composition_says_what_was_selected_and_which_ties_and_classes():
    images, values = catalog([10, 10, 10]), np.repeat([1.0, 2.0, 3.0], 10)
    part = drawn(images, values, select={"column": "s", "top": 0.5}).composition[0]
    assert part["select"] == "s top 0.5"
    assert part["select_from"] == 30
    assert part["available"] == part["selected"] == 15
    assert "15 of 30 images, s at least 2 (10 have exactly that: 5 of them by a hash" in part["select_note"]
    assert "1 of 3 classes have none left and are not learned: c0" in part["select_note"]
    each = drawn(images, values, select={"column": "s", "top": 0.5, "per_class": True}).composition[0]
    assert "15 of 30 images (30 are at the limit of their class: 15 of them by a hash" in each["select_note"]


def test_numbers_that_are_matched_are_those_of_the_selected_images():
    mixtures = [
        asked(classes={"under": name}, select={"column": "s", "top": 0.5, "per_class": True})
        for name in ("animal", "tool")
    ]
    columns = {"a": column(np.arange(95.0))}
    matched, _ = match(mixtures, lambda mixture: {"a": pool()}, lambda mixture: columns)
    assert {mixture.num_classes for mixture in matched} == {3}
    for mixture in matched:
        for seed in range(3):
            assert len(draw(mixture, {"a": pool()}, {"a": None}, seed, columns)) == matched[0].num_images


# --- mistakes


@pytest.mark.parametrize(
    ("values", "select", "keys", "message"),
    [
        ([1, math.nan, 3, 4], {"top": 0.5}, {}, "no value for 1 of the 4 images of source a; give them one, or leave"),
        ([1, 2, 3, 4], {"at_least": 9}, {}, "no image of source a has s at least 9; its values go from 1 to 4"),
        ([1, 2, 3, 4], {"at_least": 3}, {"num_images": 3}, "needs 3 images, supply is 2 (in 1 classes"),
        ([1, 2, 3, 4], {"at_least": 3}, {"num_images": 3}, "select leaves 2 of 4 images"),
        ([1, 2, 3, 4], {"at_least": 3}, {"num_classes": 2}, "supply is 1 (of 2 in all); select leaves 2 of 4"),
        ([1, 2, 3, 4], {"at_least": 2}, {"images_per_class": 2}, "2 classes hold fewer (the smallest 1); select"),
    ],
)  # fmt: skip
def test_what_cannot_be_selected_is_an_error(values, select, keys, message):
    with pytest.raises(UserError) as error:
        drawn(catalog([2, 2]), values, select={"column": "s", **select}, **keys)
    assert message in str(error.value)


def test_images_without_a_value_are_left_out_when_asked_and_said():
    images, values = catalog([5, 5]), np.where(np.arange(10) % 2, np.arange(10.0), np.nan)
    for random in (False, True):
        subset = drawn(images, values, select={"column": "s", "top": 0.6, "missing": "drop", "random": random})
        assert len(subset) == 3
        assert all(row % 2 for row in rows(subset))
        assert "5 images without a value are left out" in subset.composition[0]["select_note"]


def test_a_selection_is_never_left_out_in_silence():
    with pytest.raises(KeyError):
        draw(asked(select={"column": "s", "top": 0.5}), {"a": catalog([2, 2])}, {"a": None}, 1)


SPEC: dict[str, Any] = {"task": {"name": "camera-traps"}, "pretrain": {"sources": {"species": 1}}}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"column": "s", "top": 30}, "select.top: must be a share of 1, not 30; 30 % is written 0.3"),
        ({"column": "s", "top": "30%"}, "30 % is written 0.3"),
        ({"column": "s", "top": 0}, "select.top: must be above 0, not 0"),
        ({"column": "s"}, "give one of top, bottom, at_least (and at_most) or matches"),
        ({"column": "s", "top": 0.3, "matches": "a"}, "not top and matches"),
        ({"column": "s", "at_least": 3, "at_most": 2}, "no value is at least 3 and at most 2"),
        ({"column": "s", "matches": "(a"}, "is no regular expression"),
        ({"column": "s", "at_least": "wide"}, "select.at_least: must be a number, not 'wide'"),
        ({"column": "s", "at_least": 2, "per_class": True}, "per_class belongs to top and bottom"),
        ({"colum": "s", "top": 0.3}, "unknown key; did you mean column?"),
        ({"column": "s", "top": 0.3, "missing": "keep"}, "select.missing: must be one of fail, drop, not 'keep'"),
        ({"column": "s", "top": 0.3, "random": "yes!"}, "select.random: must be true, false or per_class"),
        ({"column": "s", "top": 0.3, "table": "scores.xlsx"}, "must be a .csv or .parquet file"),
        ("none", "pretrain.select: must be all, or a mapping such as {column: clip_score, top: 0.3}, not 'none'"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_spec_is_a_line_with_what_would_be_right(select, message):
    with pytest.raises(UserError) as error:
        load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], "select": select}})
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_a_level_that_is_a_mapping_has_a_readable_name():
    levels = ["all", {"column": "s", "top": 0.3}, {"column": "w", "at_least": "1k", "random": True}]
    alike = [{"column": "s", "top": 0.3, "table": f"{folder}/scores.csv"} for folder in "ab"]
    for grid, names in ((levels, ["all", "s top 0.3", "random in place of w at least 1000"]), (alike, None)):
        spec = load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], "select": {"grid": grid}}})
        labels = [level.label.removeprefix("select=") for level in spec.pretrains]
        assert labels == names or (names is None and len(set(labels)) == 2)
    points = [{"select": levels[1], "label_noise": {"share": 0.2, "among": "siblings"}}]
    spec = load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], "points": points}})
    assert spec.pretrains[0].label == "select=s top 0.3, label_noise=0.2 among siblings"


def test_a_search_draws_a_share():
    keys = {"select": {"column": "s", "top": {"uniform": [0.1, 0.5]}}, "label_noise": {"uniform": [0, 0.4]}}
    spec = load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], **keys}, "search": {"method": "random", "trials": 3}})
    drawn = [spec.at(spec.space.draw(i)).pretrains[0].section for i in range(3)]
    assert len({section.select.top for section in drawn}) == len({section.label_noise.share for section in drawn}) == 3
    assert all(0.1 <= section.select.top <= 0.5 for section in drawn)


def test_every_key_is_an_axis_with_a_name_of_its_own():
    select = {"column": "s", "top": {"grid": [0.1, 1]}, "random": {"grid": [False, True]}}
    keys = {"select": select, "label_noise": {"grid": [0, 0.2]}, "dedupe": {"within": {"grid": [False, True]}}}
    spec = load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], **keys}})
    assert len(spec.pretrains) == 16
    assert spec.pretrains[-1].label == "select.top=1, select.random=True, label_noise=0.2, dedupe.within=True"
    assert len({level.section.model_dump_json() for level in spec.pretrains}) == 16
    again = load_spec(spec.document.tree)
    assert [level.section for level in again.pretrains] == [level.section for level in spec.pretrains]
