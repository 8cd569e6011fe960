"""The columns of a plain table that the analysis uses by name: values in them that would mislead it are reported.

Owns `check`, which adds to the remarks: scores of several metrics, levels that only look different or are empty,
settings that differ inside a cluster, names of columns that nearly are ones it knows. No number is changed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.input.csv_file import Remarks
from analysis.input.roles import Roles
from analysis.stats.factor_coding import CATEGORIES, FACTORS, WITHIN_TRIALS
from ray_robust.text.names import count_noun, describe_difference, is_missing, lookalikes, normalise, quoted

RATE = "finetune_lr"
SIZES = ("id_images", "ood_images")  # numbers of images: whole and above 0
KNOWN = ("task", "metric", "seed", "sources", "epoch", RATE, *SIZES, "id_val", "ood_val", "wise_alpha",
         *FACTORS, *CATEGORIES)  # fmt: skip
OTHER_NAMES = {
    "dataset": "task", "benchmark": "task", "test_set": "task", "testset": "task", "shift": "task",
    "lr": RATE, "learning_rate": RATE, "epochs": "epoch", "n_images": "num_images", "n_classes": "num_classes",
    "n_id": "id_images", "n_ood": "ood_images",
}  # fmt: skip
ERROR_WORDS = {"error", "err", "errors", "loss", "nll"}
STEPS = ("epoch", RATE)  # of which the checks of the line ask whether they move points off it


def check(frame: pd.DataFrame, names: pd.DataFrame, roles: Roles, baseline: str, remarks: Remarks) -> None:
    """Add what such columns hold against the analysis. `frame` is the table as text, `names` has trial, group and task
    of its rows; columns that were asked for in a role are left out of account."""
    others = frame.drop(columns=roles.used)
    _check_tasks(others, remarks)
    _one_metric(others, names["task"], remarks)
    for name in roles.scores.values():
        if ERROR_WORDS & set(re.split(r"[^a-z]+", name.lower())):
            remarks.note(f"{name} is read as a score, of which more is better; of an error rate take 1 less it")
    _nearly_known(others, frame, remarks)
    _levels(others, names["group"] == baseline, remarks)
    _steps(others, remarks)
    _inside_clusters(others, names, remarks)


def without_bad_sizes(points: pd.DataFrame, remarks: Remarks) -> pd.DataFrame:
    """Return `points` without a column of image numbers that are not whole and above 0, which a note names."""
    for name in (name for name in SIZES if name in points):
        sizes = pd.to_numeric(points[name], errors="coerce").astype(float)
        bad = sizes.notna() & ~((sizes >= 1) & (sizes < 1e12) & (sizes == np.round(sizes)))
        if bad.any():
            first = points[name][bad].iloc[0]
            remarks.note(f"{name}: {first} is no number of images: the column is not used", points.index[bad])
            points = points.drop(columns=name)
    return points


def is_mixture(weights: Mapping[str, object]) -> bool:
    """Return whether these are shares of sources: finite, none below 0, and one above it unless there is none at
    all."""
    values = list(weights.values())
    if not all(isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in values):
        return False
    return not values or any(float(w) > 0 for w in values if isinstance(w, int | float))


def _one_metric(frame: pd.DataFrame, tasks: pd.Series, remarks: Remarks) -> None:
    """Problems where rows of one task are scores of several metrics: no line goes through them."""
    if "metric" not in frame:
        return
    names = frame["metric"].map({text: _plain(text) for text in frame["metric"].unique()})
    for task, own in names.groupby(tasks, sort=False):
        given = own[own != ""]
        sizes = given.value_counts(sort=False)
        if len(sizes) > 1:
            shares = ", ".join(f"{quoted(name)} in {count_noun(count, 'row')}" for name, count in sizes.items())
            remarks.column(
                f"metric: {shares}{_of(task, tasks)}: scores of different metrics make no one line; keep one of them"
            )


def _check_tasks(frame: pd.DataFrame, remarks: Remarks) -> None:
    """Problems and notes about the column `task`: cells without a name among others, names that look alike."""
    if "task" not in frame:
        return
    names = frame["task"].map({text: normalise(text) for text in frame["task"].unique()})
    empty = names == ""
    if empty.any() and not empty.all():
        remarks.cells(names.index[empty], lambda _: "task: empty, though other rows name theirs")
    _note_alike("task", names, remarks)


def _levels(others: pd.DataFrame, reference: pd.Series, remarks: Remarks) -> None:
    """Levels of categories, and seeds, that look alike; levels without a name (the baseline needs none)."""
    for name in (name for name in (*CATEGORIES, "seed") if name in others):
        cells = others[name].map({text: normalise(text) for text in others[name].unique()})
        _note_alike(name, cells, remarks)
        empty = _missing(cells)
        rows = cells.index[empty & ~reference]
        if name in CATEGORIES and len(rows) and not empty[~reference].all():
            count = count_noun(len(rows), "row")
            remarks.note(f"{name}: empty in {count} beside others that have one: taken as a level of its own", rows)


def _steps(others: pd.DataFrame, remarks: Remarks) -> None:
    for name in (name for name in STEPS if name in others):
        empty = _missing(others[name])
        if empty.any() and not empty.all():
            rows = others.index[empty]
            remarks.note(f"{name}: empty in {count_noun(len(rows), 'row')}: not checked for points off the line",
                         rows)  # fmt: skip


def _missing(cells: pd.Series) -> pd.Series:
    return cells.map({text: is_missing(text) for text in cells.unique()}).astype(bool)


def _plain(text: str) -> str:
    return "" if is_missing(text) else re.sub(r"[\s-]+", "_", normalise(text)).casefold()


def _of(task: object, tasks: pd.Series) -> str:
    return f" of task {quoted(str(task))}" if len(tasks.unique()) > 1 else ""


def _note_alike(column: str, cells: pd.Series, remarks: Remarks) -> None:
    sizes = cells[cells != ""].value_counts(sort=False)
    for group in lookalikes(map(str, sizes.index)):
        named = " and ".join(f"{quoted(name)} ({count_noun(int(sizes[name]), 'row')})" for name in group)
        remarks.note(
            f"{column}: {named} look alike and are taken as different; they differ in {describe_difference(group)}"
        )


def _nearly_known(others: pd.DataFrame, frame: pd.DataFrame, remarks: Remarks) -> None:
    """Columns whose names are nearly those that the analysis knows."""
    for name in (name for name in others if name not in KNOWN):
        key = re.sub(r"[\s_-]+", "_", name).casefold()
        meant = OTHER_NAMES.get(key, key)
        if meant in KNOWN and meant not in frame and len(others[name].unique()) > 1:
            why = "rows of all its values make one line" if meant == "task" else "it is not used"
            remarks.note(f"column {quoted(name)} is not called {meant}: {why}; if that is what it holds, rename it")


def _inside_clusters(others: pd.DataFrame, names: pd.DataFrame, remarks: Remarks) -> None:
    """Factors that differ inside a cluster: the regression takes one value of each."""
    factors = [name for name in (*FACTORS, *CATEGORIES, "sources") if name in others and name not in WITHIN_TRIALS]
    if not factors or names["trial"].is_unique:
        return
    cluster = names.groupby(["task", "group", "trial"], sort=False).ngroup()
    given = others[factors].mask(others[factors] == "")
    varied = given.groupby(cluster).nunique().gt(1).sum()
    for name, count in varied[varied > 0].items():
        remarks.note(
            f"{name} differs inside {count_noun(int(count), 'cluster')}: in the regression over factors the first "
            "value stands for all rows of a cluster; does --cluster name one training?"
        )
