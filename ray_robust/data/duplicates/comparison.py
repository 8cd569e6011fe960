"""Images that occur more than once where they should not: across a task's splits, in a source and a task, or under two
labels of one pool.

Identical means equal pixels as the models see them; near-identical is defined in `phash`. `entries` writes the result
to the run folder, and `analysis.duplicates` computes ER without the affected test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ray_robust.data.duplicates import phash
from ray_robust.data.duplicates.signatures import HASHED, signatures
from ray_robust.data.images.pack import PRESENT
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Pool
from ray_robust.data.sources.diffusion import Diffusion
from ray_robust.run.shifts import test_of

IDENTICAL, NEAR = "identical", "near-identical"
LABELS = "another label"  # in the column `where`: the partner is in the same pool and has another label
COLUMNS = ("split", "image", "label", "where", "other", "other_label", "kind", "bits", "likeness")
# what of each split is looked for where: training images must not be tested, nor an image be both ID and OOD
EARLIER = {
    "id_val": ("train",),
    "ood_val": ("train", "id_val"),
    "id_test": ("train", "id_val", "ood_val", "ood_test"),
    "ood_test": ("train", "id_val", "ood_val", "id_test"),
}
OF_SHIFTS = ("train", "id_val", "id_test")  # likewise for the test of a further shift
MOST_WITHIN = 250_000  # images of a pool, of which all near pairs are searched: a million take minutes
REPRESENTATIVES = 4  # images of one hash that a pair is confirmed with
PAIRS_AT_ONCE, BLOCK_BYTES = 1 << 18, 16 << 20  # pairs, and bytes of their pixels, in memory together
LONG = 2_000_000_000  # pairs of hashes, of which a search tells how far it is: half a minute
RENDERED = "is drawn from random numbers of its own, image by image, so that none is there twice"


@dataclass(frozen=True, eq=False)
class Images:
    """Some images of a store: catalog rows (ascending), labels (class numbers), digests and hashes of each."""

    store: ImageStore
    rows: np.ndarray
    labels: np.ndarray
    records: np.ndarray

    @classmethod
    def of(cls, store: ImageStore, rows: np.ndarray | None = None) -> Images:
        """Return those of `rows` (default: all) that are present."""
        present = np.flatnonzero(store.state == PRESENT)
        rows = present if rows is None else np.intersect1d(rows, present)
        return cls(store, rows, store.pool.catalog.labels[rows], signatures(store, rows))

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: np.ndarray) -> Images:
        """Return those at these positions, or where this mask is true."""
        return Images(self.store, self.rows[chosen], self.labels[chosen], self.records[chosen])

    @cached_property
    def by_bytes(self) -> Images:
        """The same with digests of the files' bytes in place of pixels, where the pool has them and all can be read."""
        digests = self.store.pool.digests(self.rows)
        if digests is None:
            return self
        records = self.records.copy()
        records["content"] = np.ascontiguousarray(digests).view("<u8").reshape(len(digests), 2)[:, 0]
        return Images(self.store, self.rows, self.labels, records)

    @cached_property
    def contents(self) -> pd.DataFrame:
        """The first place of every pair of content and label: columns content, label, other."""
        frame = pd.DataFrame({"content": self.records["content"], "label": self.labels, "other": np.arange(len(self))})
        return frame.drop_duplicates(["content", "label"])

    @cached_property
    def hash_groups(self) -> HashGroups:
        return HashGroups(self)


class HashGroups:
    """The distinct pairs of hash and label among some images, searchable, and which images have each of them."""

    def __init__(self, images: Images) -> None:
        hashed = np.flatnonzero(images.records["state"] == HASHED)
        frame = pd.DataFrame({"phash": images.records["phash"][hashed], "label": images.labels[hashed]})
        numbers = frame.groupby(["phash", "label"], sort=True).ngroup().to_numpy()
        order = np.argsort(numbers, kind="stable")
        self.positions = hashed[order]  # of the images, those of one group side by side
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(numbers))]).astype(np.int64)
        firsts = self.positions[self.starts[:-1]]
        self.hashes, self.labels = images.records["phash"][firsts], images.labels[firsts].astype(np.int64)

    @cached_property
    def index(self) -> phash.Index:
        return phash.Index(self.hashes, self.labels)

    def members(self, numbers: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (position in `numbers`, position among the images) of every image of these groups, at most `most` of
        each."""
        first, count = self.starts[numbers], np.diff(self.starts)[numbers]
        count = count if most is None else np.minimum(count, most)
        offsets = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(np.arange(len(numbers)), count), self.positions[np.repeat(first, count) + offsets]


@dataclass(eq=False)
class Search:
    """The searches for near-identical images of one comparison.

    log    called with a line now and then while a long one goes on
    limit  with how many hashes of a bucket each was compared where it could not be all (`phash.Index.limit`)
    """

    log: Callable[[str], None] = lambda line: None
    limit: int | None = None

    def near(
        self, index: phash.Index, hashes: np.ndarray, codes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `phash.Index.near` does."""
        limit, tenths = index.limit(hashes), 0
        if limit is not None:
            self.limit = min(limit, self.limit or limit)

        def progress(done: int, total: int) -> None:
            nonlocal tenths
            if total >= LONG and done * 10 // total > tenths:
                tenths = done * 10 // total
                self.log(f"near-identical images: {tenths * 10} % of {total / 1e9:,.1f} billion pairs compared")

        return index.near(hashes, codes, progress=progress)

    @property
    def note(self) -> str:
        """What was not looked for, or ""."""
        if self.limit is None:
            return ""
        return (
            "so many images look alike, as of a fixed camera, that near-identical ones were looked for among the "
            f"{self.limit:,} closest of each part of the hash, not among all; identical ones were among all"
        )


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What one comparison gave.

    pool     whose images are looked for; `among` is where: the pool itself, or a source
    table    one row per image and place where it occurs again, columns `COLUMNS`: split ("" of a source), image and
             other (catalog rows of `pool` and `among`), their labels (names), where (a split, `source NAME`, or
             `LABELS`), kind, bits (of 64, by which the hashes differ) and likeness (correlation of thumbnails)
    images   how many images each split has, of a source {"": n}
    note     what was not looked for, and why; or ""
    """

    pool: Pool
    among: Pool
    table: pd.DataFrame
    images: dict[str, int]
    note: str = ""

    @property
    def counts(self) -> pd.DataFrame:
        """Images by split, where and kind, the larger numbers first: columns split, where, kind, images."""
        counts = self.table.groupby(["split", "where", "kind"], sort=False).size().rename("images").reset_index()
        return counts.sort_values("images", ascending=False, kind="stable", ignore_index=True)


def skipped(pool: Pool) -> str:
    """Return why this pool is not compared with anything, or ""."""
    return f"{pool.name} {RENDERED}" if pool.rendered and not isinstance(pool, Diffusion) else ""


def rule(size: int) -> str:
    """Return what makes two images identical, or near-identical, in one sentence."""
    return (
        f"identical: equal pixels at {size} px; near-identical: perceptual hashes (64-bit DCT) that differ in at most "
        f"{phash.RADIUS} bits, and thumbnails that correlate to at least {phash.LIKENESS:g}"
    )


def within(store: ImageStore, log: Callable[[str], None] = Search.log) -> Duplicates:
    """Return the images of a task that occur again in an earlier split, and those of any pool that have two labels.

    The store must be filled. Raises UserError for an image that is damaged on disk.
    """
    images, pool, search = Images.of(store), store.pool, Search(log)
    near, note = len(images) <= MOST_WITHIN, _too_small(store)
    if not near:
        note = f"near-identical images under two labels are looked for in pools of up to {MOST_WITHIN:,} images"
    if pool.catalog.split is None:
        table = _table("", LABELS, images, images, search if near else None, other_label=True)
        return Duplicates(pool, pool, table, {"": len(images)}, _joined_notes(note, search.note))
    split = pool.catalog.split[images.rows]
    parts = {name: images.part(split == i) for i, name in enumerate(pool.catalog.parts)}
    earlier = EARLIER | dict.fromkeys(map(test_of, pool.catalog.shifts), OF_SHIFTS)
    tables = [
        _table(name, there, parts[name], parts[there], search) for name, others in earlier.items() for there in others
    ]
    labelled = images.part(images.labels >= 0)
    tables += [_table(name, LABELS, part, labelled, search if near else None, other_label=True)
               for name, part in parts.items() if name not in pool.catalog.unlabelled]  # fmt: skip
    sizes = {name: len(part) for name, part in parts.items()}
    return Duplicates(pool, pool, _joined(tables), sizes, _joined_notes(note, search.note))


def between(task: ImageStore, source: ImageStore, log: Callable[[str], None] = Search.log) -> Duplicates:
    """Return the images of each split of a task that a source has too. Both stores must be filled, and of one size."""
    images, others = _comparable(task, source)
    assert task.pool.catalog.split is not None
    search = Search(log)
    split, name = task.pool.catalog.split[images.rows], f"source {source.pool.name}"
    parts = {part: images.part(split == i) for i, part in enumerate(task.pool.catalog.parts)}
    tables = [_table(part, name, own, others, search) for part, own in parts.items()]
    sizes = {part: len(own) for part, own in parts.items()}
    return Duplicates(task.pool, source.pool, _joined(tables), sizes, _joined_notes(_too_small(task), search.note))


def repeated(images: Images, search: Search | None = None) -> np.ndarray:
    """Return bool [n]: the images that occur before, identical or near-identical, in the order of rows. What is left
    has no pair that this comparison sees."""
    search = search or Search()
    left = images.part(~pd.Series(images.records["content"]).duplicated().to_numpy(bool))
    while True:
        own = left.hash_groups
        asked, near, bits = search.near(own.index, own.hashes)
        position, other = own.members(near, REPRESENTATIVES)
        pairs: set[tuple[int, int]] = set()
        for image, partner, _ in _spread(own, asked[position], other, bits[position], images.store.image_bytes):
            apart = image != partner
            image, partner = image[apart], partner[apart]
            if not len(image):
                continue
            alike = _likeness(left, image, left, partner) >= phash.LIKENESS
            late, early = np.maximum(image, partner)[alike], np.minimum(image, partner)[alike]
            pairs |= set(zip(late.tolist(), early.tolist(), strict=True))
        if not pairs:
            return ~np.isin(images.rows, left.rows)
        again = np.zeros(len(left), bool)
        for late, early in sorted(pairs):
            again[late] |= not again[early]
        left = left.part(~again)


def occurring(source: ImageStore, task: ImageStore, search: Search | None = None) -> np.ndarray:
    """Return the rows of a source that any split of a task has too, ascending. Stores as in `between`."""
    others, images = _comparable(task, source)
    if not len(images) or not len(others):
        return images.rows[:0]
    same = _identical(images, others, False)["image"].to_numpy(np.int64)
    rest = np.setdiff1d(np.arange(len(images)), same)
    near = _near(images, rest, others, search or Search(), False)["image"].to_numpy(np.int64)
    return images.rows[np.union1d(same, near)]


def _comparable(task: ImageStore, source: ImageStore) -> tuple[Images, Images]:
    """Return the images of both, by their files' bytes where one file gives other pixels."""
    images, others = Images.of(task), Images.of(source)
    if task.pool.fit != source.pool.fit:
        return images.by_bytes, others.by_bytes
    return images, others


def _too_small(store: ImageStore) -> str:
    few = f"near-identical images are not looked for under {phash.LEAST_SIZE} px"
    return few if store.size < phash.LEAST_SIZE else ""


def _joined_notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS))


def _table(
    split: str, where: str, images: Images, others: Images, search: Search | None, other_label: bool = False
) -> pd.DataFrame:
    """Return the rows of `Duplicates.table` for one split and one place, without a `search` of identical images alone;
    with `other_label` pairs of equal labels are none."""
    if not len(images) or not len(others):
        return pd.DataFrame(columns=list(COLUMNS))
    pairs = _identical(images, others, other_label)
    if search is not None:
        rest = np.setdiff1d(np.arange(len(images)), pairs["image"].to_numpy())
        pairs = pd.concat([pairs, _near(images, rest, others, search, other_label)], ignore_index=True)
    # the last name is of what has no label, -1
    names, other_names = (np.array([*part.store.pool.catalog.called, ""], object) for part in (images, others))
    image, other = pairs["image"].to_numpy(np.int64), pairs["other"].to_numpy(np.int64)
    return pd.DataFrame(
        {
            "split": split,
            "image": images.rows[image],
            "label": names[images.labels[image]],
            "where": where,
            "other": others.rows[other],
            "other_label": other_names[others.labels[other]],
            "kind": pairs["kind"],
            "bits": pairs["bits"].astype(np.int64),
            "likeness": pairs["likeness"].astype(float),
        }
    )


def _identical(images: Images, others: Images, other_label: bool) -> pd.DataFrame:
    """Return columns image, other (positions), kind, bits, likeness: equal images, of the same label if any."""
    own = pd.DataFrame({"content": images.records["content"], "own": images.labels, "image": np.arange(len(images))})
    pairs = own.merge(others.contents, on="content")
    differs = pairs["own"] != pairs["label"]
    pairs = pairs[differs] if other_label else pairs.assign(differs=differs).sort_values(["image", "differs"])
    pairs = pairs.drop_duplicates("image")[["image", "other"]]
    return pairs.assign(kind=IDENTICAL, bits=0, likeness=1.0)


def _near(images: Images, rest: np.ndarray, others: Images, search: Search, other_label: bool) -> pd.DataFrame:
    """Return the same for those of `rest` that are near-identical with one of `others`: with the most alike."""
    own, there = images.part(rest).hash_groups, others.hash_groups
    codes = own.labels if other_label else None
    asked, near, bits = search.near(there.index, own.hashes, codes)
    position, other = there.members(near, REPRESENTATIVES)
    pairs = []
    for image, partner, apart in _spread(own, asked[position], other, bits[position], images.store.image_bytes):
        likeness = _likeness(images, rest[image], others, partner)
        alike = likeness >= phash.LIKENESS
        alike &= images.records["content"][rest[image]] != others.records["content"][partner]
        columns = {"image": rest[image], "other": partner, "kind": NEAR, "bits": apart, "likeness": likeness}
        pairs.append(pd.DataFrame(columns)[alike])
    if not pairs:
        return pd.DataFrame(columns=["image", "other", "kind", "bits", "likeness"])
    joined = pd.concat(pairs, ignore_index=True).sort_values(["image", "likeness"], ascending=[True, False])
    return joined.drop_duplicates("image")


def _spread(
    own: HashGroups, groups: np.ndarray, other: np.ndarray, bits: np.ndarray, image_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pairs of a hash group and an image as pairs of images, some at a time."""
    ends, begin, step = np.cumsum(np.diff(own.starts)[groups]), 0, max(1, BLOCK_BYTES // image_bytes)
    while begin < len(groups):
        before = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        position, image = own.members(groups[begin:stop])
        for i in range(0, len(image), step):
            here = position[i : i + step]
            yield image[i : i + step], other[begin:stop][here], bits[begin:stop][here]
        begin = stop


def _likeness(images: Images, positions: np.ndarray, others: Images, partners: np.ndarray) -> np.ndarray:
    """Correlation of the thumbnails of each pair, float [pairs]."""
    first, second = (
        thumbs[back]
        for part, own in ((images, positions), (others, partners))
        for rows, back in (np.unique(part.rows[own], return_inverse=True),)
        for thumbs in (phash.thumbnails(part.store.take(rows)),)
    )
    return np.einsum("ij,ij->i", first, second)
