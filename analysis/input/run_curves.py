"""Learning curves of a run, from trials/<id>/curves/*.json, and what its pre-trainings' upstream accuracy rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from ray_robust.run.learning_curve import LearningCurve
from ray_robust.run.run_folder import RunFolder

PRETRAIN = "pretrain"
MOST_IMAGES = 2**40  # that any count can be: facts of earlier versions have no checksums
UPSTREAM = ("trial", "group", "method", "accuracy", "images", "labels", "largest")
CURVES = ("trial", "group", "training", "stage", "step", "images_seen", "epoch", "loss", "lr", "held_out_accuracy")


def trials_of(runs: Sequence[RunFolder], points: pd.DataFrame) -> Iterator[tuple[RunFolder, pd.Series]]:
    """Yield the run of every trial and the first of its points."""
    for _, row in points.drop_duplicates(["trial", "group"]).iterrows():
        yield runs[int(row["run"]) if "run" in row else 0], row


def upstream(runs: Sequence[RunFolder], points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pre-trained trial with an upstream accuracy: columns `UPSTREAM`.

    images   held-out images that it is the accuracy on; NaN where an earlier version did not record them
    largest  the share of the most frequent label, among them or else among the training images
    """
    rows = []
    for run, row in trials_of(runs, points):
        accuracy = row.get("upstream_accuracy")
        if accuracy is None or not 0 <= accuracy <= 1:  # NaN among them
            continue
        facts = run.trial(str(row["trial"])).storage.recall_json("trial.json") or {}
        labels = facts.get("labels")
        sizes = [n for n in labels.values() if _is_count(n)] if isinstance(labels, dict) else []
        held_out = _held_out(facts.get("held_out"))
        images, largest = held_out or (math.nan, max(sizes) / sum(sizes) if sum(sizes) else math.nan)
        rows.append((str(row["trial"]), str(row["group"]), str(row.get("pretrain_method", "")), float(accuracy),
                     images, float(len(sizes)) if sizes else math.nan, largest))  # fmt: skip
    return pd.DataFrame(rows, columns=list(UPSTREAM))


def _held_out(facts: object) -> tuple[float, float] | None:
    """How many images are held out, and the share of the most frequent label among them; None where not recorded."""
    own = facts if isinstance(facts, dict) else {}
    images, most = own.get("images"), own.get("most_per_label")
    return (float(images), most / images) if _is_count(images) and _is_count(most) and most <= images else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= MOST_IMAGES


def curves(
    runs: Sequence[RunFolder], points: pd.DataFrame
) -> tuple[dict[str, tuple[str, LearningCurve]], pd.DataFrame, int]:
    """Return the curve of every pre-training by trial, with its group; all curves as a table, columns `CURVES`, of
    pre-trainings and of the fine-tunings that `points` are of; and how many trainings have none."""
    pretraining: dict[str, tuple[str, LearningCurve]] = {}
    tables, missing = list[dict[str, Any]](), 0
    finetunings = dict(points.groupby(["trial", "group"], sort=False)["finetune"].unique())
    for run, row in trials_of(runs, points):
        trial, group = str(row["trial"]), str(row["group"])
        trained = row.get("pretrain_images_seen")
        names = [PRETRAIN] if trained is not None and pd.notna(trained) and trained > 0 else []
        for name in [*names, *map(str, finetunings[row["trial"], row["group"]])]:
            recorded = run.trial(trial).curves(name)
            if recorded is None:
                missing += 1
                continue
            if name == PRETRAIN and recorded:
                pretraining[trial] = group, recorded[0]
            tables += [{**_columns(one), "trial": trial, "group": group, "training": name} for one in recorded]
    return pretraining, _joined(tables), missing


def _columns(curve: LearningCurve) -> dict[str, Any]:
    """The numbers of a curve at every step where there is one, [n] each, and its stage."""
    recorded, held_out = (np.asarray(steps, np.int64) for steps in (curve.step, curve.held_out_step))
    step = np.union1d(recorded, held_out)

    def at(steps: np.ndarray, values: Sequence[float | None]) -> np.ndarray:
        filled = np.full(len(step), np.nan)
        filled[np.searchsorted(step, steps)] = np.array(values, float)
        return filled

    seen = step * curve.batch_size
    return {"stage": curve.stage, "step": step, "images_seen": seen, "epoch": seen / max(1, curve.images),
            "loss": at(recorded, curve.loss), "lr": at(recorded, curve.lr),
            "held_out_accuracy": at(held_out, curve.held_out_accuracy)}  # fmt: skip


def _joined(tables: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One table of all curves, columns `CURVES`, made once: a data frame of each takes longer than its numbers."""
    filled = [table for table in tables if len(table["step"])]
    if not filled:
        return pd.DataFrame(columns=list(CURVES))
    lengths = [len(table["step"]) for table in filled]
    columns = {
        name: np.concatenate([table[name] for table in filled]) if isinstance(filled[0][name], np.ndarray)
        else np.repeat(np.array([table[name] for table in filled], object), lengths)
        for name in CURVES
    }  # fmt: skip
    return pd.DataFrame(columns)
