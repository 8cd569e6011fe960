"""Test groups (cameras, hospitals, regions) as a source of error: the jackknife, on scores recomputed from counts.

Owns `Counts`, what every point predicted right and wrong per group and class, `scores` under any weights of groups, and
`leave_groups_out`: every point's ID and OOD score with each group left out in turn, the same for all points, so that
differences between models stay paired. ER under each replicate is made in `robustness`, counts are read in
`analysis.input.run_counts`.

Leaving one of G groups out (the jackknife: Quenouille 1956, Tukey 1958), the variance of a score over other groups is
(G - 1)/G times the sum of squared deviations. For a mean over images that is what resampling groups gives; for
macro-F1, where a species may stand before one camera only, `python -m bench.resampling` shows that drawing groups with
replacement, or with Dirichlet weights, finds too little variance, and leaving groups out the right one or a little more
(as it should: Efron and Stein 1981). It takes G replicates and no dice. ID and OOD groups are different ones and are
left out apart; groups that both tests have are left out of both at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.stats.quantities import ErrorSource
from ray_robust.metrics import METRICS

LEAST_GROUPS = 8  # with fewer, other groups are not a source of error
LEAST_EVEN = 2.0  # groups of even size that uneven ones must be worth
MOST_LEFT_OUT = 512  # more groups are left out in so many blocks
SIDES = ("id", "ood")


@dataclass(frozen=True, eq=False)
class Counts:
    """What points predicted in one split, per group and class; classes without a true image there are left out.

    groups, classes  their names
    truth    int64 [groups, classes], true images: the same for all points, which saw the same images
    images   int64 [groups]
    starts   int64 [points + 1]: point i has the cells starts[i] to starts[i + 1]
    cells    int64 [cells], group * classes + class
    hits     int64 [cells], true images of that class predicted as it (true positives)
    guessed  int64 [cells], images predicted as that class (true and false positives)
    """

    groups: tuple[str, ...]
    classes: tuple[str, ...]
    truth: np.ndarray
    images: np.ndarray
    starts: np.ndarray
    cells: np.ndarray
    hits: np.ndarray
    guessed: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> Counts:
        """Return the same for some of the points, int [n]."""
        first, many = self.starts[rows], np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(many)])
        own = np.repeat(first - starts[:-1], many) + np.arange(starts[-1])
        return replace(self, starts=starts, cells=self.cells[own], hits=self.hits[own], guessed=self.guessed[own])

    def of_point(self, point: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a point's hits and guesses, float [groups, classes] each."""
        own = slice(self.starts[point], self.starts[point + 1])
        dense = np.zeros((2, self.truth.size))
        dense[0, self.cells[own]], dense[1, self.cells[own]] = self.hits[own], self.guessed[own]
        return dense[0].reshape(self.truth.shape), dense[1].reshape(self.truth.shape)


@dataclass(frozen=True, eq=False)
class Reweighted:
    """The counts of one point when its groups count as often as `weights` says, float [..., groups]: a
    `ray_robust.metrics.Tally` whose sums over groups are made when a metric asks for them.

    own_hits, own_guessed        the point's, float [groups, classes]
    images, truth, group_images  as in `Tally`, the same for all points
    """

    weights: np.ndarray
    own_hits: np.ndarray
    own_guessed: np.ndarray
    images: np.ndarray
    truth: np.ndarray
    group_images: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Images predicted right, float [...]."""
        return self.weights @ self.group_hits

    @property
    def hits(self) -> np.ndarray:
        """True positives by class, float [..., classes]."""
        return self.weights @ self.own_hits

    @property
    def guessed(self) -> np.ndarray:
        """Predictions by class, float [..., classes]."""
        return self.weights @ self.own_guessed

    @property
    def group_hits(self) -> np.ndarray:
        """Images predicted right by group, unweighted: float [groups]."""
        return self.own_hits.sum(1)


def reweighted(counts: Counts, weights: np.ndarray) -> Iterator[Reweighted]:
    """Yield every point's counts under these weights, float [..., groups]; one at a time, for memory's sake."""
    weights = np.asarray(weights, float)
    shared = weights @ counts.images, weights @ counts.truth, np.where(weights > 0, counts.images, 0)
    for point in range(len(counts)):
        yield Reweighted(weights, *counts.of_point(point), *shared)


def scores(metric: str, weights: np.ndarray, counts: Counts) -> np.ndarray:
    """Return every point's score when its groups count as often as `weights` says: float [points, replicates].

    metric    a name in `METRICS`
    weights   float [replicates, groups]: how often each is drawn, 0 where it is left out; ones give the score itself
    """
    score = METRICS[metric].function
    return np.array([score(point) for point in reweighted(counts, weights)]).reshape(len(counts), len(weights))


@dataclass(frozen=True, eq=False)
class JackknifeScores:
    """Scores without each of a set of test groups, float [points, replicates]; None for a side that has none of them.

    Rows are aligned with the points that the counts were made for.
    """

    source: ErrorSource
    id: np.ndarray | None
    ood: np.ndarray | None

    def take(self, rows: np.ndarray) -> JackknifeScores:
        """Return the same for some of the points, int [n]."""
        id_, ood = (None if own is None else own[rows] for own in (self.id, self.ood))
        return JackknifeScores(self.source, id_, ood)


def leave_one_out_weights(groups: Sequence[str]) -> np.ndarray:
    """Return weights with each group left out in turn, float [replicates, groups]; very many are left out in
    `MOST_LEFT_OUT` blocks, every 512th by name at once."""
    block = np.argsort(np.argsort(np.asarray(groups))) % MOST_LEFT_OUT
    return 1.0 - (np.arange(block.max() + 1)[:, None] == block)


def error_source(name: str, images: Sequence[np.ndarray]) -> ErrorSource:
    """Return the factor and degrees of freedom of leaving these groups out; `images` int [groups], their sizes in each
    split that has them.

    A score is a mean over images or classes, in which large groups weigh more: degrees of freedom are those of as many
    equal groups as weigh as evenly, (sum n)^2 / sum n^2 - 1 (Kish 1965). NaN where nearly all images are of one group.
    """
    sizes = np.sum([n / n.sum() for n in images], axis=0)
    even, replicates = float(sizes.sum() ** 2 / (sizes**2).sum()), min(len(sizes), MOST_LEFT_OUT)
    enough = even >= LEAST_EVEN
    return ErrorSource(name, len(sizes), replicates - 1.0 if enough else np.nan, even - 1 if enough else np.nan)


def leave_groups_out(counts: Mapping[str, Counts], metric: str) -> tuple[list[JackknifeScores], list[str]]:
    """Return every point's scores without each test group, a `JackknifeScores` per independent set of groups, and a
    sentence for each set that has too few. `counts` has the splits "id" and "ood" with the same points."""
    if set(counts["id"].groups) & set(counts["ood"].groups):
        return _leave_shared_groups_out(counts, metric)
    replicates, notes = [], []
    for side in SIDES:
        own = counts[side]
        if len(own.groups) < LEAST_GROUPS:
            notes.append(_too_few(f"{side}_test", len(own.groups)))
            continue
        made = scores(metric, leave_one_out_weights(own.groups), own)
        source = error_source(f"{side.upper()} groups", [own.images])
        replicates.append(JackknifeScores(source, made if side == "id" else None, made if side == "ood" else None))
    return replicates, notes


def _leave_shared_groups_out(counts: Mapping[str, Counts], metric: str) -> tuple[list[JackknifeScores], list[str]]:
    """The same for groups that both test splits have: each is left out of both at once."""
    names = sorted({group for own in counts.values() for group in own.groups})
    if len(names) < LEAST_GROUPS:
        return [], [_too_few("the task", len(names))]
    index = {group: i for i, group in enumerate(names)}
    columns = {side: [index[group] for group in counts[side].groups] for side in SIDES}
    weights = leave_one_out_weights(names)
    sizes = [np.bincount(columns[side], counts[side].images, len(names)) for side in SIDES]
    made = (scores(metric, weights[:, columns[side]], counts[side]) for side in SIDES)
    return [JackknifeScores(error_source("groups", sizes), *made)], []


def _too_few(where: str, count: int) -> str:
    return (
        f"{where} has {count} group{'s' * (count != 1)}, too few to say anything about others (at least {LEAST_GROUPS} "
        "are needed): intervals speak of these groups"
    )
