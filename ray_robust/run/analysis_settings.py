"""What a study decides before any score is seen, with its defaults: baseline, scale, margin, floor of R^2, look.

The spec declares these keys (`spec.sections`), the plan names the baseline, and the status command and the analysis
read them back from a run folder's spec.yaml with `settings_of`: all of them take the defaults from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ScaleName = Literal["probit", "logit", "linear"]
LookName = Literal["mean", "last", "id_val"]
MEAN, LAST, ID_VAL = "mean", "last", "id_val"
# an evaluation along fine-tuning is a look: what each choice among a fine-tuning's looks is called
LOOKS = {MEAN: "the mean of all looks", LAST: "the last look", ID_VAL: "the look chosen by id_val"}
BASELINE = "scratch"  # the group that is fine-tuned without any pre-training
LEAST_IMAGES, LEAST_PER_CLASS = 16, 2  # of a fine-tuning set from which anything is learned


def smallest_set(classes: int) -> int:
    """Return the fewest images that a baseline is fine-tuned on to spread its ID scores, by its pilot or as advised."""
    return max(LEAST_IMAGES, LEAST_PER_CLASS * classes)


@dataclass(frozen=True)
class AnalysisSettings:
    """The decisions of one study.

    baseline  the group that the reference line is fitted on
    scale     the axis that lines are fitted on (`analysis.scales`)
    margin    percentage points of ER that count as no effect
    min_r2    the R^2 of the baseline's line under which no ER is given
    look      which evaluations of a fine-tuning ER is of: a key of `LOOKS`
    """

    baseline: str = BASELINE
    scale: ScaleName = "probit"
    margin: float = 2.0
    min_r2: float = 0.8
    look: LookName = "mean"


DEFAULTS = AnalysisSettings()


def settings_of(spec: Mapping[str, Any]) -> AnalysisSettings:
    """Return the settings of a run's spec.yaml as a mapping; a key that is missing or null has its default.

    `baseline` is a name or, in later versions, a section with a `name`. Values are taken as they are: the spec was
    validated when the run began, and the analysis checks its options anyway (`analysis.options.check_options`).
    """
    baseline = spec.get("baseline", DEFAULTS.baseline)
    section = spec.get("analysis") or {}
    chosen = {key: section[key] for key in ("scale", "margin", "min_r2", "look") if section.get(key) is not None}
    name = baseline.get("name", DEFAULTS.baseline) if isinstance(baseline, dict) else baseline
    return AnalysisSettings(str(name), **chosen)
