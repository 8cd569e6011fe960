"""What to do about a baseline without a line: one `Advice` per cause, with the YAML that widens or steadies it.

A run's YAML keeps every value that its baseline has, so that all that is trained stays; a plain table gets words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np

from analysis.advice.advice import Advice, Cost
from analysis.advice.causes import LEAST_TIMES, Cause, cause_of
from analysis.advice.run_design import RunDesign, written
from analysis.advice.widening import lower_score, rounded, smaller_sizes
from analysis.formatting import listed, name, number, percent
from analysis.stats.estimates import TWO_SIDED, quantile
from analysis.study import Analysis
from ray_robust.run.analysis_settings import smallest_set

SHORTER = 4  # times as few epochs, where sizes fall short
ABOVE = 0.25  # of the other groups' points, from which the range has to
STEADY_SEEDS = 3  # the fewest for an interval that is worth its name
MOST_SEEDS = 20
MORE_IMAGES = 4
NEAR = 0.1  # by which an ID score may miss what is aimed at
UNDER = "The raw scores above need no line and hold meanwhile."
MODELS = (
    "smaller and larger models from scratch, in a sweep of their own with `pretrain: none` and "
    "`model: {name: {grid: [...]}}`, analysed with this run: python -m analysis THIS_RUN THAT_RUN --out DIR"
)
KINDS = "models trained on less data or for a shorter time, and smaller and larger ones"
DIVERGED = re.compile(r"(\w+): the loss became [^(]*\(learning rate ([^)]+)\)")  # as a trial says it
RATES = {"pretrain": "pretrain.lr", "probe": "finetune.probe_lr"}  # keys of the rates of its stages
IN_A_TABLE = f"add baseline rows over a wider range of ID scores: {KINDS}"


def for_refused(analysis: Analysis, run: RunDesign | None) -> list[Advice]:
    """Return what to do about a refused analysis."""
    cause = cause_of(analysis, run.classes if run else 0)
    remedies: dict[str, Callable[[Analysis, Cause, RunDesign | None], list[Advice]]] = {
        "no_points": _no_points,
        "task_not_learned": _not_learned,
        "few_trials": _few_trials,
        "bent": _bent,
        "falling": _labels,
        "level": _labels,
        "no_shift": _no_shift,
        "test_images": _test_images,
    }
    return remedies.get(cause.reason, _widen)(analysis, cause, run)


def _no_points(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    if run is None:
        base = name(analysis.options.baseline)
        text = f"Add rows of {base} at different ID scores, three at least and better ten or more: {KINDS}."
        return [Advice(cause.reason, cause.evidence, text)]
    if run.baseline.get("name") == "none":
        text, cost = run.first_baseline()
        action = "Give the sweep a baseline and run the same command again: what is trained stays."
        return [Advice(cause.reason, cause.evidence, action, text, cost)]
    if diverged := _diverged(analysis):
        return [Advice(cause.reason, cause.evidence, diverged)]
    if "failed" in cause.evidence or not len(analysis.points):
        action = (
            "Run the same command again: it tries what failed or is missing; reasons and logs are listed in Failures."
        )
        return [Advice(cause.reason, cause.evidence, action)]
    return _widen(analysis, cause, run)


def _diverged(analysis: Analysis) -> str:
    """What to do about trainings of the baseline whose loss diverged, "" where none did: they would again."""
    own = analysis.left_out.loc[analysis.left_out["group"] == analysis.options.baseline, "reason"]
    matches = {match for reason in own for match in DIVERGED.findall(str(reason))}
    rates = sorted(f"{RATES.get(stage, 'finetune.lr')} {rate}" for stage, rate in matches)
    if not rates:
        return ""
    what = "Lower the rate at which the loss diverged"
    return f"{what} ({listed(rates)}), and run the sweep again: trainings at other rates stay."


def _not_learned(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    """Longer fine-tunings: whatever else the points lack, they are of models that know nothing of the task."""
    how, text, cost = "for longer (finetune.epochs)", None, None
    if run is not None and run.from_scratch and not run.spread_by_pilot:
        how, (text, cost) = f"the baseline for {run.longer()} epochs too", run.spread(epochs=[run.longer()])
    action = f"First fine-tune {how}, and if that does not help, at another rate (finetune.lr)."
    return [Advice(cause.reason, cause.evidence, action, text, cost)]


def _widen(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    """Spread the baseline by smaller training sets, upward by longer ones where groups lie higher."""
    advice = _spread(analysis, cause, run)
    if cause.reason == "noisy":
        text = "If the line stays poor, more test images or steadier trainings are needed, rather than more rows."
        if run is not None:
            text = (
                "If the line stays poor: more test images, fine-tunings of one length and rate in place of several, or "
                f"{MODELS}."
            )
        return [advice, Advice(cause.reason, "A wider range alone may not be enough.", text)]
    return [advice]


def _spread(analysis: Analysis, cause: Cause, run: RunDesign | None) -> Advice:
    base = name(analysis.options.baseline)
    if run is not None and run.spread_by_pilot:
        chosen = "`spread: auto` has chosen sizes and lengths already"
        text = f"{chosen}. What it does not add: more `baseline.seeds`, and {MODELS}."
        return Advice(cause.reason, cause.evidence, text)
    if run is None or not run.from_scratch:
        more = "" if run is None else f" {base} is a group of the sweep: `baseline: scratch` can be spread as a whole."
        return Advice(cause.reason, cause.evidence, f"For {base}, {IN_A_TABLE}.{more}")
    epochs = [run.longer()] if _others_are_above(analysis) else []
    sizes = _sizes(cause, run)
    if not _far_enough(cause, run, sizes):
        epochs = [max(1, run.longest() // SHORTER), *epochs]
    if not sizes:
        epochs = sorted({*epochs, run.longer()})
    text, cost = run.spread(sizes, epochs, max(STEADY_SEEDS, run.baseline_seeds))
    how = []
    if sizes:
        aim = ""
        if cause.signal is not None:
            score = lower_score(cause.signal.low, sizes, run.smallest or run.train)
            aim = f" (ID scores down to about {percent(score, 0)})"
        how.append(f"on {listed([f'{size:,}' for size in sizes])} images{aim}")
    if epochs:
        how.append(f"for {listed([str(one) for one in epochs])} epochs")
    word = "Widen" if cause.reason in ("narrow", "noisy") else "Spread"
    action = f"{word} the baseline: fine-tune it also {', and each '.join(how)}."
    return Advice(cause.reason, cause.evidence, action, text, cost)


def _far_enough(cause: Cause, run: RunDesign, sizes: list[int]) -> bool:
    """Whether the smallest of these sets is expected to score as low as the cause asks for."""
    if not sizes or cause.signal is None:
        return bool(sizes)
    return lower_score(cause.signal.low, sizes, run.smallest or run.train) <= cause.signal.low_at(cause.times) + NEAR


def _sizes(cause: Cause, run: RunDesign) -> list[int]:
    """Smaller training sets for a range as wide as the cause asks for; empty where the set cannot be divided."""
    if not run.train:
        return []
    if cause.signal is None:
        return [size for size in (rounded(run.train / 16), rounded(run.train / 4)) if size >= smallest_set(run.classes)]
    return smaller_sizes(run.train, max(cause.times, LEAST_TIMES), cause.signal, run.classes, run.smallest or None)


def _others_are_above(analysis: Analysis) -> bool:
    """Whether a good part of the other groups' points has a higher ID score than any baseline point."""
    base = (analysis.points["group"] == analysis.options.baseline).to_numpy()
    own, others = analysis.points.loc[base, "id"], analysis.points.loc[~base, "id"]
    return bool(len(own) and len(others) and (others > own.max()).mean() >= ABOVE)


def _few_trials(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    base = analysis.options.baseline
    own = analysis.points.loc[analysis.points["group"] == base]
    count, is_enough = _trials_to_rise(analysis, own["trial"].nunique())
    if run is None or not run.from_scratch:
        unit = analysis.options.unit
        return [Advice(cause.reason, cause.evidence, f"Add {unit}s of {name(base)} until there are about {count}; "
                       "more points of the same ones do not replace them.")]  # fmt: skip
    text, cost = run.spread(seeds=count)
    action = f"Give the baseline {count} seeds: the slope is then shown to rise if it stays as it is."
    if not is_enough:
        action = (
            f"Give the baseline {count} seeds, and fine-tunings that differ more in ID score: seeds alone, as its "
            "slope scatters now, would not be enough."
        )
    return [Advice(cause.reason, cause.evidence, action, text, cost)]


def _trials_to_rise(analysis: Analysis, now: int) -> tuple[int, bool]:
    """How many trials would exclude a slope of 0, were it and its scatter to stay, and whether they would: the interval
    is t(n - 1) s / sqrt(n) wide; beyond `MOST_SEEDS` nobody looks."""
    trends, options = analysis.trends, analysis.options
    row = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)].iloc[0]
    one = (row["slope_high"] - row["slope"]) / quantile(TWO_SIDED, max(now - 1, 1)) * np.sqrt(max(now, 1))
    enough = (
        n for n in range(now + 1, MOST_SEEDS) if quantile(TWO_SIDED, n - 1) * one / np.sqrt(n) < 0.8 * row["slope"]
    )
    count = next(enough, None)
    return max(count or MOST_SEEDS, STEADY_SEEDS, now), count is not None


def _bent(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    """Another scale, where the line is straight there; else baseline points where the groups are."""
    options, trends = analysis.options, analysis.trends
    own = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] != options.scale)]
    best = own.loc[own["r2"].idxmax()] if own["r2"].notna().any() else None
    if best is not None and best["r2"] >= options.min_r2:
        scale = str(best["scale"])
        section = {"scale": scale, "margin": options.margin, "min_r2": options.min_r2, "look": options.look}
        how = f"Add --scale {scale} to the command of the analysis{', or this to the spec' if run else ''}."
        action = (
            f"Use {scale} axes, on which the same points have an R² of {number(best['r2'], 2)}. {how} The choice is "
            "then made after looking: report it as such, or confirm it with other seeds."
        )
        return [Advice(cause.reason, cause.evidence, action, written({"analysis": section}) if run else None, Cost(0))]
    others = analysis.points.loc[analysis.points["group"] != options.baseline, "id"]
    where = f" of {percent(others.min(), 0)} to {percent(others.max(), 0)}" if len(others) else ""
    text = (
        f"Keep the baseline to the ID scores{where} that are compared: more points there, none far below. A wider "
        f"range would only show more of the bend, and on no other scale is the line straight. {UNDER}"
    )
    return [Advice(cause.reason, cause.evidence, text)]


def _labels(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    text = (
        "Check that both tests have the same classes under the same names, that OOD scores are not those of chance, "
        "and that the metric is higher for better models; if so, choose a milder shift. A wider range would not help. "
        f"{UNDER}"
    )
    return [Advice(cause.reason, cause.evidence, text)]


def _no_shift(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    where = "column of OOD scores" if run is None else "task's OOD test"
    action = f"Check the {where}: it is the ID test again, so there is no shift to be robust to."
    return [Advice(cause.reason, cause.evidence, action)]


def _test_images(analysis: Analysis, cause: Cause, run: RunDesign | None) -> list[Advice]:
    sized = [key for key in ("id_test_images", "ood_test_images") if run and isinstance(run.spec["task"].get(key), int)]
    text = (
        f"Test on {MORE_IMAGES} times as many images: the error of a score halves. More baseline models would not help."
    )
    if run is None or not sized:
        return [Advice(cause.reason, cause.evidence, f"{text} {UNDER}")]
    task = {**run.spec["task"], **{key: MORE_IMAGES * run.spec["task"][key] for key in sized}}
    text += " Every fine-tuning is run again, since its scores are others; pre-trainings are kept."
    return [Advice(cause.reason, cause.evidence, text, written({"task": task}), _all_again(run))]


def _all_again(run: RunDesign) -> Cost:
    return Cost(sum(len(json.loads(row["finetunes"])) for row in run.plan))
