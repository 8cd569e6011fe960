"""The columns of results.csv and results.parquet: names, order, types, what sets them and what they mean.

The one list of them. Rows are checked against it before they are written, tables are built by it, and the table in
docs/results.md is made from it. A new column is an entry here and a value where it is set; a new metric is an entry in
`ray_robust.metrics` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ray_robust.metrics import CONFIDENCE_SCORES, METRICS

TRIAL, FINE_TUNING, EVALUATION = "trial", "fine-tuning", "evaluation"
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
AS_A = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
SCORE_SPLITS = {"id": "id_test", "ood": "ood_test"}  # score -> the split it is of


class SchemaError(ValueError):
    """Rows that the results cannot hold: an unknown column, or a value of another type."""


@dataclass(frozen=True)
class Column:
    """A column of the results; a cell may be empty in every one but `trial`, `group` and `status`.

    type     str, int, float or bool
    set_by   `TRIAL` (of the plan and the pre-training, the same in all rows of a trial), `FINE_TUNING` or `EVALUATION`
    meaning  for the documents, in Markdown
    """

    name: str
    type: type
    set_by: str
    meaning: str


_FIXED = (
    Column("trial", str, TRIAL, "the trial's id, and the name of its folder in `trials/`"),
    Column("group", str, TRIAL, "the level of what the sweep varies; that of the baseline is `scratch`"),
    Column(
        "status",
        str,
        TRIAL,
        "`done`; a `failed`, `stopped` or `damaged` trial is one row without scores; where some fine-tunings of a "
        "failed trial ended well, each other is such a row, beside their points",
    ),
    Column(
        "model",
        str,
        TRIAL,
        "name in timm; of a sweep with several sizes, precisions or stores of it with that: `resnet18[image_size=64]`",
    ),
    Column("seed", int, TRIAL, "of initial weights and the order of batches"),
    Column("subset_seed", int, TRIAL, "of the images drawn; empty without pre-training"),
    Column("num_images", int, TRIAL, "distinct pre-training images"),
    Column("num_classes", int, TRIAL, "classes that these are of"),
    Column("images_per_class", int, TRIAL, "as the spec says it; else empty"),
    Column("granularity", str, TRIAL, "level of the hierarchy that labels are of"),
    Column("semantics", str, TRIAL, "which classes were allowed"),
    Column("sources", str, TRIAL, "JSON: source to weight"),
    Column("pretrain_method", str, TRIAL, "`supervised`, `simclr`, `clip`, `weights` or `scratch`"),
    Column("pretrain_epochs", float, TRIAL, "passes over the pre-training images"),
    Column("pretrain_images_seen", int, TRIAL, "images seen in pre-training, with repetitions"),
    Column("upstream_accuracy", float, TRIAL, "accuracy on pre-training images that were held out"),
    Column("seconds_pretrain", float, TRIAL, "duration of the pre-training"),
    Column("finetune", str, FINE_TUNING, "a short id of the fine-tuning's settings"),
    Column("finetune_method", str, FINE_TUNING, "`full`, `linear`, ..."),
    Column("finetune_lr", float, FINE_TUNING, "learning rate"),
    Column("finetune_weight_decay", float, FINE_TUNING, "weight decay"),
    Column("finetune_images", int, FINE_TUNING, "images of the split `train` that were used"),
    Column("seconds_finetune", float, FINE_TUNING, "duration of the fine-tuning"),
    Column("task", str, FINE_TUNING, "name of the task, with what of it varies"),
    Column("epoch", int, EVALUATION, "epochs of fine-tuning until this evaluation"),
    Column("step", int, EVALUATION, "optimizer steps until this evaluation"),
    Column("metric", str, EVALUATION, "the task's metric, that of the next four columns"),
    Column("id_val", float, EVALUATION, "score on `id_val`"),
    Column("ood_val", float, EVALUATION, "score on `ood_val`"),
    Column("id", float, EVALUATION, "score on `id_test`"),
    Column("ood", float, EVALUATION, "score on `ood_test`"),
    Column("id_accuracy", float, EVALUATION, "accuracy on `id_test`"),
    Column("ood_accuracy", float, EVALUATION, "accuracy on `ood_test`"),
    Column("id_groups", int, EVALUATION, "groups in `id_test`; empty for a task without groups"),
    Column("ood_groups", int, EVALUATION, "groups in `ood_test`"),
    Column("id_images", int, EVALUATION, "images in `id_test`"),
    Column("ood_images", int, EVALUATION, "images in `ood_test`"),
)
_LAST = (
    Column(
        "wise_alpha", float, EVALUATION,
        "weight of the fine-tuned model in a mean of its weights and those that it began with, the probed ones "
        "(WiSE-FT); else empty",
    ),
    Column(
        "shift", str, EVALUATION,
        "which test `ood` is of: `ood`, the task's own, or one of `task.shifts`; `id:NAME` is one of `task.id_sets`; "
        "`id_val` and `ood_val` are the task's in all of them",
    ),
    Column(
        "shift_classes", int, EVALUATION,
        "classes that `id` and `ood` are over, where the shift has only some of the task's; else empty",
    ),
    Column("select", str, TRIAL, "which images of these classes were allowed; empty for all"),
    Column("dedupe", str, TRIAL, "which repeated images were left out; empty for none"),
    Column("label_noise", str, TRIAL, "share of pre-training labels that were made wrong; empty for none"),
    Column(
        "er_estimated", bool, EVALUATION,
        "true where the OOD test has no labels: `ood` is empty, and the analysis estimates it; else empty",
    ),
)  # fmt: skip


def columns() -> tuple[Column, ...]:
    """Return all columns, in order."""
    fixed = {column.name for column in _FIXED}
    labels = {name: entry.label for name, entry in METRICS.items()}
    labels |= {name: entry.label for name, entry in CONFIDENCE_SCORES.items()}
    scores = [
        Column(f"{side}_{name}", float, EVALUATION, f"{label} on `{split}`")
        for name, label in labels.items()
        for side, split in SCORE_SPLITS.items()
        if f"{side}_{name}" not in fixed
    ]
    return (*_FIXED, *scores, *_LAST)


def names(*set_by: str) -> tuple[str, ...]:
    """Return the columns' names in order: all, or those that are set by one of these."""
    return tuple(column.name for column in columns() if not set_by or column.set_by in set_by)


def check(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise SchemaError where a row has a column that is not in the schema, or a value of another type. Columns may be
    missing, and values None."""
    types = {column.name: column.type for column in columns()}
    wrong: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if name not in types:
                wrong[_unknown(name)] = None
            elif not _fits(value, types[name]):
                wrong[f"column {name}: must be {AS_A[types[name]]}, not {value!r}"] = None
    if wrong:
        raise SchemaError("; ".join(wrong))


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table with all columns, whole numbers as Int64, other numbers as float64, true and false as
    boolean; what a row lacks is empty. Raises SchemaError for a column that is not in the schema, or text where a
    number belongs."""
    unknown = set().union(*rows) - set(names())
    if unknown:
        raise SchemaError("; ".join(map(_unknown, sorted(unknown))))
    table = pd.DataFrame(rows, columns=list(names()))
    for column in columns():
        if column.type is bool:
            table[column.name] = table[column.name].astype("boolean")
        elif column.type is not str:
            try:
                numbers = pd.to_numeric(table[column.name])
                table[column.name] = numbers.astype("Int64" if column.type is int else "float64")
            except (TypeError, ValueError) as error:
                raise SchemaError(f"column {column.name}: must be {AS_A[column.type]} ({error})") from None
    return table


def markdown() -> str:
    """Return the table of docs/results.md."""
    fixed = {column.name for column in (*_FIXED, *_LAST)}
    lines = ["| column | type | set by | meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {TYPES[c.type]} | {c.set_by} | {c.meaning} |" for c in columns() if c.name in fixed]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    return f"column {name}: not in ray_robust.run.results_schema"


def _fits(value: Any, kind: type) -> bool:
    if value is None:
        return True
    if kind is str or kind is bool or isinstance(value, bool):
        return kind in (str, bool) and isinstance(value, kind)
    return isinstance(value, int) or (kind is float and isinstance(value, float))
