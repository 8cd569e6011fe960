"""What to do where the baseline at its best setting was fine-tuned longer than any group: the same for the groups.

Without it nobody knows whether the groups' scores or the length of the fine-tuning made the difference.
"""

from __future__ import annotations

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.formatting import name, percent
from analysis.scales import PP
from analysis.stats.chosen_points import ID_VAL
from analysis.study import Analysis


def equal_cost(analysis: Analysis, run: RunDesign | None) -> list[Advice]:
    """Return the advice to fine-tune the groups as long as the tuned baseline was; none where that was no longer."""
    scores, baseline = analysis.scores, analysis.options.baseline
    tuned, best = scores.tuned, scores.leading(analysis.options.baseline)
    if tuned is None or not tuned.longer > 1 or not best:
        return []
    by = "id_val" if scores.choice.by == ID_VAL else "the ID score"
    ood, of_best = (percent(scores.mean(group)["mean"] / PP) for group in (scores.tuned_name, best))
    evidence = (
        f"{name(baseline)} with {tuned.setting}, its best setting by {by}, was fine-tuned {tuned.longer:.3g} times as "
        f"long as any group: OOD {ood}, {name(best)} {of_best}."
    )
    action = f"Fine-tune the groups for {tuned.epochs} epochs too: they are then compared at equal cost."
    text, cost = run.groups_for(tuned.epochs) if run is not None else (None, None)
    if text is None:
        return [Advice("unequal_cost", evidence, action)]
    return [Advice("unequal_cost", evidence, action, text, cost)]
