"""How much wider a baseline's ID range must be for a line, and which fine-tuning-set sizes make it so wide.

Owns `Signal`, the spread of a baseline's ID scores beside the noise around its line, and `smaller_sizes`. Pure: numbers
in, numbers out. A pilot has no line yet: `ray_robust.prepare.baseline_spread` goes by its ID scores alone.

The R^2 of a line is the reliability of the ID scores times the share of OOD that they explain. With the true slope b,
the true variance V of ID, its sampling variance E and the noise s^2 of OOD at a true ID score, a range k times as wide
has V k^2 in place of V:

    R^2(k) = V k^2 / (V k^2 + E)  *  b^2 V k^2 / (b^2 V k^2 + s^2)

which at k = 1 is the R^2 of the line seen; b and s^2 follow from the fitted slope and residuals by the attenuation of a
slope under errors in ID (Fuller 1987, Measurement Error Models, section 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

import numpy as np
from scipy.special import ndtr, ndtri

from analysis.scales import Scale
from analysis.stats.trend import fit
from ray_robust.run.analysis_settings import smallest_set

USUAL_SLOPE = 0.7  # of lines on probit axes, most of which lie between 0.5 and 1 (Miller et al. 2021, table 1)
MOST_TIMES = 16.0  # as wide: more than any range has room for
DROP = 0.2  # probit by which an ID score is taken to fall with each halving of the training images: see docs/report.md
STEP = 4  # each size of a ladder is so many times smaller than the one before
MOST_SIZES, FEWEST_SIZES = 4, 2
FLOOR, TOP = 0.05, 0.97  # scores beyond which a range is not widened: those of models that learned nothing, or all


@dataclass(frozen=True)
class Signal:
    """How a baseline's points spread along the axis, and around their line.

    slope      of the line seen
    spread     variance of the ID scores seen, on the axis; `error` of it is sampling error of the test images
    residual   variance around the line
    low, high  the lowest and highest ID score, fractions
    scale      the axis
    middle     mean ID and OOD score, on the axis
    """

    slope: float
    spread: float
    error: float
    residual: float
    low: float
    high: float
    scale: Scale
    middle: tuple[float, float]

    @property
    def r2(self) -> float:
        """R^2 of the line seen."""
        return self.expected_r2(1.0)

    @property
    def true_spread(self) -> float:
        """Variance of the ID scores without their sampling error; at least a tenth of what is seen."""
        return max(self.spread - self.error, 0.1 * self.spread)

    def with_slope(self, slope: float) -> Signal:
        """Return the same noise around a line of another slope."""
        return replace(self, slope=slope)

    def expected_r2(self, times: float) -> float:
        """Return the R^2 to expect of a range so many times as wide with the same top, at the present noise (see the
        module), which changes along the axis as that of a share does."""
        true, error = self.true_spread, self.spread - self.true_spread
        steep = self.slope * self.spread / true
        noise = max(self.residual - steep**2 * error * true / self.spread, 0.1 * self.residual)
        noise *= self._growth(times)
        wide = true * times**2
        explained = steep**2 * wide
        return float(wide / (wide + error) * explained / (explained + noise)) if explained > 0 else 0.0

    def _growth(self, times: float) -> float:
        """How much larger than now the variance p (1 - p) of OOD scores is, on the axis, over a range that wide."""
        ends = self.scale.of(np.array([self.low, self.high]))
        present, wide = (ends[1] - np.linspace(0, share, 33) * np.ptp(ends) for share in (1.0, times))
        return float(self._noise_at(wide).mean() / self._noise_at(present).mean())

    def _noise_at(self, x: np.ndarray) -> np.ndarray:
        height = self.middle[1] + self.slope * (x - self.middle[0])
        score = np.clip(self.scale.inverse(height), FLOOR / 2, 1 - FLOOR / 2)
        return score * (1 - score) / self.scale.rate(self.scale.h(score)) ** 2

    def times_for(self, r2: float) -> float:
        """Return how many times as wide the range must be for that R^2; `MOST_TIMES` where less is not enough."""
        times = np.geomspace(1, MOST_TIMES, 200)
        enough = np.array([self.expected_r2(one) for one in times]) >= r2
        return float(times[enough.argmax()]) if enough.any() else MOST_TIMES

    def room(self, highest: float, chance: float = 0.0) -> float:
        """Return how many times as wide the range can become: from a little above `chance` to the highest ID score of
        any group."""
        low, high = self.scale.of(np.array([max(FLOOR, 1.5 * chance), min(max(self.high, highest), TOP)]))
        here = self.scale.of(np.array([self.low, self.high]))
        return float(max((max(high, here[1]) - min(low, here[0])) / max(np.ptp(here), 1e-6), 1.0))

    def low_at(self, times: float) -> float:
        """Return the lowest ID score of a range so many times as wide with the same top."""
        here = self.scale.of(np.array([self.low, self.high]))
        return float(self.scale.inverse(here[1] - times * np.ptp(here)))


def signal(id_: np.ndarray, ood: np.ndarray, scale: Scale, error: float = 0.0) -> Signal | None:
    """Return the signal of a baseline's points; None where they make no line.

    id_, ood  scores, fractions, float [points]
    error     sampling variance of the ID scores on the axis
    """
    x, y = scale.of(np.asarray(id_, float)), scale.of(np.asarray(ood, float))
    line = fit(x, y)
    if line is None:
        return None
    residual = line.variance * (len(x) - 2) / (len(x) - 1)  # over as many as the spread: R^2 is then that of the line
    return Signal(line.slope, float(np.var(x, ddof=1)), float(error), residual, float(np.min(id_)),
                  float(np.max(id_)), scale, (float(x.mean()), float(y.mean())))  # fmt: skip


def target_r2(min_r2: float) -> float:
    """Return the R^2 to plan for: half-way from the floor to 1, since the next points scatter too."""
    return (1 + min_r2) / 2


def smaller_sizes(
    images: int, times: float, signal: Signal, classes: int = 0, smallest: int | None = None
) -> list[int]:
    """Return fine-tuning-set sizes, ascending and without `images` itself, which widen a baseline's ID range downward.

    images    of the whole training set
    times     how many times as wide the range shall be
    smallest  the smallest set that is fine-tuned on already; the new ones lie below it
    Empty where the training set is too small to be divided.
    """
    low = signal.low_at(times)
    fall = float(ndtri(np.clip(signal.low, 0.01, 0.99)) - ndtri(np.clip(low, 0.01, 0.99)))
    count = int(np.clip(ceil(fall / (DROP * log2(STEP))), FEWEST_SIZES, MOST_SIZES))
    least, here, sizes = smallest_set(classes), float(smallest or images), list[int]()
    while len(sizes) < count and here / STEP >= least:
        here /= STEP
        sizes.append(rounded(here))
    if not sizes and here / 2 >= least:
        sizes = [rounded(here / 2)]
    return sorted(sizes)


def rounded(images: float) -> int:
    """Return a number of images to two significant digits."""
    digits = max(len(str(int(images))) - 2, 0)
    return int(round(images / 10**digits) * 10**digits)


def lower_score(score: float, sizes: Sequence[int], images: int) -> float:
    """Return the ID score to expect of the smallest of these sets where one of `images` reaches `score`."""
    halvings = log2(images / min(sizes)) if sizes else 0.0
    return float(ndtr(ndtri(np.clip(score, 0.01, 0.99)) - DROP * halvings))
