"""What remains to be done where the line holds: groups outside its range, checks that fail, fragile claims."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.advice.advice import Advice
from analysis.advice.run_design import RunDesign
from analysis.advice.widening import signal, smaller_sizes
from analysis.findings import Finding
from analysis.formatting import listed, name, percent, some
from analysis.line.line_checks import FAILS
from analysis.scales import SCALES
from analysis.stats import sensitivity
from analysis.study import Analysis

PART = 0.25  # of a group's points outside the range, from which it is worth mentioning
MOST_NAMED = 4
SETTLES: Mapping[str, str] = {
    "a curve": "baseline points at the ID scores of the groups compared",
    sensitivity.ERRORS: "more ID test images",
    sensitivity.SCHEDULE: "the same epochs and learning rates for the baseline as for the groups",
    "unequal noise": "more baseline seeds at low ID scores",
    "other scales": "a baseline range that ends where the groups' does",
    sensitivity.ONE_TRIAL: "more seeds",
    sensitivity.ONE_LEVEL: "more levels of the number that varies",
    "duplicates": "test images that occur nowhere else",
}
CHECKS: Mapping[str, str] = {
    "curvature": "Differences of that size may be the curve's: compare groups at ID scores where the baseline has "
    "points, and add baseline points there.",
    "reliability": "Test on more ID images: the line is too flat, which favours groups at high ID scores.",
    "schedule": "Fine-tune the baseline with the epochs and rates of the groups, and spread it by training-set sizes "
    "instead.",
    "scatter": "Add baseline points where they scatter most, or compare groups at the other end.",
    "gaps": "Add baseline points inside the gap: a training-set size between those that end at it.",
}


def outside(analysis: Analysis, run: RunDesign | None) -> list[Advice]:
    """Return advice on groups of which a good part lies outside the baseline's ID range, above and below it."""
    baseline, options = analysis.baseline, analysis.options
    if baseline is None or analysis.refused:
        return []
    others = analysis.points.loc[analysis.points["group"] != options.baseline]
    shares = {
        "above": (others["id"] > baseline.high).groupby(others["group"], sort=False).mean(),
        "below": (others["id"] < baseline.low).groupby(others["group"], sort=False).mean(),
    }
    advice = []
    for side, share in shares.items():
        groups = list(share.index[share >= PART])
        if not groups:
            continue
        part = percent(float(share[groups].mean()), 0)
        evidence = (
            f"{some(list(map(name, groups)), MOST_NAMED)}: {part} of the points lie {side} the baseline's ID range of "
            f" {percent(baseline.low)} to {percent(baseline.high)} and enter no mean."
        )
        advice.append(_reach(analysis, run, side, evidence))
    return advice


def _reach(analysis: Analysis, run: RunDesign | None, side: str, evidence: str) -> Advice:
    """Lengthen the baseline where it must reach higher, shrink its training sets where it must reach lower."""
    base = name(analysis.options.baseline)
    if run is None or not run.from_scratch:
        how = "longer or larger trainings, larger models" if side == "above" else "less data or shorter trainings"
        return Advice("extrapolated", evidence, f"Add points of {base} {side} its present ID range: {how}.")
    if side == "above":
        epochs = run.longer()
        text, cost = run.spread(epochs=[epochs])
        action = f"Fine-tune the baseline for {epochs} epochs too; if that is not enough, on a larger model."
        return Advice("extrapolated", evidence, f"{action} Paste this in place of `baseline`.", text, cost)
    own = analysis.points.loc[analysis.points["group"] == analysis.options.baseline]
    scale = SCALES[analysis.options.scale]
    made = signal(own["id"].to_numpy(float), own["ood"].to_numpy(float), scale)
    sizes = [] if made is None or not run.train else smaller_sizes(run.train, 1.5, made, run.classes, run.smallest)
    if not sizes:
        return Advice("extrapolated", evidence, "Fine-tune the baseline for fewer epochs too.")
    text, cost = run.spread(sizes=sizes)
    shown = listed([f"{size:,}" for size in sizes])
    action = f"Fine-tune the baseline on {shown} images too. Paste this in place of `baseline`."
    return Advice("extrapolated", evidence, action, text, cost)


def fragile(analysis: Analysis, claims: list[Finding]) -> list[Advice]:
    """Return advice on claims that do not hold in every check: what would settle them."""
    own = [claim for claim in claims if claim.kind == "fragile"]
    checks = list(dict.fromkeys(check for claim in own for check in claim.not_robust_to))
    if not own:
        return []
    evidence = f"{len(own)} finding{'s do' if len(own) > 1 else ' does'} not hold in every check: {listed(checks)}."
    settles = listed(list(dict.fromkeys(SETTLES[check] for check in checks if check in SETTLES)))
    return [Advice("fragile", evidence, f"What would settle it: {settles}.")]


def weak_line(analysis: Analysis) -> list[Advice]:
    """Return advice on checks that the baseline's line fails although its R^2 clears the floor."""
    if analysis.line is None or analysis.refused:
        return []
    failed = [verdict for verdict in analysis.line.verdicts if verdict.state == FAILS and verdict.check in CHECKS]
    return [Advice("weak_line", f"{one.text[:1].upper()}{one.text[1:]}.", CHECKS[one.check]) for one in failed]
