"""How much ER varies, cause by cause: what a power calculation assumes, from an earlier run or from published figures.

Owns `Cause`, `Spread` and `published`; `variances` estimates a spread from a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import hypot

import numpy as np

from analysis.predict.design import Design
from analysis.stats.estimates import Part


@dataclass(frozen=True)
class Cause:
    """One cause of error of groups' mean ER, in squared percentage points, as if it rested on a single unit.

    alone    the variance of one group's mean; `shared` the covariance of two groups' means
    spent    degrees of freedom that its estimate costs
    even     degrees of freedom that a further unit brings: under 1 where units weigh unevenly
    """

    alone: float
    shared: float = 0.0
    spent: float = 1.0
    even: float = 1.0

    def part(self, weights: np.ndarray, units: int, name: str) -> Part:
        """Return the part of a weighted sum of groups' means (weights [1, 2 or groups]), which are taken as alike."""
        variance = (weights @ weights) * (self.alone - self.shared) + weights.sum() ** 2 * self.shared
        df = self.even * units - self.spent
        return Part(variance / units if df >= 0.5 else np.nan, df if df >= 0.5 else np.nan, name, units)


@dataclass(frozen=True)
class Spread:
    """How much ER varies, in percentage points.

    trials, finetunings   standard deviations: of a trial's mean beyond its fine-tunings, and of one of these in a trial
    line                  what one baseline trial does, through the line, to groups' means, from so many fine-tunings
                          (`line_finetunings`); `line_trials` and `line_noise` are the baseline's own deviations
    test_groups           what one test group does, by the name of the source of error; empty where it is not known
    df                    degrees of freedom behind `trials`; 0 for published figures
    by                    where the figures come from, for people
    """

    trials: float
    finetunings: float
    line: Cause
    line_trials: float
    line_noise: float
    line_finetunings: int
    test_groups: Mapping[str, Cause]
    df: int
    by: str

    def of_trial(self, finetunings: int) -> float:
        """Return the variance of the mean ER of a trial with so many fine-tunings."""
        return self.trials**2 + self.finetunings**2 / max(finetunings, 1)

    def of_line(self, finetunings: int) -> Cause:
        """Return the line's cause for baseline trials with so many fine-tunings."""
        now, then = (self.line_trials**2 + self.line_noise**2 / max(n, 1) for n in (finetunings, self.line_finetunings))
        return replace(self.line, alone=self.line.alone * now / then, shared=self.line.shared * now / then)


# WILDS' iWildCam, ERM ResNet-50 (Koh et al. 2021): macro-F1 47.0 in distribution and 31.0 under shift, with standard
# deviations over seeds of 1.4 and 1.3. Along a line through the origin the expectation moves by 31/47 of an ID score,
# so that a model's ER has a standard deviation of 1.6 points, ID and OOD errors taken as independent.
PUBLISHED_SD = hypot(1.3, 31.0 / 47.0 * 1.4)


def published(design: Design) -> Spread:
    """Return the spread to assume without an earlier run: the published one between seeds, all of it between trials,
    baseline's too.

    Baseline trials of several fine-tunings each span the line by themselves, so that a trial moves it as a whole: what
    it does to one group it does to all. Where a trial is a single point, groups' mean ID is taken to lie one standard
    deviation of the baseline's ID scores away from their mean, in any direction: the line's variance is 2 sigma^2 / n
    there, half of which two groups share, and it spends two degrees of freedom. Of test groups nothing is known.
    """
    variance = PUBLISHED_SD**2
    spans = design.baseline_finetunings > 1
    line = Cause(variance, variance) if spans else Cause(2 * variance, variance, spent=2.0)
    by = f"published figures: the ER of a model varies by {PUBLISHED_SD:.1f} points between seeds (iWildCam, ResNet-50)"
    return Spread(PUBLISHED_SD, 0.0, line, PUBLISHED_SD, 0.0, 1, {}, 0, by)
