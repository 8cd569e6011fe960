"""Rows that may belong together although no cluster was given: columns of a table that look like names of trainings.

Owns `ask_for_clusters`. Points of one pre-training are no independent evidence: taken as such they make intervals too
narrow (Moulton 1990; Cameron and Miller 2015). A candidate is known by its name (trial, seed, run, checkpoint, ...), as
names that each lie within one group, or by its points: those that share its value lie off their group's line together,
by an analysis of variance of residuals.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from analysis.input.csv_file import Remarks
from analysis.scales import SCALES
from analysis.stats.factor_coding import nested_in
from analysis.stats.trend import MIN_POINTS
from ray_robust.text.names import count_noun, is_missing, quoted

INDEPENDENT = "none"  # `--cluster none`: every row is a training of its own
WORDS = {"trial", "trials", "seed", "seeds", "run", "runs", "checkpoint", "checkpoints", "ckpt", "replicate", "rep",
         "repeat", "repetition", "replica", "fold", "experiment", "exp", "job", "cluster", "pretraining", "init",
         "uid", "uuid"}  # fmt: skip
WHOLE = {"model_id", "modelid", "pretrain", "pretrain_id", "upstream_id", "backbone_id", "weights"}
AMOUNTS = {"num", "n", "number", "count", "total", "seconds", "hours", "time", "per"}  # `num_runs` names no run
# what a sweep varies, and what the checks of a point's epoch and rate look after
VARIED = {"num_images", "num_classes", "images_per_class", "granularity", "semantics", "sources", "pretrain_method",
          "select", "dedupe", "label_noise",
          "pretrain_epochs", "pretrain_images_seen", "finetune_method", "finetune_images", "finetune_lr",
          "finetune_weight_decay", "finetune", "lr", "learning_rate", "epoch", "step", "metric", "shift", "wise_alpha",
          "id_images", "ood_images", "id_groups", "ood_groups"}  # fmt: skip
LEVEL = 0.05  # of the test, over all columns that are tried: so many tables are asked for nothing, which costs a word
HINT = 0.25  # from here on a column is mentioned
LEAST_ICC = 0.1
LEAST_REPEATED = 0.8  # of a column's cells: fewer repeat by chance
LEAST_GIVEN = 0.5  # of the rows
MOST_ASKED = 4  # candidates are listed, the rest counted


@dataclass(frozen=True)
class Candidate:
    """A column and what speaks for it.

    named   whether it is called like a training
    nested  whether its values are text, each within one group: they name something finer than groups
    sets    of rows with the same value within a group, and rows
    icc     the intra-class correlation of the points' distances from their groups' lines
    p       of its F-test, corrected for the columns tried; NaN where it cannot be had
    alone   the same for what is left once each value's mean over the groups is taken off, where most values occur in
            several groups: a setting that was varied everywhere moves all of them alike
    """

    column: str
    named: bool
    nested: bool
    sets: int
    rows: int
    icc: float
    p: float
    alone: float

    @property
    def telling(self) -> bool:
        return self.p <= LEVEL and self.icc >= LEAST_ICC

    @property
    def setting(self) -> bool:
        return self.telling and not self.alone <= LEVEL

    @property
    def narrow(self) -> float:
        """How many times too narrow intervals are that take the rows for independent (Moulton 1990)."""
        return float(np.sqrt(1 + (self.rows / self.sets - 1) * self.icc))

    def __str__(self) -> str:
        rows, sets = count_noun(self.rows, "row"), count_noun(self.sets, "set")
        what = f"column {quoted(self.column)} puts {rows} into {sets} within groups"
        if self.nested and not self.telling:
            return f"{what}, and none of its values lies in two groups"
        return f"{what}, whose rows lie off the line together (correlation {self.icc:.2f})" if self.telling else what


def ask_for_clusters(points: pd.DataFrame, columns: pd.DataFrame, cluster: str | None, remarks: Remarks) -> None:
    """Add a problem where rows are taken as independent and a column indicates otherwise, a note where the user has
    decided.

    `points` has task, group, trial (the cluster as it is), id and ood (fractions); `columns`, text, are all that the
    table has besides, row by row. `cluster` is None where it was not given, `INDEPENDENT`, or the column named.
    """
    if points.empty:
        return
    if cluster in (None, INDEPENDENT):  # rows with the same scores are one by now
        points = points.drop_duplicates("trial")
        columns = columns.loc[points.index]
    suspects = candidates(points, columns)
    if remarks.problems:  # of scores in two units no correlation speaks
        suspects = [replace(one, p=np.nan) for one in suspects if one.named or one.nested]
    sure = [one for one in suspects if one.named or one.nested or (one.telling and not one.setting)]
    clear = sure if cluster is None else []
    for one in clear[:MOST_ASKED]:
        remarks.column(f"{one}: if each set comes from one training, say {_option(one)}")
    if len(clear) > MOST_ASKED:
        remarks.table(f"and {count_noun(len(clear) - MOST_ASKED, 'more column')} like these")
    if clear:
        remarks.table(f"if every row is a training of its own, say --cluster {INDEPENDENT}")
    for one in suspects:
        if one in clear or not one.p <= HINT:
            continue
        if one.setting and not one.named:
            remarks.note(f"{one}, in every group alike: a setting that moves points off the line")
        elif one.telling:
            taken = "taken as independent, as asked" if cluster == INDEPENDENT else f"parted by --cluster {cluster}"
            remarks.note(f"{one}: {taken}; if they are not, intervals are about {one.narrow:.1f} times too narrow")
        elif cluster is None and one.icc >= LEAST_ICC:
            chance = f"correlation {one.icc:.2f}, p = {one.p:.2g}"
            remarks.note(
                f"{one}, whose rows may lie off the line together ({chance}): if each set comes from one training, say "
                f"{_option(one)}"
            )


def _option(one: Candidate) -> str:
    return f"--cluster {shlex.quote(one.column)}"


def candidates(points: pd.DataFrame, columns: pd.DataFrame) -> list[Candidate]:
    """Return the columns whose equal values may be one training, those with telling names first, then the most
    correlated."""
    places, _ = pd.factorize(points["task"].astype(str) + "\0" + points["group"].astype(str))
    units = pd.factorize(pd.Series(places).astype(str) + "\0" + points["trial"].astype(str).to_numpy())[0]
    residual, groups = _residuals(points, places), pd.factorize(points["group"].astype(str))[0]
    by_unit = np.bincount(units, residual) / np.bincount(units)  # one number per cluster as it is
    firsts = np.unique(units, return_index=True)[1]
    suspects = []
    for name in columns:
        if not is_named(name) and name.casefold() in VARIED:
            continue
        cells, nested = columns[name].to_numpy(), _is_nested(columns[name], groups)
        if len(by_unit) == len(points) or _constant_within(cells, units):
            one = _candidate(name, nested, cells[firsts], places[firsts], by_unit)
        elif _constant_within(units, _within_groups(cells, places)):
            continue  # finer than the clusters
        else:
            one = _across_clusters(_candidate(name, nested, cells, places, residual))
        suspects += [one] if one else []
    tried = len(suspects)
    suspects = [replace(one, p=min(1.0, one.p * tried), alone=one.alone * tried) for one in suspects]
    return sorted(suspects, key=lambda one: (not one.named, not one.nested, -one.icc))


def _is_nested(column: pd.Series, groups: np.ndarray) -> bool:
    """Whether a column is text of which no value lies in two groups, and some group has several."""
    given = ~column.map({text: is_missing(str(text)) for text in column.unique()}).to_numpy(bool)
    text = column[given]
    if len(text) < LEAST_GIVEN * len(column) or pd.to_numeric(text, errors="coerce").notna().any():
        return False
    return nested_in(text.to_numpy(), groups[given])


def _within_groups(cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The number of every row's value in its group."""
    codes, values = pd.factorize(cells)
    return pd.factorize(places.astype(np.int64) * max(len(values), 1) + codes)[0]


def _across_clusters(one: Candidate | None) -> Candidate | None:
    """A column whose values lie in several clusters each, where it is called like a training and its rows lie off the
    line together: then clusters are not the trainings."""
    return one if one is not None and one.named and one.telling and not one.setting else None


def is_named(column: str) -> bool:
    """Return whether a column is called like the name of a training."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()) if word]
    if AMOUNTS & set(words):
        return False
    return "_".join(words) in WHOLE or bool(WORDS & set(words))


def _constant_within(cells: np.ndarray, units: np.ndarray) -> bool:
    codes = pd.factorize(cells)[0]
    low = np.full(units.max() + 1, len(codes))
    high = np.zeros(units.max() + 1, int)
    np.minimum.at(low, units, codes)
    np.maximum.at(high, units, codes)
    return bool((low == high).all())


def _candidate(
    name: str, nested: bool, cells: np.ndarray, places: np.ndarray, residual: np.ndarray
) -> Candidate | None:
    """The column as a candidate, whatever its test says; None where its values repeat too seldom."""
    codes, values = pd.factorize(cells)
    given = ~np.array([is_missing(str(value)) for value in values], bool)[codes]
    if len(values) < 2 or given.sum() < 2:
        return None
    codes, places, residual = codes[given], places[given], residual[given]
    cell = pd.factorize(places.astype(np.int64) * len(values) + codes)[0]
    sizes = np.bincount(cell)
    repeated = int(sizes[sizes > 1].sum())
    named = is_named(name)
    enough = (
        repeated > 0 if named or nested else repeated >= LEAST_REPEATED * len(codes) and given.mean() >= LEAST_GIVEN
    )
    if not enough or len(np.unique(codes)) < 2:
        return None
    firsts = np.unique(cell, return_index=True)[1]
    icc, p = _correlation(residual, cell, places[firsts])
    alone = p
    if _crossed(codes[firsts], places[firsts]):
        common = np.bincount(codes, residual) / np.maximum(np.bincount(codes), 1)
        alone = _correlation(residual - common[codes], cell, places[firsts], len(np.unique(codes)) - 1)[1]
    return Candidate(name, named, nested, len(sizes), len(codes), icc, p, alone)


def _crossed(codes: np.ndarray, places: np.ndarray) -> bool:
    """Whether most values occur in several groups. Takes one entry per value and group."""
    return bool((np.bincount(codes)[np.unique(codes)] > 1).mean() > 0.5) and len(np.unique(places)) > 1


def _correlation(residual: np.ndarray, cell: np.ndarray, place_of: np.ndarray, fewer: int = 0) -> tuple[float, float]:
    """The intra-class correlation within groups and the p-value of its F-test; `fewer` degrees of freedom between
    cells were spent before."""
    sizes = np.bincount(cell)
    means = np.bincount(cell, residual) / sizes
    within = float(np.square(residual - means[cell]).sum())
    by_place = np.bincount(place_of, means * sizes) / np.maximum(np.bincount(place_of, sizes), 1)
    between = float((sizes * np.square(means - by_place[place_of])).sum())
    df_between = len(sizes) - len(np.unique(place_of)) - fewer
    df_within = len(residual) - len(sizes)
    if df_between < 1 or df_within < 1:
        return float("nan"), float("nan")
    if within <= 1e-20 * max(len(residual), 1):
        return (1.0, 0.0) if between > 0 else (float("nan"), float("nan"))
    msb, msw = between / df_between, within / df_within
    size = (len(residual) - np.square(sizes).sum() / len(residual)) / max(len(sizes) - 1, 1)
    return float((msb - msw) / (msb + (size - 1) * msw)), float(f_distribution.sf(msb / msw, df_between, df_within))


def _residuals(points: pd.DataFrame, places: np.ndarray) -> np.ndarray:
    """Every point's distance from its own group's line on the probit scale; from the group's mean where it is short."""
    scale = SCALES["probit"]
    x, y = scale.of(points["id"].to_numpy()), scale.of(points["ood"].to_numpy())
    count = np.bincount(places)

    def mean(values: np.ndarray) -> np.ndarray:
        return (np.bincount(places, values) / count)[places]

    x, y = x - mean(x), y - mean(y)
    spread = np.bincount(places, x * x)
    slope = np.where(
        (count >= MIN_POINTS) & (spread > 1e-12), np.bincount(places, x * y) / np.maximum(spread, 1e-12), 0
    )
    return y - slope[places] * x
