"""`pretrain.label_noise`: an exact share, nested, never the true label, among siblings where asked, never of a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ray_robust.data.mixtures.label_noise import total
from ray_robust.data.mixtures.mixture import Share, Subset, draw
from ray_robust.data.pool import Catalog, Options
from ray_robust.errors import UserError
from ray_robust.spec.image_selection import LabelNoise
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import Pretrain, SourceSection
from tests.make_mixtures import FAMILY, asked, pool

many = settings(max_examples=12, deadline=None)
shares = some.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9])


def drawn(noise: Any, seed: int = 1, catalog: Catalog | None = None, **keys: Any) -> Subset:
    return draw(asked(label_noise=noise, **keys), {"a": catalog or pool()}, {"a": None}, seed)


def wrong(share: Share) -> dict[int, int]:
    assert share.true_labels is not None
    pairs = zip(share.rows.tolist(), share.labels.tolist(), share.true_labels.tolist(), strict=True)
    return {row: label for row, label, true in pairs if label != true}


@many
@given(shares, some.integers(0, 50), some.sampled_from(["class", "family", "kingdom", "random:3"]))
def test_the_share_is_exact_in_all_and_of_every_label(share, seed, granularity):
    subset = drawn(share, seed, granularity=granularity)
    flips, images = wrong(subset.shares[0]), len(subset)
    assert len(flips) == total(LabelNoise(share=share), images)  # so that none coincides with the true label
    true = subset.shares[0].true_labels
    each = np.bincount(true[np.isin(subset.shares[0].rows, list(flips))], minlength=len(subset.classes))
    assert (abs(each - share * np.bincount(true)) <= 1).all()
    assert subset.composition[0]["wrong_labels"] == len(flips)


@many
@given(shares, shares, some.integers(0, 50))
def test_larger_shares_keep_the_wrong_labels_of_smaller_ones(one, other, seed):
    less, more = (wrong(drawn(share, seed).shares[0]) for share in sorted((one, other)))
    assert less.items() <= more.items()


def test_images_held_out_images_and_all_else_are_as_without():
    keys: dict[str, Any] = {"num_images": 60}
    plain, noisy = drawn(None, **keys), drawn(0.4, **keys)
    assert plain.shares[0].true_labels is None
    assert (plain.shares[0].rows == noisy.shares[0].rows).all()
    assert (plain.shares[0].labels == noisy.shares[0].true_labels).all()
    sources = {"a": SourceSection(kind="t", options=Options())}
    held = [
        draw(Pretrain(sources=sources, epochs=1, holdout=0.2, label_noise=share), {"a": pool()}, {"a": None}, 1).shares[
            0
        ]
        for share in (0, 0.4)
    ]
    assert len(held[0].held_out_rows)
    assert (held[0].held_out_rows == held[1].held_out_rows).all()
    assert (held[0].held_out_labels == held[1].held_out_labels).all()


def test_wrong_labels_are_spread_over_all_others():
    catalog = pool(dict.fromkeys(FAMILY, 300))
    share = drawn(0.5, catalog=catalog).shares[0]
    assert share.true_labels is not None
    table = pd.crosstab(share.true_labels, share.labels).to_numpy()
    others = table[~np.eye(len(table), dtype=bool)]
    assert (np.diag(table) == 150).all()
    assert others.min() > 8  # of 150 / 7 expected
    assert others.max() < 40


def test_siblings_are_labels_with_the_same_parent():
    subset = drawn({"share": 0.5, "among": "siblings"}, classes=["cat", "lion", "wolf", "fox", "saw", "axe"])
    share = subset.shares[0]
    assert share.true_labels is not None
    for label, true in zip(share.labels, share.true_labels, strict=True):
        assert FAMILY[subset.classes[label]] == FAMILY[subset.classes[true]]
    families = drawn({"share": 0.5, "among": "siblings"}, granularity="family")
    kingdom = {"cats": 0, "dogs": 0, "birds": 0, "cutters": 1, "writers": 1}
    share = families.shares[0]
    assert wrong(share)
    for label, true in zip(share.labels, share.true_labels, strict=True):  # type: ignore[arg-type]
        assert kingdom[families.classes[label]] == kingdom[families.classes[true]]


def test_labels_of_several_sources_are_taken_for_others_of_the_same():
    subset = draw(asked({"a": 1, "b": 1}, num_images=100, label_noise=0.5), {"a": pool(), "b": pool()},
                  {"a": None, "b": None}, 1)  # fmt: skip
    for share in subset.shares:
        assert {subset.classes[label].partition("/")[0] for label in share.labels} == {share.source}


@pytest.mark.parametrize(
    ("noise", "keys", "message"),
    [
        (
            {"share": 0.3, "among": "siblings"},
            {},
            "2 of 8 labels of source a have no sibling in the mixture (owl below",
        ),
        ({"share": 0.3, "among": "siblings"}, {"granularity": "random:3"}, "are no nodes of a hierarchy"),
        (0.001, {}, "label_noise: 0.001 of 95 images of source a is none; give a larger share"),
        (0.3, {"classes": ["cat"]}, "source a has a single label here, which can be taken for no other"),
    ],
)
def test_noise_that_cannot_be_made_is_an_error(noise, keys, message):
    with pytest.raises(UserError) as error:
        drawn(noise, **keys)
    assert message in str(error.value)


def test_siblings_need_a_hierarchy():
    with pytest.raises(UserError, match="has no hierarchy, so no siblings; say among: labels"):
        drawn({"share": 0.3, "among": "siblings"}, catalog=pool(plain=True))


SPEC: dict[str, Any] = {"task": {"name": "camera-traps"}, "pretrain": {"sources": {"species": 1}}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label_noise": 20}, "label_noise: must be a share of 1, not 20; 20 % is written 0.2"),
        ({"label_noise": "20%"}, "20 % is written 0.2"),
        ({"label_noise": 1}, "must be a share at least 0 and below 1, or a mapping"),
        ({"label_noise": True}, "must be a share at least 0 and below 1, or a mapping"),
        ({"label_noise": {"share": 0.2, "among": "cousins"}}, "among: must be one of labels, siblings, not 'cousins'"),
        ({"label_noise": {"among": "siblings"}}, "label_noise.share: missing"),
        ({"label_noise": 0.2, "method": "simclr"}, "belongs to method supervised, which is not used here"),
        ({"dedupe": True}, "dedupe: must be none, or a mapping of within and against"),
        ({"dedupe": {"against": "tests"}}, "dedupe.against: must be one of task, not 'tests'"),
    ],
)
def test_a_mistake_in_the_spec_is_a_line_with_what_would_be_right(keys, message):
    with pytest.raises(UserError) as error:
        load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], **keys}})
    assert message in str(error.value)


def test_no_noise_is_the_trial_without_the_key():
    def keys(**more: Any) -> list[str]:
        spec = load_spec({**SPEC, "pretrain": {**SPEC["pretrain"], **more}})
        return [level.section.model_dump_json(exclude_defaults=True) for level in spec.pretrains]

    assert keys(label_noise={"grid": [0, 0.2]})[0] == keys()[0] == keys(dedupe={"within": False})[0]
    assert keys(label_noise={"share": 0, "among": "siblings"}) == keys(select="all") == keys(dedupe="none") == keys()
