"""The groups against the tuned baseline, in sentences: does it do better, trained as no group was?

It costs more as a rule, and a gain at equal settings stands; but who deploys a model may as well train the baseline so.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.findings import Finding, make_finding, records, row_index
from analysis.formatting import name, percent, signed, span
from analysis.scales import PP
from analysis.scores.outcome import outcome, picked
from analysis.stats.contrasts import state
from analysis.stats.raw_scores import OOD
from analysis.stats.score_differences import TUNED
from analysis.study import Analysis
from ray_robust.run.analysis_settings import BASELINE as SCRATCH

CHECK = "a tuned baseline"


def equal_settings(analysis: Analysis) -> str:
    """Return at what the groups are compared, as a part of the first sentence; empty without a tuned baseline."""
    tuned = analysis.scores.tuned
    return "" if tuned is None else f", at equal settings ({tuned.equal})" if tuned.equal else ", at equal settings"


def with_tuned(analysis: Analysis, group: str, deployment: Finding) -> Finding:
    """Return the first sentence with the score of the tuned baseline. A gain that does not show against that one is not
    robust to it."""
    scores, baseline = analysis.scores, analysis.options.baseline
    row = scores.difference(group, OOD, TUNED)
    if scores.tuned is None or row is None:
        return deployment
    own, row = scores.mean(scores.tuned_name), picked(row)
    place = _place(analysis, group)
    but = "But " if place.startswith("above") else ""
    who = f"{'from' if but else 'From'} scratch" if baseline == SCRATCH else name(baseline)
    untried = "" if place.startswith("still below") else "; no group was tried with that"
    text = (
        f"{deployment.text} {but}{who} with {scores.tuned.setting}: {percent(own['mean'] / PP)} "
        f"{span(own['low'], own['high'])}, {place}{untried}."
    )
    first = scores.difference(group)
    gain = deployment.kind == "differs" and first is not None and first["delta"] > 0
    if gain and not (state(row) == "differs" and row["delta"] > 0):
        return replace(deployment, text=text, kind="fragile", sign=0, not_robust_to=(*deployment.not_robust_to, CHECK))
    return replace(deployment, text=text)


def _place(analysis: Analysis, group: str) -> str:
    """Where the tuned baseline lies, as far as that is established."""
    table = analysis.scores.differences
    rows = records(table.loc[(table["family"] == TUNED) & (table["score"] == OOD)])
    row = picked(next(row for row in rows if row["a"] == group))
    kind = state(row)
    if kind == "equivalent":
        return f"within {row['margin']:g} points of {name(group)}"
    if kind != "differs":
        return f"not shown to be above or below {name(group)}"
    if row["delta"] > 0:
        return f"still below {name(group)}"
    every = len(rows) > 1 and all(state(one) == "differs" and one["delta"] < 0 for one in rows)
    return "above every group" if every else f"above {name(group)}"


def against_tuned(analysis: Analysis, group: str) -> Finding | None:
    """Return the finding of a group against the tuned baseline, and what would compare them at equal cost."""
    scores, unit, baseline = analysis.scores, analysis.options.unit, name(analysis.options.baseline)
    row = scores.difference(group, OOD, TUNED)
    if scores.tuned is None or row is None:
        return None
    row, tuned = picked(row), scores.tuned
    cost = f"fine-tuned {' and '.join(tuned.excess())}" if tuned.excess() else "trained at other settings"
    by = "id_val" if scores.choice.by == "id_val" else "the ID score"
    text = (
        f"{name(group)} against {baseline} with {tuned.setting}: OOD {signed(row['delta'])} points "
        f"{span(row['low'], row['high'])}: {outcome(row, unit)}. Not at equal cost: "
        f"this baseline, chosen by {by}, was {cost}; to compare, fine-tune the groups with {tuned.setting} too."
    )
    key = {"a": group, "b": scores.tuned_name, "score": OOD, "family": TUNED}
    index = row_index(scores.differences, key)
    return make_finding(state(row), text, row, "score_differences", key, index, unit)
