"""How much ER varied in an earlier run, cause by cause, from which the power of another design is predicted.

Owns `of_run`: a `spread.Spread` from the trials, the baseline line and the test groups of a finished run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import chdtri

from analysis import study
from analysis.input.run_points import read_run
from analysis.predict.design import Design
from analysis.predict.spread import Cause, Spread, published
from analysis.stats.estimates import TWO_SIDED
from analysis.stats.group_means import MeanER
from analysis.stats.quantities import errors_named
from analysis.stats.robustness import LINE
from ray_robust.errors import Problem, UserError

LEAST_DF = 2  # of the baseline's trials: a standard deviation from two trials is within a factor of 30


def of_run(address: str) -> Spread:
    """Return the spread of a run's first task. Raises UserError where it has no line, or no group of two trials."""
    table, options = read_run(address)
    analysis = study.analyse_all(table, options)[0]
    if analysis.baseline is None or analysis.refused:
        raise UserError(Problem(address, f"says nothing about the spread of ER: {'; '.join(analysis.refusals)}"))
    spread = spread_of(analysis, table.name)
    if not spread.df:
        what = f"no group but {options.baseline} has two trials with ER: the spread between trials is not known from it"
        raise UserError(Problem(address, what))
    return spread


def spread_of(analysis: study.Analysis, name: str) -> Spread:
    """Return the spread behind an analysis that is not refused; its `df` is 0 where no group has two trials."""
    inside = analysis.points.loc[~analysis.points["extrapolated"]]
    baseline = inside["group"] == analysis.options.baseline
    trials, finetunings, df, _ = between(inside.loc[~baseline])
    line_trials, line_noise, _, line_finetunings = between(inside.loc[baseline])
    causes = _shared([mean for group, mean in analysis.means.items() if group != analysis.options.baseline])
    by = f"{name}: {analysis.points['trial'].nunique()} trials, {df} degrees of freedom"
    line = causes.pop(LINE, Cause(np.nan))
    return Spread(trials, finetunings, line, line_trials, line_noise, line_finetunings, causes, df, by)


def of_baseline(analysis: study.Analysis, design: Design) -> Spread:
    """Return the spread to assume once the baseline alone has run: what its trials show, taken as every group's; the
    published one where these are too few to go by (`LEAST_DF`). The line is as `published` takes it.
    """
    assumed = published(design)
    own = analysis.points.loc[analysis.points["group"] == analysis.options.baseline]
    trials, noise, df, finetunings = between(own)
    variance = trials**2 + noise**2 / max(finetunings, 1)
    if df < LEAST_DF or not variance > 0:
        return assumed
    ratio = variance / assumed.line_trials**2
    line = replace(assumed.line, alone=assumed.line.alone * ratio, shared=assumed.line.shared * ratio)
    by = f"the {df + 1} trials of the baseline"
    return Spread(trials, noise, line, trials, noise, finetunings, {}, df, by)


def between(points: pd.DataFrame) -> tuple[float, float, int, int]:
    """Return standard deviations of ER, in percentage points: between trials of a group, and between fine-tunings of a
    trial; the degrees of freedom of the first, and how many fine-tunings a trial has.

    points   columns group, trial, er and, where there are several, finetune; looks at one fine-tuning are its mean
    What a setting does to all trials of a group is no randomness, so fine-tunings vary around the sum of their trial's
    and their setting's mean. The mean of a trial varies by both; its own part is what is left of it, at least 0.
    """
    keys = ["group", "trial", *(["finetune"] if "finetune" in points else [])]
    each = points.groupby(keys, sort=False)["er"].mean().reset_index()
    by_trial = each.groupby(["group", "trial"], sort=False)["er"].agg(["mean", "size"]).reset_index()
    groups = by_trial.groupby("group", sort=False)["mean"]
    df = int((groups.size() - 1).sum())
    if df < 1:  # without points too: every group but the baseline may lie outside its range
        return np.nan, 0.0, 0, int(by_trial["size"].median()) if len(by_trial) else 0
    variance = float(((by_trial["mean"] - groups.transform("mean")) ** 2).sum() / df)
    noise = _noise(each) if "finetune" in each else 0.0
    per_trial = float(by_trial["size"].median())
    return float(np.sqrt(max(variance - noise / per_trial, 0.0))), float(np.sqrt(noise)), df, int(per_trial)


def _noise(each: pd.DataFrame) -> float:
    """Variance of fine-tunings around trial plus setting, within groups; 0 where nothing is left to see it by."""
    squares, df = 0.0, 0
    for _, group in each.groupby("group", sort=False):
        design = np.column_stack([pd.get_dummies(group[key], dtype=float) for key in ("trial", "finetune")])
        er = group["er"].to_numpy()
        left = er - design @ np.linalg.lstsq(design, er, rcond=None)[0]
        squares, df = squares + float(left @ left), df + len(er) - int(np.linalg.matrix_rank(design))
    return squares / df if df > 0 else 0.0


def _shared(means: Sequence[MeanER]) -> dict[str, Cause]:
    """Every source of error that groups share, per unit: averages over groups, and over pairs of groups."""
    quantities = [mean.quantity for mean in means]
    causes = {}
    for line, pulls, df in errors_named(quantities, LINE):
        drawn = pulls @ line.effects.T
        if np.isfinite(df):
            causes[LINE] = _cause(drawn @ drawn.T, 0.0, line.used, line.used - df, 1.0)
    sources = dict.fromkeys(source for quantity in quantities for source in quantity.replicates)
    for source in sources:
        if np.isfinite(source.df):  # else nothing is known, of very uneven test groups
            drawn = np.array([quantity.replicates[source] for quantity in quantities])
            double_counted = float(np.mean([quantity.double_counted.get(source, 0.0) for quantity in quantities]))
            covariance = np.atleast_2d(np.cov(drawn, bias=True)) * source.factor
            causes[source.name] = _cause(
                covariance, double_counted, source.clusters, 1.0, (source.df + 1) / source.clusters
            )
    return causes


def _cause(covariance: np.ndarray, double_counted: float, units: int, spent: float, even: float) -> Cause:
    """From the covariance of groups' means, float [groups, groups]: averages over groups, and over pairs of groups."""
    count = len(covariance)
    alone = max(float(np.mean(np.diag(covariance))) - double_counted, 0.0)
    apart = (covariance.sum() - np.trace(covariance)) / (count * (count - 1)) if count > 1 else 0.0
    return Cause(alone * units, float(np.clip(apart, -alone, alone)) * units, spent, even)


def reach(deviation: float, df: int) -> tuple[float, float]:
    """Return the 95 % interval of a standard deviation that so many degrees of freedom estimate (chi-squared)."""
    if df < 1:
        return np.nan, np.nan
    low, high = (deviation * np.sqrt(df / chdtri(df, p)) for p in (1 - TWO_SIDED, TWO_SIDED))
    return float(low), float(high)
