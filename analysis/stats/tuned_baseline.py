"""The tuned baseline: the setting of the baseline that validation scores choose among those that no other group has.

Raw scores compare groups at equal settings. A baseline made wide for its line was fine-tuned otherwise too, often
longer, and may score higher there than every group: who deploys a model has to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.formatting import format_value
from analysis.stats.chosen_points import ID_VAL, LENGTH, Choice, comparable_points, rows_by, settings_of

IMAGES = "finetune_images"
WORDS = {
    "model": "model {}", IMAGES: "{} fine-tuning images", "finetune_method": "method {}",
    "finetune_lr": "learning rate {}", "finetune_weight_decay": "weight decay {}", LENGTH: "{} epochs",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class TunedBaseline:
    """rows     its points, one per trial as `chosen_points` has them, int
    setting  what it was trained with and no group was: `32 epochs`
    equal    what all that are compared at equal settings have in its place: `8 epochs`; empty where they differ
    longer   so many times as many epochs as these; NaN where that is not the difference
    epochs   how many epochs it was trained for; 0 where that is not the difference
    more     on so many times as many images as these; NaN where that is not the difference
    """

    rows: np.ndarray
    setting: str
    equal: str
    longer: float
    epochs: int = 0
    more: float = float("nan")

    def excess(self, above: float = 0.0) -> list[str]:
        """Return in words how much longer, and on how many more images, it was fine-tuned than the groups, of what is
        more than `above` times theirs."""
        longer = [f"{self.longer:.3g} times as long"] if self.longer > above else []
        return longer + ([f"on {self.more:.3g} times as many images"] if self.more > above else [])


def tuned_baseline(points: pd.DataFrame, baseline: str, choice: Choice) -> TunedBaseline | None:
    """Return the left-out setting of the baseline, of those with most trials, with the highest mean id_val (the ID
    score, if there is none) of its chosen points; None where the setting that groups share is at least as good."""
    comparable, _ = comparable_points(points, baseline)
    if comparable.all():
        return None
    settings = settings_of(points)
    codes = settings.groupby(list(settings), sort=False, dropna=False).ngroup().to_numpy()
    of_baseline = (points["group"] == baseline).to_numpy()
    judged = pd.to_numeric(points["id_val" if choice.by == ID_VAL else "id"], errors="coerce").astype("float64")

    def mean(rows: np.ndarray) -> tuple[int, float]:
        by_trial = judged.iloc[rows].groupby(points["trial"].iloc[rows], sort=False).mean()
        return int(by_trial.notna().sum()), float(by_trial.mean())

    candidates = {
        code: rows_by(points, ~comparable & (codes == code), choice.by) for code in np.unique(codes[~comparable])
    }
    best = max(candidates, key=lambda code: mean(candidates[code]))
    own = choice.rows[of_baseline[choice.rows]]
    if not mean(candidates[best])[1] > mean(own)[1]:
        return None
    value, others = settings.iloc[candidates[best][0]], settings.loc[comparable]
    apart = [name for name in settings if not others[name].isin([value[name]]).any()] or list(settings)
    equal = [_words(name, others[name].iloc[0]) for name in apart if len(others[name].unique()) == 1]
    by_length = LENGTH in apart and np.isfinite(value[LENGTH])
    longer, epochs = float("nan"), 0
    if by_length:
        longer, epochs = float(value[LENGTH] / others[LENGTH].max()), int(value[LENGTH])
    more = float("nan")
    if IMAGES in apart and np.isfinite(value[IMAGES]):
        more = float(value[IMAGES] / others[IMAGES].max())
    setting = ", ".join(_words(name, value[name]) for name in apart)
    same = ", ".join(equal) if len(equal) == len(apart) else ""
    return TunedBaseline(candidates[best], setting, same, longer, epochs, more)


def _words(setting: str, value: object) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    return WORDS[setting].format(format_value(int(plain) if isinstance(plain, float) and plain.is_integer() else plain))
