"""The input of an analysis: points from a run folder or from any CSV, checked, with what was left out and why.

Owns `Table` and `Options`, and every mistake a user can make in a table: all of them at once, with file, line, column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.input import dependence, join_runs, named_columns, run_counts
from analysis.input.columns import (
    Roles,
    check_baseline,
    check_columns,
    extra_columns,
    parse_scores,
    role_names,
    score_columns,
    tidy,
)
from analysis.input.copies import across_groups, same_columns, same_scores, without_copies
from analysis.input.csv_file import CsvFile, Remarks
from analysis.options import Options
from analysis.stats.group_jackknife import Counts
from analysis.stats.trend import SCALES
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_folder import RERUN
from ray_robust.text.names import shown

RUN_KEYS = ("trial", "group", "model", "seed", "subset_seed", "num_images", "num_classes", "images_per_class",
            "granularity", "sources", "finetune", "finetune_lr", "epoch", "step", "metric")  # fmt: skip
RESERVED = {"id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated", "group", "trial", "task", "status"}


@dataclass(frozen=True, eq=False)
class Table:
    """Points with finite scores in 0..1, one per row, and what is known about them.

    points    columns trial (the cluster), group, task, id, ood, [id_val, ood_val], and `keys`
    keys      the columns that say which point a row is, in order; they lead robustness.csv
    left_out  rows without scores: trial, group, task, reason
    warnings  one sentence each
    runs      the run folders that the points come from, none for a plain table
    counts    points -> (Counts per side or None, sentences): what they predicted per group, where a run keeps it
    """

    name: str
    points: pd.DataFrame
    keys: tuple[str, ...]
    left_out: pd.DataFrame
    warnings: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()
    counts: Callable[[pd.DataFrame], tuple[dict[str, Counts] | None, list[str]]] | None = None

    @property
    def run(self) -> RunFolder | None:
        """The run folder, of several the first."""
        return self.runs[0] if self.runs else None


def read_run(address: str) -> tuple[Table, Options]:
    """A finished or partial run, with the options that its spec set beforehand. Raises UserError where it is no run."""
    run = RunFolder(address)
    spec, results = run.spec(), run.results()
    if not spec and not run.exists("plan.csv"):
        raise UserError(Problem(address, "no run folder: it has neither spec.yaml nor plan.csv"))
    asked = spec.get("analysis") or {}
    baseline = spec.get("baseline", "scratch")
    options = Options(baseline=str(baseline.get("name", "scratch") if isinstance(baseline, dict) else baseline))
    known = {key: asked[key] for key in ("scale", "margin", "min_r2") if asked.get(key) is not None}
    scores = results[["id", "ood"]].notna().all(axis=1)
    missing = results.loc[~scores | results["status"].isin(["failed", "damaged"])]
    reasons = {name: _reason(run, name) for name in missing["trial"].unique()}
    left_out = missing[["trial", "group", "task"]].assign(reason=missing["trial"].map(reasons))
    points = results.loc[results.index.difference(missing.index)].reset_index(drop=True)
    points["task"] = points["task"].fillna("task").astype(str)
    points["group"] = points["group"].astype(str)
    warnings = [
        f"{pool['kind']} {pool['name']}: {warning}"
        for pool in run.data().get("pools", ())
        for warning in (*pool.get("warnings", ()), *_of_identity(pool))
    ]
    states = pd.Series(run.states(), dtype=object)
    warnings += [f"{name} is left out: {damage}; {RERUN}" for name in states.index[states == "damaged"]
                 if (damage := run.trial(name).damage())]  # fmt: skip
    warnings += run.altered()
    unfinished = int(states.isin(["planned", "started"]).sum())
    if unfinished:
        warnings.append(f"{unfinished} of {len(states)} trials have not finished yet: this is a partial run")
    warnings += _of_weights(run, results)
    keys = tuple(key for key in RUN_KEYS if key in points)
    keys += ("wise_alpha",) if points["wise_alpha"].notna().any() else ()
    name = run.storage.shown.rstrip("/").rpartition("/")[2]
    found = Table(name, points, keys, left_out, tuple(warnings), (run,), partial(run_counts.read, (run,)))
    return found, replace(options, **known)


def identity_of(pool: Mapping[str, Any]) -> str:
    """What the ids of a pool's images in data.json are of: `recipe`, `content`, or of file pools of a run that was made
    before contents were looked at, `names and sizes`."""
    made = str(pool.get("licence", "")).startswith(("rendered by this project", "made by "))
    return str(pool.get("identity") or ("recipe" if made else "names and sizes"))


def _of_identity(pool: Mapping[str, Any]) -> list[str]:
    if identity_of(pool) != "names and sizes":
        return []
    return ["its images were told apart by their names and sizes, not by what they contain, in this run of an earlier "
            "version: other images with the same names and sizes would have passed for them"]  # fmt: skip


def _of_weights(run: RunFolder, results: pd.DataFrame) -> list[str]:
    """What trials that began from ready-made weights have to warn of, each once with the number of its trials."""
    names = results.loc[results["pretrain_method"] == "weights", "trial"].unique()
    said = [warning for name in names
            for warning in (run.trial(name).storage.recall_json("trial.json") or {}).get("warnings", ())]  # fmt: skip
    return [f"{count} trial{'s' if count > 1 else ''}: {warning}" for warning, count in Counter(said).items()]


def read_runs(addresses: Sequence[str]) -> tuple[Table, Options]:
    """Several runs as one table (see `analysis.joined`), of one address that run. Raises UserError, also where the runs
    are not of one task, metric, scale and baseline."""
    parts, problems = [], list[Problem]()
    for address in addresses:
        try:
            parts.append((address, *read_run(address)))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return join_runs.join(parts) if len(parts) > 1 else parts[0][1:]


def _reason(run: RunFolder, name: str) -> str:
    """Why a trial has no scores, as its folder says."""
    folder = run.trial(name)
    if damage := folder.damage():
        return f"damaged: {damage}"
    return (folder.failure() or folder.stopped() or {}).get("reason", "no scores")


def read_csv(
    file: str,
    *,
    id: str | Sequence[str],
    ood: str,
    group: str,
    options: Options,
    cluster: str | None = None,
    percent: bool = False,
    units: Mapping[str, str] | None = None,
) -> Table:
    """Any CSV of ID and OOD scores: columns by name, each row its own cluster unless `cluster` names a column.

    Several columns in `id` are several ID sets, those that `options.id_names` says; their scores become id_1, id_2, ...
    and `id` their mean, until the baseline's plane says how they count (`placed.transformed`). `units` declares columns
    as "percent" or "fraction" whatever `percent` says. Rows with an empty score are left out and listed; copies count
    once; what was read otherwise than it stands is a warning. Everything that is no score, no name, or not in its unit
    raises UserError, all of it at once; so does a column that says which rows belong together while `cluster` is None
    (see `analysis.dependence`; "none" says that rows are independent).
    """
    roles = Roles.of(id, ood, group, None if cluster == dependence.INDEPENDENT else cluster)
    units = dict(units or {})
    source = CsvFile(file, [name for _, name in roles.asked])
    remarks = Remarks(source)
    check_columns(roles, units, remarks)
    if source.frame.empty and not remarks.problems:
        remarks.table("the table has a header but no rows")
    remarks.refuse()
    frame = without_copies(tidy(source.frame, remarks), remarks)
    remarks.cells(source.short.intersection(frame.index), lambda _: "fewer cells than the header has columns")
    parsed = parse_scores(frame, roles.scores, remarks)
    names = role_names(frame, roles, options.baseline, remarks)
    scores = score_columns(parsed, roles.scores, names["group"], percent, units, remarks)
    same_columns(scores, roles.scores, names["group"], options.baseline, remarks)
    check_baseline(names["group"], roles.group, scores, options.baseline, options.id_min, remarks)
    named_columns.check(frame, names, roles, options.baseline, remarks)

    others = frame.drop(columns=list(dict.fromkeys([*roles.used, *(["task"] if "task" in frame else [])])))
    lost = [name for name in others if name in RESERVED]
    if lost:
        remarks.note(f"not in the report's tables, which have columns of these names: {', '.join(lost)}")
    kept = others.drop(columns=[name for name in others if name in RESERVED | {*roles.scores}])
    kept = extra_columns(kept, {"id_val": roles.ids[0], "ood_val": roles.ood}, percent, units, remarks)
    points = names.join(kept).assign(**scores)
    if len(roles.ids) > 1:
        points["id"] = points[[key for key in roles.scores if key != "ood"]].mean(axis=1, skipna=False)
    empty = points[["id", "ood"]].isna().any(axis=1)  # `id` is empty where one of several ID scores is
    left_out = points.loc[empty, ["trial", "group", "task"]].assign(reason="no score in the table")
    points = points.loc[~empty]
    points = points.assign(trial=same_scores(points, list(roles.scores), roles.cluster is not None, remarks))
    across_groups(points, list(roles.scores), remarks)
    dependence.ask_for_clusters(points, others.loc[points.index], cluster, remarks)
    remarks.refuse()
    points = _over_floor(points.reset_index(drop=True), options.id_min, remarks)
    if roles.cluster and points[["trial", "group"]].drop_duplicates()["trial"].duplicated().any():
        remarks.note("some clusters lie in several groups; they count in each group as if independent")
    keys = ("trial", "group", *kept) if roles.cluster else ("group", *kept)
    return Table(Path(file).stem, points, keys, left_out, tuple(remarks.notes))


def _over_floor(points: pd.DataFrame, id_min: float | None, remarks: Remarks) -> pd.DataFrame:
    if id_min is None:
        return points
    below = points["id"] < id_min
    remarks.note(f"{int(below.sum())} points with an ID score under {id_min:.1%} were left out, as asked")
    gone = [name for name in points["group"].unique() if below[points["group"] == name].all()]
    if gone:
        remarks.note(f"{', '.join(map(shown, gone))}: no point is left")
    return points.loc[~below].reset_index(drop=True)


def check_options(options: Options, where: str = "") -> list[Problem]:
    """What is wrong with the options themselves."""
    problems = []
    if options.scale not in SCALES:
        problems.append(Problem(where, f"--scale: {options.scale!r} is no scale{did_you_mean(options.scale, SCALES)}"))
    if not options.margin > 0 or not np.isfinite(options.margin):
        problems.append(Problem(where, f"--margin: {options.margin:g} is not a positive number of percentage points"))
    if options.id_min is not None and not 0 <= options.id_min < 1:
        problems.append(Problem(where, "--id-min: the floor does not lie within the scores' range"))
    return problems
