"""The input of an analysis: points from a run folder or from any CSV, checked, with what was left out and why.

Owns `Table` and `Options`, and every mistake a user can make in a table: all of them at once, with file, line, column.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import counts, joined
from analysis.groups import Counts
from analysis.trend import MIN_POINTS, SCALES
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.results import RunFolder

RUN_KEYS = ("trial", "group", "model", "seed", "subset_seed", "num_images", "num_classes", "images_per_class",
            "granularity", "sources", "finetune", "finetune_lr", "epoch", "step", "metric")  # fmt: skip
RESERVED = {"id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated", "group", "trial", "task", "status"}
SHOWN = 3  # of the same mistake in many cells, this many are listed, the rest counted


@dataclass(frozen=True)
class Options:
    """What is decided before looking: the baseline group, the scale of the trend, the margin of "no effect" in
    percentage points, the floor of R^2 under which no ER is given, the lowest ID score that enters (or None), and what
    one cluster is called. With several ID sets (of a plain table) `id_names` are the user's names of their columns."""

    baseline: str
    scale: str = "probit"
    margin: float = 2.0
    min_r2: float = 0.8
    id_min: float | None = None
    unit: str = "trial"
    replicates: int = 2_000
    seed: int = 0
    id_names: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The columns of the ID scores: `id`, of several sets `id_1`, `id_2`, ..."""
        return ("id",) if len(self.id_names) < 2 else tuple(f"id_{i + 1}" for i in range(len(self.id_names)))

    @property
    def axes(self) -> tuple[str, ...]:
        """The columns of the transformed ID scores."""
        return ("x",) if len(self.ids) == 1 else tuple(f"x_{name}" for name in self.ids)


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
    missing = results.loc[~scores | (results["status"] == "failed")]
    reasons = {name: _reason(run, name) for name in missing["trial"].unique()}
    left_out = missing[["trial", "group", "task"]].assign(reason=missing["trial"].map(reasons))
    points = results.loc[results.index.difference(missing.index)].reset_index(drop=True)
    points["task"] = points["task"].fillna("task").astype(str)
    points["group"] = points["group"].astype(str)
    warnings = [
        f"{pool['kind']} {pool['name']}: {warning}"
        for pool in run.data().get("pools", ())
        for warning in pool.get("warnings", ())
    ]
    states = pd.Series(run.states(), dtype=object)
    unfinished = int(states.isin(["planned", "started"]).sum())
    if unfinished:
        warnings.append(f"{unfinished} of {len(states)} trials have not finished yet: this is a partial run")
    warnings += _of_weights(run, results)
    keys = tuple(key for key in RUN_KEYS if key in points)
    keys += ("wise_alpha",) if points["wise_alpha"].notna().any() else ()
    name = run.storage.shown.rstrip("/").rpartition("/")[2]
    found = Table(name, points, keys, left_out, tuple(warnings), (run,), partial(counts.read, (run,)))
    return found, replace(options, **known)


def _of_weights(run: RunFolder, results: pd.DataFrame) -> list[str]:
    """What trials that began from ready-made weights have to warn of, each once with the number of its trials."""
    names = results.loc[results["pretrain_method"] == "weights", "trial"].unique()
    said = [warning for name in names
            for warning in (run.trial(name).storage.read_json("trial.json") or {}).get("warnings", ())]  # fmt: skip
    return [f"{count} trial{'s' if count > 1 else ''}: {warning}" for warning, count in Counter(said).items()]


def read_runs(addresses: Sequence[str]) -> tuple[Table, Options]:
    """Several runs as one table (see `analysis.joined`), of one address that run. Raises UserError, also where the runs
    are not of one task, metric, scale and baseline."""
    parts, problems = [], []
    for address in addresses:
        try:
            parts.append((address, *read_run(address)))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return joined.join(parts) if len(parts) > 1 else parts[0][1:]


def _reason(run: RunFolder, name: str) -> str:
    """Why a trial has no scores, as its folder says."""
    folder = run.trial(name)
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
) -> Table:
    """Any CSV of ID and OOD scores: columns by name, each row its own cluster unless `cluster` names a column.

    Several columns in `id` are several ID sets, those that `options.id_names` says; their scores become id_1, id_2, ...
    and `id` their mean, until the baseline's plane says how they count (`placed.transformed`). Rows with an empty score
    are left out and listed; anything else that is no score raises UserError.
    """
    frame = _load(file)
    ids = [id] if isinstance(id, str) else list(id)
    columns = [*(("--id", name) for name in ids), ("--ood", ood), ("--group", group)]
    columns += [("--cluster", cluster)] if cluster else []
    problems = [
        Problem(f"{file}:1", f"{flag}: no column {name!r}{did_you_mean(name, frame.columns)}")
        for flag, name in columns
        if name not in frame
    ]
    problems += [
        Problem(file, f"--id: {name!r} is given twice") for name in sorted({n for n in ids if ids.count(n) > 1})
    ]
    doubled = sorted({name for _, name in columns if list(frame.columns).count(name) > 1})
    problems += [Problem(f"{file}:1", f"column {name!r} appears twice") for name in doubled]
    if problems:
        raise UserError(*problems)
    if frame.empty:
        raise UserError(Problem(file, "the table has a header but no rows"))
    where = _Places(file)
    sides = [
        *zip(["id"] if len(ids) == 1 else [f"id_{i + 1}" for i in range(len(ids))], ids, strict=True),
        ("ood", ood),
    ]
    scores = {key: _scores(frame[name], name, percent, where, problems) for key, name in sides}
    if len(ids) > 1:
        scores["id"] = pd.concat([scores[key] for key, _ in sides[:-1]], axis=1).mean(axis=1, skipna=False)
    for name in {group, *([cluster] if cluster else [])}:
        where.say(problems, frame.index[frame[name].str.strip() == ""], lambda _, name=name: f"{name}: empty")
    problems += _baseline_problems(file, frame[group], group, scores, options)
    if problems:
        raise UserError(*problems)

    keep = [
        name for name in dict.fromkeys(frame.columns) if name not in RESERVED | {*scores, *ids, ood, group, cluster}
    ]
    points = frame[keep].copy()
    points.insert(0, "trial", frame[cluster] if cluster else "row " + (frame.index + 2).astype(str))
    points.insert(1, "group", frame[group])
    points = points.assign(**scores, task=frame.get("task", "task"))
    for extra in ("id_val", "ood_val"):
        if extra in points:
            points[extra] = pd.to_numeric(points[extra], errors="coerce") / (100 if percent else 1)
    empty = points[["id", "ood"]].isna().any(axis=1)  # `id` is empty where one of several ID scores is
    left_out = points.loc[empty, ["trial", "group", "task"]].assign(reason="no score in the table")
    points, warnings = points.loc[~empty].reset_index(drop=True), []
    if options.id_min is not None:
        below = points["id"] < options.id_min
        points = points.loc[~below].reset_index(drop=True)
        warnings.append(
            f"{int(below.sum())} points with an ID score under {options.id_min:.1%} were left out, as asked"
        )
    if percent and points[["id", "ood"]].to_numpy().max(initial=0) <= 0.01:
        warnings.append("no score is over 1 although they were read as per cent: was --percent meant?")
    if cluster and points[["trial", "group"]].drop_duplicates()["trial"].duplicated().any():
        warnings.append("some clusters lie in several groups; they are resampled in each group as if independent")
    keys = ("trial", "group", *keep) if cluster else ("group", *keep)
    return Table(Path(file).stem, points, keys, left_out, tuple(warnings))


def _load(file: str) -> pd.DataFrame:
    """The CSV as text, blank lines dropped; the index still counts lines (line = index + 2 without quoted newlines)."""
    try:
        frame = pd.read_csv(
            file, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig", header=None
        )
    except FileNotFoundError:
        raise UserError(Problem(file, "no such file")) from None
    except IsADirectoryError:
        raise UserError(Problem(file, "a folder, not a table")) from None
    except pd.errors.EmptyDataError:
        raise UserError(Problem(file, "the file is empty")) from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise UserError(Problem(file, f"not readable as a CSV table: {reason}")) from None
    header, frame = frame.iloc[0].str.strip(), frame.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index(header.tolist())
    frame = frame.fillna("")
    return frame.loc[(frame != "").any(axis=1)]


class _Places:
    """Line numbers in the file, looked up only when there is something to complain about."""

    def __init__(self, file: str) -> None:
        self.file = file

    def say(self, problems: list[Problem], rows: Iterable[int], sentence: Any) -> None:
        """Add `sentence(row)` for the first few of these rows (frame index), and one line that counts the others."""
        rows = list(rows)
        if not rows:
            return
        lines = self._lines()
        problems += [Problem(f"{self.file}:{lines[row]}", sentence(row)) for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            problems.append(Problem(self.file, f"and {len(rows) - SHOWN} more lines like these"))

    def _lines(self) -> list[int]:
        with open(self.file, encoding="utf-8-sig", newline="") as stream:
            reader, starts, start = csv.reader(stream), [], 1
            for _ in reader:
                starts.append(start)
                start = reader.line_num + 1
        return starts[1:]  # without the header


def _scores(cells: pd.Series, name: str, percent: bool, where: _Places, problems: list[Problem]) -> pd.Series:
    """Scores as fractions, NaN for empty cells; what is no score is added to `problems`."""
    text = cells.str.strip()
    empty = text.str.lower().isin(["", "na", "nan", "null", "none"])
    values = pd.to_numeric(text.mask(empty), errors="coerce")
    bad = values.isna() & ~empty | np.isinf(values)
    where.say(problems, cells.index[bad], lambda row: f"{name}: {cells[row]!r} is no number")
    top = 100 if percent else 1
    unit = "per cent" if percent else "a fraction; are the scores in per cent? then add --percent"
    outside = ((values < 0) | (values > top)) & ~bad
    where.say(problems, cells.index[outside], lambda row: f"{name}: {cells[row]} is not within 0..{top} ({unit})")
    return values / top


def _baseline_problems(
    file: str, groups: pd.Series, column: str, scores: dict[str, pd.Series], options: Options
) -> Sequence[Problem]:
    """Whether the baseline is there, and a line can be laid through it."""
    if options.baseline not in set(groups):
        known = did_you_mean(options.baseline, groups.unique())
        return [Problem(file, f"--baseline: no row has {options.baseline!r} in column {column!r}{known}")]
    chosen = (groups == options.baseline) & scores["id"].notna() & scores["ood"].notna()
    floor = ""
    if options.id_min is not None:
        chosen, floor = chosen & (scores["id"] >= options.id_min), f" at or over the ID floor of {options.id_min:.1%}"
    if chosen.sum() < MIN_POINTS:
        what = f"the baseline {options.baseline!r} has {chosen.sum()} rows with both scores{floor}"
        return [Problem(file, f"{what}; a line needs {MIN_POINTS}")]
    if np.ptp(scores["id"][chosen]) < 1e-9:
        return [Problem(file, f"every row of the baseline {options.baseline!r} has the same ID score: no line fits")]
    return []


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
