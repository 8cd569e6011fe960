"""What to do where the baseline at its best setting was fine-tuned longer, or on more images, than any group: the same
for the groups. Without it nobody knows whether the pre-training or the fine-tuning made the difference.
"""

from __future__ import annotations

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.formatting import name, percent
from analysis.scales import PP
from analysis.stats.chosen_points import ID_VAL
from analysis.study import Analysis


def equal_cost(analysis: Analysis, run: RunDesign | None) -> list[Advice]:
    """Return the advice to fine-tune the groups as the tuned baseline was; none where that was no longer and not on
    more images. What to paste is given for the length alone."""
    scores, baseline = analysis.scores, analysis.options.baseline
    tuned, best = scores.tuned, scores.leading(analysis.options.baseline)
    if tuned is None or not tuned.excess(1) or not best:
        return []
    by = "id_val" if scores.choice.by == ID_VAL else "the ID score"
    ood, of_best = (percent(scores.mean(group)["mean"] / PP) for group in (scores.tuned_name, best))
    ways = [f"{words} as any group" for words in tuned.excess(1)]
    evidence = (
        f"{name(baseline)} with {tuned.setting}, its best setting by {by}, was fine-tuned {' and '.join(ways)}: "
        f"OOD {ood}, {name(best)} {of_best}."
    )
    if tuned.more > 1:
        action = (
            f"Fine-tune the groups with {tuned.setting} too (finetune.num_images, epochs): only that shows whether "
            "pre-training still helps with so many labels."
        )
        return [Advice("unequal_cost", evidence, action)]
    action = f"Fine-tune the groups for {tuned.epochs} epochs too: they are then compared at equal cost."
    text, cost = run.groups_for(tuned.epochs) if run is not None else (None, None)
    if text is None:
        return [Advice("unequal_cost", evidence, action)]
    return [Advice("unequal_cost", evidence, action, text, cost)]
