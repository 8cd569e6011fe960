"""What an analysis decides before it looks at any score. The defaults are those of `run.analysis_settings`."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.scales import PP, SCALES
from ray_robust.errors import Problem, did_you_mean
from ray_robust.run.analysis_settings import DEFAULTS, LOOKS


@dataclass(frozen=True)
class FirstStage:
    """Which trials were trained before any variance was looked at (see `stats.stages`): those of seeds up to `seeds`,
    of the baseline up to `baseline_seeds`. `bonferroni` as in `stats.estimates.Estimate`."""

    baseline: str
    seeds: int
    baseline_seeds: int
    bonferroni: float = 1.0


@dataclass(frozen=True)
class Options:
    """What is decided before looking: the baseline group, the scale of the trend, the margin of "no effect" in
    percentage points, the floor of R^2 under which no ER is given, which looks along fine-tuning ER is of, the lowest
    ID score that enters (or None), and what one cluster is called. With several ID sets (of a plain table) `id_names`
    are the user's names of their columns. `first_stage`: which trials were trained before the numbers of the others
    were chosen (see `stats.stages`)."""

    baseline: str
    scale: str = DEFAULTS.scale
    margin: float = DEFAULTS.margin
    min_r2: float = DEFAULTS.min_r2
    look: str = DEFAULTS.look
    id_min: float | None = None
    unit: str = "trial"
    id_names: tuple[str, ...] = ()
    first_stage: FirstStage | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The columns of the ID scores: `id`, of several sets `id_1`, `id_2`, ..."""
        return ("id",) if len(self.id_names) < 2 else tuple(f"id_{i + 1}" for i in range(len(self.id_names)))

    @property
    def axes(self) -> tuple[str, ...]:
        """The columns of the transformed ID scores."""
        return ("x",) if len(self.ids) == 1 else tuple(f"x_{name}" for name in self.ids)


def check_options(options: Options, where: str = "") -> list[Problem]:
    """Return the errors in the options themselves, located at `where`."""
    problems = []
    if options.scale not in SCALES:
        problems.append(Problem(where, f"--scale: {options.scale!r} is no scale{did_you_mean(options.scale, SCALES)}"))
    if options.look not in LOOKS:
        problems.append(Problem(where, f"--look: {options.look!r} is no look{did_you_mean(options.look, LOOKS)}"))
    if not 0 < options.margin < PP:
        what = (
            "no margin: scores differ by 100 points at most"
            if options.margin >= PP
            else "not a positive number of percentage points"
        )
        problems.append(Problem(where, f"--margin: {options.margin:g} is {what}"))
    if options.id_min is not None and not 0 <= options.id_min < 1:
        problems.append(Problem(where, "--id-min: the floor does not lie within the scores' range"))
    return problems
