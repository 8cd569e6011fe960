"""Several runs as one table: the same trial counted once, groups that mean the same merged, differences reported.

Owns the rules of joining. Every run is read by itself (`run_points.read_run`); nothing else here reads but specs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.input import run_counts
from analysis.input.run_points import read_run
from analysis.input.table import Table
from analysis.options import Options
from ray_robust.errors import Problem, UserError
from ray_robust.run.interim import of_several

MEANING = ("model", "num_images", "num_classes", "images_per_class", "granularity", "semantics", "sources",
           "pretrain_method", "pretrain_images_seen", "wise_alpha")  # fmt: skip
POINT = ("key", "task", "finetune", "epoch", "wise_alpha")
SAME_SCORE = 1e-9  # by which a score may differ and be the same
PLACES = {"root", "path", "images", "archive"}  # where data lies is no part of what a task means


def read_runs(addresses: Sequence[str]) -> tuple[Table, Options]:
    """Return several runs as one table (see `join`), of one address that run, and its options. Raises UserError, also
    where the runs are not of one task, metric, scale and baseline."""
    parts, problems = [], list[Problem]()
    for address in addresses:
        try:
            parts.append((address, *read_run(address)))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return join(parts) if len(parts) > 1 else parts[0][1:]


def join(parts: Sequence[tuple[str, Table, Options]]) -> tuple[Table, Options]:
    """Return one table of all runs (address, table, options), and the options that hold for it.

    A trial is known by the key at the end of its id, which hashes what it means: rows of the same point are kept from
    the first run that has them. Groups are told apart by what their trials were pre-trained on, not by name: a name
    that means something else in another run gets that run's name behind it. The strictest margin and floor hold.
    Raises UserError where the runs are not of the same task, metric, or baseline.
    """
    first_address, first, options = parts[0]
    problems = [
        p for address, table, own in parts[1:] for p in _differences(first_address, first, options, address, table, own)
    ]
    if problems:
        raise UserError(*problems)
    names = _run_names([table.name for _, table, _ in parts])
    warnings = [f"{name}: {w}" for name, (_, table, _) in zip(names, parts, strict=True) for w in table.warnings]
    frames, labels = [], dict[tuple, str]()
    for number, (name, (_, table, _)) in enumerate(zip(names, parts, strict=True)):
        renamed = _renamed(table.points, name, options.baseline, labels)
        points = table.points.assign(
            group=table.points["group"].map(renamed), run=number, key=table.points["trial"].map(_key)
        )
        frames.append(points)
    every = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    keys = [column for column in POINT if column in every]
    again = every.duplicated(keys)
    points = every.loc[~again].reset_index(drop=True)
    points["trial"] = points["key"].map(points.drop_duplicates("key").set_index("key")["trial"])
    if again.any():
        warnings.append(f"{int(again.sum())} points are in more than one run and count once")
        warnings += _other_scores(every, keys)
    warnings += _about_baselines(names, frames, options)
    warnings += [
        f"{what} is {value:g}, the strictest of the runs"
        for what, value in (("margin", min(o.margin for *_, o in parts)), ("min_r2", max(o.min_r2 for *_, o in parts)))
        if len({getattr(o, what) for *_, o in parts}) > 1
    ]
    options = replace(options, margin=min(o.margin for *_, o in parts), min_r2=max(o.min_r2 for *_, o in parts))
    left_out = pd.concat([table.left_out for _, table, _ in parts], ignore_index=True)
    left_out = left_out.loc[~left_out["trial"].map(_key).isin(points["key"])].drop_duplicates("trial")
    runs = tuple(run for _, table, _ in parts for run in table.runs)
    columns = tuple(dict.fromkeys(key for _, table, _ in parts for key in table.keys))
    joined = replace(
        first, name=" + ".join(names), points=points.drop(columns="key"), keys=columns,
        left_out=left_out.reset_index(drop=True), warnings=tuple(dict.fromkeys(warnings)), runs=runs,
        counts=partial(run_counts.read, runs),
        interim=of_several([(name, table.interim) for name, (_, table, _) in zip(names, parts, strict=True)]),
    )  # fmt: skip
    return joined, options


def _differences(
    first_address: str, first: Table, options: Options, address: str, table: Table, own: Options
) -> list[Problem]:
    """Why a run cannot be joined with the first one."""
    problems = []
    for what, here, there in (
        ("baseline", {own.baseline}, {options.baseline}),
        ("scale", {own.scale}, {options.scale}),
        ("metric", set(table.points["metric"]), set(first.points["metric"])),
        ("task", set(table.points["task"]), set(first.points["task"])),
    ):
        if here and there and here != there:
            sides = [", ".join(sorted(map(str, names))) for names in (here, there)]
            text = f"its {what} is {sides[0]}, that of {first_address} is {sides[1]}: no join"
            problems.append(Problem(address, text))
    if not problems and table.run and first.run:
        tasks = [_task_of(run.spec()) for run in (table.run, first.run)]
        for key in sorted(set(tasks[0]) | set(tasks[1])):
            own_value, value = tasks[0].get(key), tasks[1].get(key)
            if own_value != value:
                problems.append(
                    Problem(
                        address, f"its task has {key}: {own_value}, that of {first_address} has {key}: {value}: no join"
                    )
                )
    return problems


def _key(trial: str) -> str:
    """What a trial means, as the hash at the end of its id."""
    return trial.rpartition("-")[2]


def _task_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec's task means: its keys but those that say where its data lies."""
    task = spec.get("task") or {}
    return {key: value for key, value in task.items() if key not in PLACES} if isinstance(task, Mapping) else {"": task}


def _run_names(names: Sequence[str]) -> list[str]:
    """Names of the runs, made different by a number where two are called the same."""
    return [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]


def _renamed(points: pd.DataFrame, run: str, baseline: str, labels: dict[tuple, str]) -> dict[str, str]:
    """Group of this run -> its name in the joined table. `known` maps meanings to names and grows."""
    renamed = {}
    columns = [column for column in MEANING if column in points]
    for group, rows in points.groupby("group", sort=False):
        meaning = (
            group == baseline,
            *sorted(set(_text(rows[columns]).itertuples(index=False, name=None))),
        )
        if group == baseline:
            renamed[group] = baseline
            continue
        if meaning not in labels:
            labels[meaning] = str(group) if group not in labels.values() else f"{group} ({run})"
        renamed[group] = labels[meaning]
    return renamed


def _text(rows: pd.DataFrame) -> pd.DataFrame:
    """Cells as text, empty where nothing is known, whatever the columns' types."""
    return rows.astype(object).where(rows.notna(), "").astype(str)


def _other_scores(points: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """A sentence where the same point has other scores in another run: one of them is not what its trial says, or was
    trained on another machine."""
    apart = points.groupby(list(keys), sort=False, dropna=False)[["id", "ood"]].agg(np.ptp).max(axis=1)
    other = apart > SAME_SCORE
    if not other.any():
        return []
    return [
        f"{int(other.sum())} of them score otherwise in another run, by up to {100 * apart.max():.1f} points, although "
        "their trials mean the same: the scores of the run named first are used"
    ]


def _about_baselines(names: Sequence[str], frames: Sequence[pd.DataFrame], options: Options) -> list[str]:
    """What differs between the baselines that make one line, as sentences."""
    notes = []
    own = [frame.loc[frame["group"] == options.baseline] for frame in frames]
    for column, what in (("model", "models"), ("finetune", "fine-tunings")):
        sets = [set(frame[column].astype(str)) for frame in own if column in frame and len(frame)]
        if len({frozenset(s) for s in sets}) > 1:
            notes.append(f"the baselines of {' and '.join(names)} have other {what}: one line is fitted on all of them")
    return notes
