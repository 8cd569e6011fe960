"""Images of the OOD test on which better ID means worse OOD, hidden by a mean over all: `find_reversed`.

Salaudeen et al., "Aggregation Hides OOD Generalization Failures from Spurious Correlations" (2025, arXiv 2510.24884),
search for such subsets (OODSelect). Owns the search and its test. Of thousands of images some have such models right by
chance, so what is chosen by some trainings is tested on others, and how many are chosen on other images than it is
tested on; the division is drawn anew many times.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtr

from analysis.scales import Scale
from analysis.stats import cluster_robust
from analysis.stats.estimates import Estimate, combine, quantile

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of the images, that are tried
SPLITS = 25  # divisions of trainings and images
LEAST_IMAGES = 20  # of a subset in either half of the images
LEAST_TRIALS = 4  # in either half of the trainings
LEVEL = 1 - 0.05 / 4  # of each end of a division's interval: medians of such intervals hold with 95 % (see below)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What models got right, bool [points, images], with their transformed ID scores `x` [points]; int [points] the
    group and the trial of each point, and what is divided, `unit`: the trial, or the seed where all groups share
    them; `place` int [images], the test group of each image, or its own number."""

    right: np.ndarray
    x: np.ndarray
    group: np.ndarray
    trial: np.ndarray
    unit: np.ndarray
    place: np.ndarray

    @property
    def strata(self) -> np.ndarray:
        """Within what the units are halved, int [points]: seeds as a whole, trials by group."""
        return self.group if (self.unit == self.trial).all() else np.zeros_like(self.group)


@dataclass(frozen=True, eq=False)
class Reversed:
    """A subset of the images, those that were chosen most often, and what models that did not choose them show there.

    images   bool [images]; `often` [images], in which share of the divisions each was chosen
    slope    of transformed accuracy on the subset over the transformed ID score, within groups, with its interval:
             medians over the divisions. `p` is twice the median p of "it does not fall"
    worse, better  share of the answers that are right there, of models whose ID score lies below and above the mean of
             their group, medians over the divisions
    whole    the same slope on all images, of all models
    refused  why nothing was looked for, or ""
    """

    images: np.ndarray
    often: np.ndarray
    slope: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    worse: float = np.nan
    better: float = np.nan
    whole: Estimate = field(default_factory=lambda: Estimate(np.nan, np.nan, np.nan))
    refused: str = ""

    @property
    def count(self) -> int:
        """How many images it has."""
        return int(self.images.sum())

    @property
    def found(self) -> bool:
        """Whether better ID scores mean worse ones on it: the interval of the slope is below 0."""
        return bool(self.high < 0)


def find_reversed(predicted: Predicted, scale: Scale, seed: int = 0) -> Reversed:
    """Return the images that models of better ID scores are right on less often, if there are any.

    In each division the trainings and the places (images, or test groups) are halved. Images are ranked by the slope of
    being right over the ID score, of the first half of the trainings. How many are taken is decided on the first half
    of the images: ranked by one part of these trainings, tested by the rest, step by step (`_Search.share`). The
    second half of the trainings then tests the second half of the images. Divisions depend on each other, so that a
    mean over them has no known error; but twice the median of their p-values is one whatever the dependence
    (Meinshausen, Meier and Buehlmann 2009), and so are the medians of the ends of intervals of half the level.
    """
    count = predicted.right.shape[1]
    chosen = np.zeros(count)
    if why := _too_little(predicted):
        return Reversed(chosen > 0, chosen, refused=why)
    random = np.random.default_rng(seed)
    search = _Search(predicted, predicted.right.astype(np.float32), scale)
    every = np.ones(len(predicted.x), bool)
    rows, levels, sizes = [], [], []
    for _ in range(SPLITS):
        first = _half(predicted.unit, every, predicted.strata, random)
        ranking = _half(predicted.unit, first, predicted.strata, random)
        shown = _half(predicted.place, np.ones(count, bool), np.zeros(count, int), random)
        share = search.share(ranking, first & ~ranking, shown)
        slopes = search.slopes(first)
        subset = _lowest(slopes, ~shown, share)
        test = search.test(~first, subset)
        levels.append(search.levels(~first, subset))
        reach = quantile(LEVEL, test.df) * test.se
        rows.append((test.value, test.value - reach, test.value + reach, _falls(test)))
        taken = np.concatenate([_lowest(slopes, part, share) for part in (shown, ~shown)])
        chosen[taken] += 1 / SPLITS
        sizes.append(len(taken))
    unknown = np.array([0.0, -np.inf, np.inf, 1.0])
    slope, low, high, p = np.median(np.where(np.isfinite(rows), rows, unknown), axis=0)
    images = np.zeros(count, bool)
    images[np.lexsort((search.slopes(every), -chosen))[: int(np.median(sizes))]] = True
    whole = search.test(every, np.arange(count))
    worse, better = map(float, np.median(levels, axis=0))
    ends = float(slope), float(low), float(high)
    return Reversed(images, chosen, *ends, min(1.0, 2 * float(p)), worse, better, whole)


@dataclass(frozen=True, eq=False)
class _Search:
    """The steps of a division; `right` is that of `predicted`, float32, for sums."""

    predicted: Predicted
    right: np.ndarray
    scale: Scale

    def slopes(self, points: np.ndarray) -> np.ndarray:
        """Return of every image the slope of being right over the ID score within groups, of these points (bool)."""
        x = _within(self.predicted.x[points], self.predicted.group[points])
        spread = float(x @ x)
        return (x / (spread or 1.0)).astype(np.float32) @ self.right[points]

    def share(self, ranking: np.ndarray, trying: np.ndarray, images: np.ndarray) -> float:
        """Return the share of images, of those that the points `ranking` rank lowest, on which the points `trying` show
        a falling slope. It grows as long as what a step adds falls by itself: on all of it the slope would fall, too,
        with many images that no model gets right added to a few on which it falls. Where nothing falls, the share whose
        slope falls most for its error."""
        slopes, best, sharpest = self.slopes(ranking), 0.0, (np.inf, SHARES[0])
        begin, grows = 0, True
        for share in SHARES:
            lowest = _lowest(slopes, images, share)
            if grows and len(lowest) - begin >= LEAST_IMAGES:
                step = self.test(trying, lowest[begin:])
                if step.se > 0 and step.high < 0:
                    best, begin = share, len(lowest)
                grows = not best or best == share
            test = self.test(trying, lowest)
            if np.isfinite(test.df) and test.se > 0:
                sharpest = min(sharpest, (test.value / test.se, share))
        return best or sharpest[1]

    def levels(self, points: np.ndarray, images: np.ndarray) -> tuple[float, float]:
        """Return which share of these points' answers on some images (int) is right, where their ID score lies below
        the mean of their group, and above."""
        right = self.right[np.ix_(points, images)].mean(1, dtype=float)
        above = _within(self.predicted.x[points], self.predicted.group[points]) > 0
        worse, better = (float(right[half].mean()) if half.any() else np.nan for half in (~above, above))
        return worse, better

    def test(self, points: np.ndarray, images: np.ndarray) -> Estimate:
        """Return the slope of these points' transformed accuracy on some images (int) over their ID score, within
        groups, with its error over trials."""
        own = self.predicted
        score = self.scale.of(self.right[np.ix_(points, images)].mean(1, dtype=float), len(images))
        x, y = (_within(values, own.group[points]) for values in (own.x[points], score))
        spread = float(x @ x)
        if not spread > 0:
            return Estimate(np.nan, np.nan, np.nan)
        slope = float(x @ y) / spread
        _, trials = np.unique(own.trial[points], return_inverse=True)
        error = cluster_robust.robust(x[:, None], y - slope * x, trials, "trials", "trials")
        return combine(slope, [error.part(np.ones(1))])


def _too_little(predicted: Predicted) -> str:
    """Why nothing is looked for, or ""."""
    trials, images = len(np.unique(predicted.trial)), predicted.right.shape[1]
    units = len(np.unique(predicted.unit))
    if trials < 3 * LEAST_TRIALS or units < 3:
        return f"{trials} trainings are too few to divide: {3 * LEAST_TRIALS} are needed, of three seeds or more"
    if images < 2 * LEAST_IMAGES / SHARES[-1]:
        return f"{images} images are too few: {2 * LEAST_IMAGES / SHARES[-1]:.0f} are needed"
    if len(np.unique(predicted.place)) < 4:
        return "the OOD test has fewer than four groups to divide"
    return ""


def _half(codes: np.ndarray, among: np.ndarray, strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a random half, rounded up, of the different codes of each stratum, of the rows `among`: bool [rows]."""
    half = np.zeros(len(codes), bool)
    for stratum in np.unique(strata[among]):
        own = among & (strata == stratum)
        names = random.permutation(np.unique(codes[own]))
        half |= own & np.isin(codes, names[: -(-len(names) // 2)])
    return half


def _within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return values less the mean of their group."""
    names, codes = np.unique(group, return_inverse=True)
    return values - (np.bincount(codes, values, len(names)) / np.bincount(codes))[codes]


def _lowest(slopes: np.ndarray, images: np.ndarray, share: float) -> np.ndarray:
    """Return those of some images (bool) with the lowest slopes, int; `LEAST_IMAGES` or more."""
    own = np.flatnonzero(images)
    count = max(round(share * len(own)), LEAST_IMAGES)
    return own[np.argsort(slopes[own], kind="stable")[:count]]


def _falls(test: Estimate) -> float:
    """p of "the slope does not fall", one-sided."""
    return float(stdtr(test.df, test.value / test.se)) if test.se > 0 and np.isfinite(test.df) else 1.0
