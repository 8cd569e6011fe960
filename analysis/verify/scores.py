"""The scores of a trial made again from its predictions, and compared with those in its rows.

Accuracies, F1 and their counts per test group follow from predictions exactly. The calibration error does not: the
probabilities were rounded when they were kept. The official worst group of some WILDS tasks leaves groups out that no
file of a run names, so there the score need only be that of one of the groups.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.input.run_counts import CELLS
from ray_robust.metrics import METRICS, SplitCounts, group_counts, tally
from ray_robust.run.shifts import OWN, tests_of
from ray_robust.run.trial_folder import TrialFolder

SAME = 1e-9  # by which a score may differ and be the same
VALIDATION = {"id_val": "id_val", "ood_val": "ood_val"}  # column of the metric -> split
OF_COUNTS = ["split", "group", "class"]


def differences(folder: TrialFolder, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield what of a trial's rows and counts does not follow from its predictions: a file of the trial, and what is
    wrong with it. `rows` are those of its points."""
    by_finetuning: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_finetuning.setdefault(str(row["finetune"]), []).append(row)
    for name, own in by_finetuning.items():  # a point has a row for each shift
        predictions = _parquet(folder, f"predictions/{name}.parquet")
        if predictions is None:
            yield f"predictions/{name}.parquet", "is missing or cannot be read: scores cannot be made again from it"
            continue
        counts = _parquet(folder, f"groups/{name}.parquet")
        for row in own:
            look = _look(row)
            if f"epoch_{look}" not in predictions:
                yield f"predictions/{name}.parquet", f"has no predictions of epoch {look}, which rows.jsonl has"
                continue
            made = _scores(predictions, row)
            for column, wanted in made.items():
                if column in row and not _is_one_of(row[column], wanted):  # an earlier version had fewer metrics
                    given = f"{wanted[0]:.6g}"
                    yield (
                        "rows.jsonl",
                        f"{column} of {name} at epoch {look} is {row[column]}; predictions give {given}",
                    )
            if row.get("shift", OWN) == OWN and counts is not None and not _same_counts(counts, predictions, row):
                yield f"groups/{name}.parquet", f"its counts at epoch {look} are not those of the predictions"


def _parquet(folder: TrialFolder, name: str) -> pd.DataFrame | None:
    data = folder.storage.recall(name)
    try:
        return None if data is None else pd.read_parquet(io.BytesIO(data))
    except (ValueError, OSError):  # pyarrow's, for a file that was cut short
        return None


def _look(row: Mapping[str, Any]) -> str:
    """What a point's columns of predictions are called."""
    alpha = row.get("wise_alpha")
    return f"{int(row['epoch'])}" + ("" if alpha is None else f"_wise_{alpha:g}")


def _scores(predictions: pd.DataFrame, row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return column -> the scores that it may have, of a point's row."""
    made: dict[str, list[float]] = {}
    metric, tests = str(row["metric"]), tests_of(str(row.get("shift", OWN)), row.get("shift_classes") is not None)
    for side, split in {**VALIDATION, **tests}.items():
        own = predictions.loc[predictions["split"] == split]
        if own["label"].isna().any() or own.empty:  # it has no labels, or no images
            made[side] = [np.nan]
            continue
        counted = _counted(own, f"epoch_{_look(row)}")
        names = {side: metric} if side in VALIDATION else {side: metric, **{f"{side}_{m}": m for m in METRICS}}
        for column, name in names.items():
            if name in METRICS:
                made[column] = [METRICS[name].score(counted)]
                if name == "worst_group" and counted.group_hits is not None and counted.group_images is not None:
                    there = counted.group_images > 0
                    made[column] += list(counted.group_hits[there] / counted.group_images[there])
        if side not in VALIDATION:
            made[f"{side}_images"] = [float(counted.images)]
    return made


def _counted(rows: pd.DataFrame, column: str) -> SplitCounts:
    truth, guess, _ = _classes(rows, column)
    groups = rows["group"].cat.codes.to_numpy(np.int64) if "group" in rows else None
    return tally(truth, guess, groups)


def _classes(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """Return labels and guesses as numbers of the same classes, and the classes' names."""
    label, guess = (rows[name].astype(str) for name in ("label", column))
    classes = pd.Index(sorted(set(label) | set(guess)))
    return classes.get_indexer(label), classes.get_indexer(guess), classes


def _is_one_of(value: Any, wanted: Sequence[float]) -> bool:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return bool(np.isnan(wanted[0]))
    return any(abs(float(value) - one) <= SAME for one in wanted)


def _same_counts(counts: pd.DataFrame, predictions: pd.DataFrame, row: Mapping[str, Any]) -> bool:
    """Return whether the counts per test group of a point are those of its predictions."""
    alpha, look = row.get("wise_alpha"), _look(row)
    own = counts.loc[counts["epoch"] == int(row["epoch"])]
    if "wise_alpha" in own:
        own = own.loc[own["wise_alpha"].isna() if alpha is None else own["wise_alpha"] == alpha]
    parts = []
    for split, rows in predictions.groupby("split", observed=True):
        if rows["label"].isna().any():
            continue
        truth, guess, classes = _classes(rows, f"epoch_{look}")
        groups = rows["group"].cat
        made = pd.DataFrame(group_counts(truth, guess, groups.codes.to_numpy(np.int64)))
        names = {"group": groups.categories.astype(str)[made["group"]], "class": classes[made["class"]]}
        parts.append(made.assign(split=str(split), **names))
    made, kept = (
        table.astype(dict.fromkeys(OF_COUNTS, str)).sort_values(OF_COUNTS)[[*OF_COUNTS, *CELLS]].reset_index(drop=True)
        for table in (pd.concat(parts, ignore_index=True), own)
    )
    return made.astype(dict.fromkeys(CELLS, np.int64)).equals(kept.astype(dict.fromkeys(CELLS, np.int64)))
