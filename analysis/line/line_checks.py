"""The results of the checks of a line: their tables, and a verdict for each.

Owns the columns of these tables, the questions, and the states of a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.stats.estimates import Estimate

TESTS = ("check", "test", "value", "low", "high", "unit", "f", "df1", "df2", "p", "p_adjusted", "fails")
SCHEDULE = ("what", "value", "points", "trials", "residual", "low", "high")
OTHERS = ("group", "epochs", "rates", "other_epochs", "other_rates")
NOISE = ("id_low", "id_high", "points", "sd", "sd_axis", "within")
RESIDUALS = ("trial", "id", "ood", "residual", "epoch", "finetune_lr")
STEPS = {"epoch": "epoch", "finetune_lr": "learning rate"}
PASSES, FAILS, OPEN = "passes", "fails", "open"
QUESTIONS = {
    "slope": "Does it rise?",
    "curvature": "Is it straight?",
    "reliability": "Is ID measured well?",
    "schedule": "Do epochs and learning rate leave it alone?",
    "scatter": "Is the scatter even?",
    "gaps": "Are there points all along?",
}


@dataclass(frozen=True)
class Verdict:
    """Of one check (a key of `QUESTIONS`) its state (`PASSES`, `FAILS`, or `OPEN`: cannot be tested, or does not tell
    enough) and a sentence without a full stop."""

    check: str
    state: str
    text: str


@dataclass(frozen=True, eq=False)
class LineChecks:
    """Every table is small; scores are fractions, residuals and distances percentage points of the OOD score.

    tests        columns `TESTS`: a row per test; p is adjusted by Holm within its `check`, `fails` at 5 %
    curve        columns `curvature.CURVE`, the expected OOD score along the ID range under line, parabola and spline
    bend         the parabola less the line where they are farthest apart, with its interval, and at which ID score
    schedule     columns `SCHEDULE`: mean residual by epoch and by learning rate, intervals clustered by trial
    others       columns `OTHERS`: fine-tuning of every group, and whether it is other than the baseline's
    gaps         columns `gaps.COLUMNS`
    reliability  columns `reliability.COLUMNS`
    noise        columns `NOISE`: the standard deviation of residuals by ID score, in points, on the axis, and on the
                 axis within trials (see `_within`)
    residuals    columns `RESIDUALS`, the baseline's points
    verdicts     of every check whether it passes, fails or stays open, with a sentence
    """

    tests: pd.DataFrame
    curve: pd.DataFrame
    bend: tuple[Estimate, float] | None
    schedule: pd.DataFrame
    others: pd.DataFrame
    gaps: pd.DataFrame
    reliability: pd.DataFrame
    noise: pd.DataFrame
    residuals: pd.DataFrame
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """A sentence per check that fails."""
        return self.failed()

    def failed(self, *without: str) -> list[str]:
        """Return the same `without` these checks."""
        return [one.text for one in self.verdicts if one.state == FAILS and one.check not in without]
