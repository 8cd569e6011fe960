"""The task's groups (cameras, hospitals, regions) as a source of error: scores made again from resampled counts.

Owns `Counts`, what every point predicted right and wrong per group and class, and `resample`, every point's ID and OOD
score under draws of groups that are the same for all points, so that differences between models stay paired. What ER
makes of them is in `robustness`; how a run's files become counts is in `counts`.

Groups are drawn with replacement, as many as there are (Efron 1979; for WILDS' macro-F1 a class that no drawn group
holds is absent, as it is from another set of cameras), and the variance is corrected for their number (`source`).
`python -m bench.resampling` compares with the Bayesian bootstrap and the jackknife. ID groups and OOD groups are
different ones and are drawn apart; groups that both tests have are drawn once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import Source

LEAST_GROUPS = 8  # with fewer the draws say too little about other groups; `bench.coverage` shows where it begins
LEAST_EVEN = 2.0  # groups of even size that uneven ones must be worth
SIDES = ("id", "ood")
MOST_CELLS = 100_000_000  # replicated scores that are held at once, 8 bytes each: more points get fewer replicates
LEAST_REPLICATES = 200


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

    def of(self, point: int) -> tuple[np.ndarray, np.ndarray]:
        """A point's hits and guesses, float [groups, classes] each."""
        own = slice(self.starts[point], self.starts[point + 1])
        dense = np.zeros((2, self.truth.size))
        dense[0, self.cells[own]], dense[1, self.cells[own]] = self.hits[own], self.guessed[own]
        return dense[0].reshape(self.truth.shape), dense[1].reshape(self.truth.shape)


def _accuracy(draws: np.ndarray, counts: Counts) -> Callable[[int], np.ndarray]:
    images = draws @ counts.images
    return lambda point: draws @ counts.of(point)[0].sum(1) / images


def _macro_f1(draws: np.ndarray, counts: Counts) -> Callable[[int], np.ndarray]:
    truth = draws @ counts.truth
    there = (truth > 0).sum(1)
    size = truth.shape[1]

    def score(point: int) -> np.ndarray:
        sums = draws @ np.concatenate(counts.of(point), axis=1)
        # an absent class has no hits: it adds nothing, whatever it is divided by
        return 2 * (sums[:, :size] / np.maximum(truth + sums[:, size:], 1e-300)).sum(1) / there

    return score


def _class_accuracy(draws: np.ndarray, counts: Counts) -> Callable[[int], np.ndarray]:
    truth = draws @ counts.truth
    there, truth = (truth > 0).sum(1), np.maximum(truth, 1e-300)
    return lambda point: ((draws @ counts.of(point)[0]) / truth).sum(1) / there


def _worst_group(draws: np.ndarray, counts: Counts) -> Callable[[int], np.ndarray]:
    drawn = (draws > 0) & (counts.images > 0)

    def score(point: int) -> np.ndarray:
        by_group = counts.of(point)[0].sum(1) / np.maximum(counts.images, 1)
        return np.where(drawn, by_group, np.inf).min(1)

    return score


METRICS: Mapping[str, Callable[[np.ndarray, Counts], Callable[[int], np.ndarray]]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "class_accuracy": _class_accuracy,
    "worst_group": _worst_group,
}


# the least of the drawn groups is never under the least of all: resampling is inconsistent (Bickel and Freedman 1981)
EXTREMES = ("worst_group",)


def scores(metric: str, draws: np.ndarray, counts: Counts) -> np.ndarray:
    """Every point's score when its groups count as often as `draws` says: float [points, replicates].

    draws   float [replicates, groups], how often each group is drawn; ones give the score itself
    macro-F1 and class accuracy are means over the classes that the drawn groups hold (the rule of WILDS, Koh et al.
    2021); the F1 of a class is 2 tp / (true + predicted). Points are taken one at a time: one matrix product of draws
    with counts, so memory stays that of one point's.
    """
    score = METRICS[metric](np.asarray(draws, float), counts)
    found = np.empty((len(counts), len(draws)))
    for point in range(len(counts)):
        found[point] = score(point)
    return found


@dataclass(frozen=True, eq=False)
class Resampled:
    """Scores under draws of one set of groups, float [points, replicates]; a side that the draw leaves alone is None.

    Rows are aligned with the points that the counts were made for.
    """

    source: Source
    id: np.ndarray | None
    ood: np.ndarray | None


def draw(groups: Sequence[str], name: str, replicates: int, seed: int = 0) -> np.ndarray:
    """How often each group is drawn, int64 [replicates, groups]; rows sum to the number of groups."""
    random = np.random.default_rng([seed, *f"groups/{name}".encode()])
    return random.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=replicates)


def source(name: str, images: Sequence[np.ndarray]) -> Source:
    """What draws of these groups are worth; `images` int [groups], their sizes in each split that they are drawn for.

    A score is a mean over images or classes, in which large groups weigh more. So they are worth as many equal groups
    as weigh as evenly, g = (sum n)^2 / sum n^2 (Kish 1965): g/(g - 1) is the factor that makes the variance of such a
    mean unbiased, g - 1 are its degrees of freedom. NaN where nearly all images are of one group.
    """
    sizes = np.sum([n / n.sum() for n in images], axis=0)
    even = float(sizes.sum() ** 2 / (sizes**2).sum())
    known = even >= LEAST_EVEN
    return Source(name, len(sizes), even / (even - 1) if known else np.nan, even - 1 if known else np.nan)


def resample(
    counts: Mapping[str, Counts], metric: str, name: str, replicates: int, seed: int = 0
) -> tuple[list[Resampled], list[str]]:
    """Every point's scores under draws of groups, a `Resampled` per independent set of groups, and what could not be
    resampled, as sentences. `counts` has the splits "id" and "ood" with the same points."""
    points = len(counts["id"])
    replicates = int(np.clip(MOST_CELLS // max(1, 2 * points), min(LEAST_REPLICATES, replicates), replicates))
    drawn = {side: set(counts[side].groups) for side in SIDES}
    found, said = [], []
    if drawn["id"] & drawn["ood"]:
        names = sorted(drawn["id"] | drawn["ood"])
        if len(names) < LEAST_GROUPS:
            return [], [_too_few("both tests", len(names))]
        times = draw(names, name, replicates, seed)
        place = {group: i for i, group in enumerate(names)}
        columns = {side: times[:, [place[g] for g in counts[side].groups]] for side in SIDES}
        sizes = [np.bincount([place[g] for g in counts[s].groups], counts[s].images, len(names)) for s in SIDES]
        whole = np.all([columns[s] @ counts[s].images > 0 for s in SIDES], axis=0)  # a draw may miss a side's groups
        both = (scores(metric, columns[side][whole], counts[side]) for side in SIDES)
        return [Resampled(source("groups", sizes), *both)], []
    for side in SIDES:
        own = counts[side]
        if len(own.groups) < LEAST_GROUPS:
            said.append(_too_few(f"{side}_test", len(own.groups)))
            continue
        made = scores(metric, draw(own.groups, f"{name}/{side}", replicates, seed), own)
        where = source(f"{side.upper()} groups", [own.images])
        found.append(Resampled(where, made if side == "id" else None, made if side == "ood" else None))
    return found, said


def _too_few(where: str, count: int) -> str:
    return (
        f"{where} has {count} group{'s' * (count != 1)}, too few to say anything about others (at least {LEAST_GROUPS} "
        "are needed): intervals speak of these groups only"
    )
