"""Wrong labels for a share of a source's drawn images: which images, and which other label each gets.

The share is exact for every label up to rounding; images and labels go by hashes of the image, so that a larger share
keeps the wrong labels of a smaller one. A wrong label is never the true one. Held-out images keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from ray_robust.data.labels.hierarchy import tree_paths
from ray_robust.data.pool import Catalog, in_unit_interval, mix_bits, seed_of
from ray_robust.data.rounding import apportion
from ray_robust.spec.image_selection import LabelNoise
from ray_robust.spec.sections import Pretrain

NOISE = "pretrain.label_noise"
NAMED = 3  # labels that a message lists


def noisy_labels(
    noise: LabelNoise,
    name: str,
    ids: np.ndarray,
    labels: np.ndarray,
    families: Mapping[int, Sequence[int]],
    subset_seed: int,
) -> np.ndarray:
    """Return the labels of a source's drawn images with the share of `noise` made wrong, int64 [n].

    ids       uint64 [n], of the images (see `Catalog`)
    labels    int64 [n], the true ones
    families  per label, those that its images can be taken for: ascending, itself among them, at least two
    """
    wrong = labels.copy()
    order = np.lexsort((mix_bits(ids, seed_of("noise", name, subset_seed)), labels))
    numbers, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    uniform = in_unit_interval(mix_bits(ids, seed_of("noisy label", name, subset_seed)))
    for label, start, count in zip(numbers.tolist(), starts, apportion(total(noise, len(ids)), counts), strict=True):
        rows, members = order[start : start + count], np.asarray(families[label])
        others = members[members != label]
        wrong[rows] = others[(uniform[rows] * len(others)).astype(np.int64)]
    return wrong


def total(noise: LabelNoise, images: int) -> int:
    """Return how many of so many images get a wrong label: the nearest whole number, half up."""
    return int(Fraction(repr(noise.share)) * images + Fraction(1, 2))


def families_of(
    mixture: Pretrain,
    name: str,
    catalog: Catalog,
    heads: Sequence[str],
    index: np.ndarray,
    images: int,
    problems: list[str],
) -> dict[int, list[int]]:
    """Return what the labels of a source can be taken for, by label (see `noisy_labels`).

    heads   per class its label, as it is called in the source
    index   int64 [classes], the label's number, -1 for a class that gives no image
    images  that are drawn of the source

    Adds a problem for a label that can be taken for no other, and for a share that is no image.
    """
    noise = mixture.label_noise
    assert noise is not None
    before = len(problems)
    if not total(noise, images):
        problems.append(f"{NOISE}: {noise.share:g} of {images:,} images of source {name} is none; give a larger share")
    named = {int(i): head for i, head in zip(index, heads, strict=True) if i >= 0}
    if noise.among == "labels":
        if len(named) < 2:
            problems.append(f"{NOISE}: source {name} has a single label here, which can be taken for no other")
        return dict.fromkeys(named, sorted(named))
    if mixture.granularity.partition(":")[0] in ("random", "map"):
        problems.append(f"{NOISE}: labels of granularity {mixture.granularity.partition(':')[0]} are no nodes of a "
                        "hierarchy, and have no siblings; say among: labels")  # fmt: skip
    elif catalog.hierarchy is None:
        problems.append(f"{NOISE}: source {name} has no hierarchy, so no siblings; say among: labels")
    if len(problems) > before:
        return dict.fromkeys(named, sorted(named))
    parents: dict[int, tuple[str, ...]] = {}
    for path, i, head in zip(tree_paths(catalog), index.tolist(), heads, strict=True):
        if i >= 0:
            parents.setdefault(i, path[: path.index(head)] if head in path else path)
    of_parent: dict[tuple[str, ...], list[int]] = {}
    for i, parent in sorted(parents.items()):
        of_parent.setdefault(parent, []).append(i)
    if lonely := [i for members in of_parent.values() if len(members) == 1 for i in members]:
        few = ", ".join(f"{named[i]}{f' below {parents[i][-1]}' if parents[i] else ''}" for i in lonely[:NAMED])
        what = f"{len(lonely)} of {len(named)} labels of source {name} have no sibling in the mixture"
        problems.append(f"{NOISE}: {what} ({few}{', ...' if len(lonely) > NAMED else ''}); choose classes that have "
                        "some, or say among: labels")  # fmt: skip
    return {i: of_parent[parent] for i, parent in parents.items()}
