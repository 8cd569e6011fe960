"""What to do about pre-trainings that hardly learned, or were still improving at their end: before all else.

Whatever the scores show, they then do not show what such images teach.
"""

from __future__ import annotations

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.formatting import name, percent, some
from analysis.learned.upstream import described
from analysis.study import Analysis

MOST_NAMED = 3
LONGER = 3  # times as long
FAR = 10.0  # times, by which a learning rate differs from the default to be taken for the reason
USUAL_LR = 3e-3  # the default of pretrain.lr


def unlearned(analysis: Analysis, run: RunDesign | None) -> list[Advice]:
    """Return advice on pre-trainings that hardly learned; else on those that were still improving; else nothing."""
    rows = analysis.learned.upstream.to_dict("records")
    hardly = [row for row in rows if row["hardly_learned"]]
    improving = [row for row in rows if row["still_improving"]]
    if hardly:
        evidence = f"Upstream accuracy is not clearly above chance: {some(list(map(described, hardly)), MOST_NAMED)}."
        return [_advice("hardly_learned", evidence, run, str(hardly[0]["method"]))]
    if improving:
        late = [f"{name(row['group'])} {percent(row['late_share'], 0)}" for row in improving]
        shares = some(late, MOST_NAMED)
        evidence = f"The second half of pre-training still brought a good part of the fall of the loss: {shares}."
        return [_advice("still_improving", evidence, run, str(improving[0]["method"]))]
    return []


def _advice(reason: str, evidence: str, run: RunDesign | None, method: str) -> Advice:
    stays = "The baseline stays; every pre-training and its fine-tunings are run again."
    if run is None or method == "weights":
        return Advice(reason, evidence, "Pre-train at another rate or for longer, before anything else.")
    rate = run.pretraining_rate
    if reason == "hardly_learned" and rate and not 1 / FAR < rate / USUAL_LR < FAR:
        text, cost = run.pretrained(lr=USUAL_LR)
        action = f"First pre-train at a usual learning rate, {USUAL_LR:g} in place of {rate:g}."
    else:
        text, cost = run.pretrained(times=LONGER)
        action = f"First pre-train {LONGER} times as long (pretrain.images_seen or epochs)"
        action += ", and if that does not help, at another rate (pretrain.lr)." if reason == "hardly_learned" else "."
    if not text:
        return Advice(reason, evidence, action)
    return Advice(reason, evidence, f"{action} {stays}", text, cost)
