"""What remains to be done where the line holds: groups outside its range, checks that fail, fragile claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, sqrt

import pandas as pd

from analysis.advice.advice import Advice, Cost
from analysis.advice.run_design import RunDesign
from analysis.advice.widening import rounded, signal, smaller_sizes
from analysis.findings import Finding
from analysis.formatting import listed, name, number, percent, some
from analysis.line import gaps
from analysis.line.line_checks import FAILS
from analysis.scales import PP, SCALES
from analysis.stats import sensitivity
from analysis.stats.check_words import does_not_hold
from analysis.study import Analysis
from ray_robust.text.names import count_noun

PART = 0.25  # of a group's points outside the range, from which it is worth mentioning
MOST_NAMED = 4
UNEQUAL = "unequal noise"
CHECKS: Mapping[str, str] = {
    "reliability": "Test on more ID images: the line is too flat, which favours groups at high ID scores.",
    "scatter": "Add baseline points where they scatter most, or compare groups at the other end.",
}
SAME_SCHEDULE = (
    "Fine-tune the baseline with the epochs and rates of the groups, and spread it by training-set sizes instead."
)
SETTLES: Mapping[str, str] = {
    sensitivity.ERRORS: "more ID test images",
    sensitivity.SCHEDULE: "a baseline with the epochs and rates of the groups, spread by training-set sizes",
    UNEQUAL: "more baseline seeds",
    sensitivity.ONE_TRIAL: "more seeds",
    sensitivity.ONE_LEVEL: "more levels of the number that varies",
    sensitivity.DUPLICATES: "test images that occur nowhere else",
}
APART = 1.2  # times, by which sizes or lengths at the ends of a gap differ for another to lie between them
MORE_SEEDS = 2  # times as many for the baseline, where its noise is uneven


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
            f"{percent(baseline.low)} to {percent(baseline.high)} and enter no mean."
        )
        advice.append(_reach(analysis, run, side, evidence))
        run = run and run.after([advice[-1].yaml])
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
        return Advice("extrapolated", evidence, action, text, cost)
    own = analysis.points.loc[analysis.points["group"] == analysis.options.baseline]
    scale = SCALES[analysis.options.scale]
    made = signal(own["id"].to_numpy(float), own["ood"].to_numpy(float), scale)
    sizes = [] if made is None or not run.train else smaller_sizes(run.train, 1.5, made, run.classes, run.smallest)
    if not sizes:
        return Advice("extrapolated", evidence, "Fine-tune the baseline for fewer epochs too.")
    text, cost = run.spread(sizes=sizes)
    shown = listed([f"{size:,}" for size in sizes])
    action = f"Fine-tune the baseline on {shown} images too."
    return Advice("extrapolated", evidence, action, text, cost)


def fragile(analysis: Analysis, claims: list[Finding], run: RunDesign | None = None) -> list[Advice]:
    """Return advice on claims that do not hold in every check: what not to act on, and what would settle it."""
    own = [claim for claim in claims if claim.kind == "fragile"]
    checks = list(dict.fromkeys(check for claim in own for check in claim.not_robust_to))
    if not own:
        return []
    unit = analysis.options.unit
    evidence = (
        f"{count_noun(len(own), 'finding')} {'does' if len(own) == 1 else 'do'} not hold in every check: "
        f"{some([_named(claim, unit) for claim in own], MOST_NAMED)}."
    )
    shown = some([_compared(claim) for claim in own], MOST_NAMED)
    settles, text, cost = _settled_by(checks, run)
    if not settles:
        action = f"Take the ER of {shown} as open. The raw scores do not rest on these checks."
        return [Advice("fragile", evidence, action)]
    action = f"Do not act on the ER of {shown} yet. What would settle it: {listed(settles)}."
    return [Advice("fragile", evidence, action, text, cost)]


def _settled_by(checks: list[str], run: RunDesign | None) -> tuple[list[str], str | None, Cost | None]:
    """What would settle the checks, and as far as the baseline can be changed its YAML and cost."""
    words = {check: SETTLES[check] for check in checks if check in SETTLES and not _by_pilot(check, run)}
    if run is None or not run.from_scratch or not words.keys() & {UNEQUAL, sensitivity.SCHEDULE}:
        return list(words.values()), None, None
    seeds, matched = 0, _Matched(run) if sensitivity.SCHEDULE in words else None
    if UNEQUAL in words:
        seeds = max(MORE_SEEDS * run.as_run.baseline_seeds, run.baseline_seeds)
        words[UNEQUAL] = f"{seeds} baseline seeds"
    if matched is not None:
        words[sensitivity.SCHEDULE] = matched.words
    if not seeds and not (matched and matched.any):
        return list(words.values()), None, None
    epochs, rates = (matched.epochs, matched.rates) if matched else ([], [])
    return list(words.values()), *run.spread(seeds=seeds, epochs=epochs, rates=rates)


class _Matched:
    """The epochs and learning rates of the groups that the baseline of a run does not have."""

    def __init__(self, run: RunDesign) -> None:
        self.epochs, self.rates = run.unmatched("epochs"), run.unmatched("lr")

    @property
    def any(self) -> bool:
        return bool(self.epochs or self.rates)

    @property
    def words(self) -> str:
        """What the baseline should be trained with."""
        kinds = {"for the epochs": self.epochs, "at the learning rates": self.rates}
        lacking = [f"{what} ({', '.join(map(str, own))})" for what, own in kinds.items() if own]
        if not lacking:
            return "a baseline spread by training-set sizes rather than by epochs and rates"
        return f"the baseline fine-tuned {listed(lacking)} of the groups too"


def _named(claim: Finding, unit: str) -> str:
    """A finding by what it compares, and where it does not hold."""
    return f"{_compared(claim)} ({does_not_hold(claim.not_robust_to, unit)})"


def _compared(claim: Finding) -> str:
    a, b, factor = (claim.row.get(key) for key in ("a", "b", "factor"))
    return f"{name(a)} against {name(b)}" if a and b else f"the effect of {name(factor)}"


def _by_pilot(check: str, run: RunDesign | None) -> bool:
    """Whether a check asks for what a pilot decides, which chose otherwise."""
    return check == sensitivity.SCHEDULE and run is not None and run.spread_by_pilot


def weak_line(analysis: Analysis, run: RunDesign | None = None) -> list[Advice]:
    """Return advice on checks that the baseline's line fails although its R^2 clears the floor."""
    if analysis.line is None or analysis.refused:
        return []
    advice = []
    for verdict in analysis.line.verdicts:
        evidence = f"{verdict.text[:1].upper()}{verdict.text[1:]}."
        if verdict.state != FAILS:
            continue
        if verdict.check == "curvature":
            advice += _bend(analysis)
        elif verdict.check == "schedule":
            advice += [] if _by_pilot(sensitivity.SCHEDULE, run) else [_same_schedule(evidence, run)]
        elif verdict.check == "gaps":
            advice.append(_gap(analysis, evidence, run))
        elif verdict.check in CHECKS:
            advice.append(Advice("weak_line", evidence, CHECKS[verdict.check]))
        run = run and run.after([one.yaml for one in advice[-1:]])
    return advice


def _same_schedule(evidence: str, run: RunDesign | None) -> Advice:
    """Fine-tune the baseline as the groups were, as far as that is not done."""
    if run is None or not run.from_scratch or not (matched := _Matched(run)).any:
        return Advice("weak_line", evidence, SAME_SCHEDULE)
    text, cost = run.spread(epochs=matched.epochs, rates=matched.rates)
    return Advice("weak_line", evidence, f"What would settle it: {matched.words}.", text, cost)


def _gap(analysis: Analysis, evidence: str, run: RunDesign | None) -> Advice:
    """A training-set size, or a length, between those of the finished baseline fine-tunings on both sides of the widest
    gap with groups in it."""
    assert analysis.line is not None
    gap = gaps.bridged(analysis.line.gaps).iloc[0]
    own = analysis.points.loc[analysis.points["group"] == analysis.options.baseline].sort_values("id")
    if {"finetune", "epoch"} <= set(own):
        own = own.loc[own["epoch"] == own.groupby(["trial", "finetune"])["epoch"].transform("max")]
    ends = own.loc[own["id"] <= gap["id_low"]].tail(1), own.loc[own["id"] >= gap["id_high"]].head(1)
    between = [_between(ends, column) for column in ("finetune_images", "epoch")]
    size, epochs = rounded(between[0]), round(between[1])
    if not size and not epochs:
        return Advice("weak_line", evidence, "Add baseline points inside the gap: models trained on less or more data.")
    how = f"on {size:,} images" if size else f"for {epochs} epochs"
    action = f"Add baseline points inside the gap: fine-tune it {how} too."
    if run is None or not run.from_scratch:
        return Advice("weak_line", evidence, action)
    return Advice("weak_line", evidence, action, *run.spread([size] * bool(size), [epochs] * (not size)))


def _between(ends: Sequence[pd.DataFrame], column: str) -> float:
    """The geometric mean of two points' values in a column; 0 where they are equal, or there are none."""
    if any(end.empty or column not in end for end in ends):
        return 0.0
    low, high = (float(pd.to_numeric(end[column], errors="coerce").iloc[0]) for end in ends)
    return sqrt(low * high) if low > 0 and high > 0 and abs(log(high / low)) > log(APART) else 0.0


def _bend(analysis: Analysis) -> list[Advice]:
    """What a bend of the baseline means at the ID scores where groups lie; nothing where it is less than the margin
    there, or no group has a point in the baseline's range."""
    options, line = analysis.options, analysis.line
    others = analysis.points.loc[
        (analysis.points["group"] != options.baseline) & ~analysis.points["extrapolated"], "id"
    ]
    if line is None or others.empty:
        return []
    low, high = float(others.min()), float(others.max())
    apart = PP * line.curve[["square", "spline"]].sub(line.curve["line"], axis=0).abs().max(axis=1)
    inside = apart.loc[line.curve["id"].between(low, high)].dropna()
    if inside.empty or inside.max() < options.margin:
        return []
    most, place = float(inside.max()), float(line.curve.loc[inside.idxmax(), "id"])
    at = percent(place, 0)
    evidence = (
        f"The baseline's line is curved: at the ID scores of the groups ({percent(low, 0)} to {percent(high, 0)}) a "
        f"curve lies up to {number(most, 1)} points of OOD from it, at ID {at}."
    )
    action = f"Do not act on a difference of ER under {number(most, 1)} points near ID {at}: it may be the curve's."
    held = gaps.bridged(line.gaps)
    if ((held["id_low"] < place) & (place < held["id_high"])).any():
        action += " Baseline points there would tell."
    return [Advice("weak_line", evidence, action)]
