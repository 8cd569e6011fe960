"""Several runs as one table: the same trial counted once, groups that mean the same merged, differences reported.

Owns the rules of joining. Every run is read by itself (`run_points.read_run`); nothing else here reads but specs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.input import run_counts, run_shifts
from analysis.input.declared import Declared, strictest
from analysis.input.run_id_sets import OWN_SET
from analysis.input.run_points import identity_of, read_run
from analysis.input.table import Table
from analysis.options import FirstStage, Options
from ray_robust.errors import Problem, UserError
from ray_robust.run.interim import of_several
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import OWN
from ray_robust.run.trial_folder import key_of

MEANING = ("model", "num_images", "num_classes", "images_per_class", "granularity", "semantics", "sources",
           "pretrain_method", "pretrain_images_seen", "wise_alpha", "select", "dedupe", "label_noise")  # fmt: skip
# keys of a spec that the columns of its results show, or that change no training
SHOWN = {"name", "sources", "method", "num_images", "num_classes", "images_per_class", "images_seen", "epochs",
         "granularity", "classes", "select", "dedupe", "label_noise", "points", "match", "subset_seed",
         "compile"}  # fmt: skip
OF_BASELINE = tuple(
    column for column in MEANING if column not in ("model", "wise_alpha")
)  # which may differ, and is told
POINT = ("key", "task", "training", "epoch", "wise_alpha")
SAME_SCORE = 1e-9  # by which a score may differ and be the same
# where data lies is no part of what a task means; further shifts are compared by what they are of
PLACES = {"root", "path", "images", "archive", "shifts", "corruptions", "id_sets"}


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

    A trial is known by the key at the end of its id, which hashes what it means, a fine-tuning by its id without
    further tests: rows of the same point are kept from the run with most shifts, else the first. Groups are told apart
    by what their trials were pre-trained on, not by name: a name that means something else in another run gets that
    run's name behind it. The strictest margin and floor hold. Raises UserError for other tasks, test images, metrics
    or baselines.
    """
    _, first, options = parts[0]
    baselines = _checked(parts)
    names = _run_names([table.name for _, table, _ in parts])
    warnings = [f"{name}: {w}" for name, (_, table, _) in zip(names, parts, strict=True) for w in table.warnings]
    frames, missing, groups = list[pd.DataFrame](), list[pd.DataFrame](), list[_Group]()
    shifts, trainings = [_tested_on(table) for _, table, _ in parts], _trainings(parts)
    for number, (name, (_, table, _)) in enumerate(zip(names, parts, strict=True)):
        renamed, apart = _renamed(table.points, name, options.baseline, groups)
        warnings += apart
        for rows, named in ((table.points, frames), (table.left_out, missing)):
            named.append(rows.assign(
                group=rows["group"].map(lambda name, new=renamed: new.get(name, name)), key=rows["trial"].map(key_of),
                training=rows["finetune"].map(lambda name, known=trainings[number]: known.get(name, name)),
            ))  # fmt: skip
        frames[-1]["run"] = number
    with_most = sorted(range(len(parts)), key=lambda number: -len(shifts[number]))
    every = pd.concat([frames[i] for i in with_most if len(frames[i])] or frames[:1], ignore_index=True)
    keys = [column for column in POINT if column in every]
    again = every.duplicated(keys)
    points = every.loc[~again].sort_values("run", kind="stable", ignore_index=True)
    points["trial"] = points["key"].map(points.drop_duplicates("key").set_index("key")["trial"])
    if again.any():
        warnings.append(f"{int(again.sum())} points are in more than one run and count once")
        warnings += [*_other_scores(every, keys), *_lost_shifts(every, keys, names, shifts)]
    warnings += _about_baselines(names, frames, options)
    if any(group.pooled for group in groups) or any(_stands_apart(baselines, i) for i in range(len(parts))):
        warnings += _about_settings(names, [table for _, table, _ in parts])
    warnings += [
        f"{what} is {value:g}, the strictest of the runs"
        for what, value in strictest([own for *_, own in parts]).items()
        if len({getattr(o, what) for *_, o in parts}) > 1
    ]
    options = replace(options, **strictest([own for *_, own in parts]))  # type: ignore[arg-type]
    options = replace(options, first_stage=_first_stage([own.first_stage for *_, own in parts]))
    left_out = _not_scored_elsewhere(pd.concat(missing, ignore_index=True), points)
    runs = tuple(run for _, table, _ in parts for run in table.runs)
    columns = tuple(dict.fromkeys(key for _, table, _ in parts for key in table.keys))
    joined = replace(
        first, name=" + ".join(names), points=points.drop(columns=["key", "training"]), keys=columns,
        left_out=left_out.reset_index(drop=True), warnings=tuple(dict.fromkeys(warnings)), runs=runs,
        counts=partial(run_counts.read, runs), shifts=partial(run_shifts.read, runs),
        interim=of_several([(name, table.interim) for name, (_, table, _) in zip(names, parts, strict=True)]),
        declared=Declared(tuple(
            replace(one, name=name) for name, (_, table, _) in zip(names, parts, strict=True)
            for one in (table.declared.runs if table.declared else ())
        )),
    )  # fmt: skip
    return joined, options


def _not_scored_elsewhere(left_out: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows without scores, each once, but for what another run has scores of: the trial, or that fine-tuning."""
    left_out = left_out.astype({"training": object}).fillna({"training": ""})  # "": of the whole trial
    left_out = left_out.drop_duplicates(["key", "training"])
    scored = {*zip(points["key"], points["training"], strict=True), *((key, "") for key in points["key"])}
    missing = [name not in scored for name in zip(left_out["key"], left_out["training"], strict=True)]
    return left_out.loc[np.array(missing, bool)].drop(columns=["key", "training"])


def _first_stage(stages: Sequence[FirstStage | None]) -> FirstStage | None:
    """The fewest first seeds of any run: what they show holds whatever number of others was chosen by them or more."""
    own = [one for one in stages if one is not None]
    if not own:
        return None
    seeds, baseline_seeds = min(one.seeds for one in own), min(one.baseline_seeds for one in own)
    return FirstStage(own[0].baseline, seeds, baseline_seeds, max(one.bonferroni for one in own))


def _differences(
    first_address: str, first: Table, options: Options, address: str, table: Table, own: Options
) -> list[Problem]:
    """Why a run cannot be joined with the first one."""
    problems = []
    for what, here, there in (
        ("baseline", {own.baseline}, {options.baseline}),
        ("scale", {own.scale}, {options.scale}),
        ("look", {own.look}, {options.look}),
        ("ID sets", {*own.id_names} or {OWN_SET}, {*options.id_names} or {OWN_SET}),
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
        own_images, first_images = (_images_of(run) for run in (table.run, first.run))
        problems += [
            Problem(address, f"its task {name} is of other images than that of {first_address}: no join")
            for name, one in own_images.items() if first_images.get(name, one) != one
        ]  # fmt: skip
        own_shifts, first_shifts = (_shifts_of(run) for run in (table.run, first.run))
        problems += [
            Problem(address, f"its shift {name} is of other images, or read otherwise, than that of {first_address}: "
                    "no join; give one of them another name")
            for name, one in own_shifts.items() if first_shifts.get(name, one) != one
        ]  # fmt: skip
    return problems


def _images_of(run: RunFolder) -> dict[str, str]:
    """What identifies the images of each task of a run but those of its shifts, by the task's name in results. Without
    tasks of which an earlier version did not keep that, or told the images apart by names and sizes."""
    pools = [pool for pool in run.data().get("pools", ()) if pool.get("kind") == "task"]
    names = [pool.get("name") for pool in pools]
    images_of = dict[str, str]()
    for pool in pools:
        images = pool.get("own", None if pool.get("shifts") else pool.get("fingerprint"))
        labels = pool.get("tasks", [pool["name"]] if names.count(pool.get("name")) == 1 else [])
        if images and identity_of(pool) != "names and sizes":
            images_of |= dict.fromkeys(labels, f"{identity_of(pool)} {images}")
    return images_of


def _shifts_of(run: RunFolder) -> dict[str, str]:
    """What identifies each further shift of a run's tasks, by task and name."""
    pools = [pool for pool in run.data().get("pools", ()) if isinstance(pool.get("shifts"), dict)]
    return {f"{pool['name']}: {name}": str(one) for pool in pools for name, one in pool["shifts"].items()}


def _task_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec's task means: its keys but those that say where its data lies."""
    task = spec.get("task") or {}
    return {key: value for key, value in task.items() if key not in PLACES} if isinstance(task, Mapping) else {"": task}


def _run_names(names: Sequence[str]) -> list[str]:
    """Names of the runs, made different by a number where two are called the same."""
    return [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]


@dataclass
class _Group:
    """A group of the joined table: what its columns say, the keys of its trials by model and seed, and whose it is."""

    name: str
    meaning: tuple
    trials: dict[tuple, set[str]]
    runs: list[str]
    pooled: bool = False  # of trials of two runs that have none in common: by its columns alone

    def may_be(self, meaning: tuple, trials: Mapping[tuple, set[str]], run: str) -> bool:
        """Return whether a group of a run may be this one. Two groups of one run differ in something that no column
        says, as a learning rate; so do two runs whose trials of the same seed are others."""
        other = any(not keys & self.trials.get(seed, keys) for seed, keys in trials.items())
        return meaning == self.meaning and run not in self.runs and not other


@dataclass(frozen=True, eq=False)
class _Baseline:
    """The baseline of a run: its rows' columns that say what its models were pre-trained on, and its trials' keys."""

    address: str
    table: Table
    columns: dict[str, set[str]]
    trials: dict[tuple, set[str]]

    @classmethod
    def of(cls, address: str, table: Table, name: str) -> _Baseline:
        rows = table.points.loc[table.points["group"] == name]
        text = _text(rows.reindex(columns=list(OF_BASELINE)))
        return cls(address, table, {column: set(text[column]) for column in OF_BASELINE}, _trials(rows))

    def unlike(self, other: _Baseline) -> str:
        """Return why it cannot make one line with another run's, whose points no name would tell apart; else ""."""
        for column, values in self.columns.items():
            if values and other.columns[column] and values.isdisjoint(other.columns[column]):
                here, there = (" and ".join(sorted(one - {""})) or "none" for one in (values, other.columns[column]))
                return f"has {column}: {here}, that of {other.address} has {column}: {there}"
        if all(keys & other.trials.get(seed, keys) for seed, keys in self.trials.items()):
            return ""
        settings = "; ".join(_settings((self.address, other.address), (self.table, other.table)))
        return f"has other trials of the same seeds than that of {other.address}" + (
            f": {settings}" if settings else ""
        )

    def shares(self, other: _Baseline) -> bool:
        """Return whether they have a trial in common."""
        return any(keys & other.trials.get(seed, set()) for seed, keys in self.trials.items())


def _checked(parts: Sequence[tuple[str, Table, Options]]) -> list[_Baseline]:
    """Return the baseline of each run. Raises UserError where the runs cannot be one table."""
    (address, first, options), *others = parts
    problems = [problem for other in others for problem in _differences(address, first, options, *other)]
    baselines = [_Baseline.of(address, table, options.baseline) for address, table, _ in parts]
    if problems := problems or _other_baselines(baselines, options.baseline):
        raise UserError(*problems)
    return baselines


def _other_baselines(baselines: Sequence[_Baseline], name: str) -> list[Problem]:
    """Why the baseline of a run cannot be one with that of a run before it."""
    first = ((own, next(filter(None, map(own.unlike, baselines[:i])), "")) for i, own in enumerate(baselines))
    return [Problem(own.address, f"its baseline {name} {what}: no join") for own, what in first if what]


def _stands_apart(baselines: Sequence[_Baseline], number: int) -> bool:
    """Whether a run's baseline is one with those before it by its columns alone."""
    before = [one for one in baselines[:number] if one.trials]
    return bool(before and baselines[number].trials) and not any(map(baselines[number].shares, before))


def _trials(rows: pd.DataFrame) -> dict[tuple, set[str]]:
    """The keys of the trials of these points, by model, seed and seed of the subset."""
    trials: dict[tuple, set[str]] = {}
    seeds = _text(rows.reindex(columns=["model", "seed", "subset_seed"])).itertuples(index=False, name=None)
    for seed, key in zip(seeds, rows["trial"].map(key_of), strict=True):
        trials.setdefault(seed, set()).add(key)
    return trials


def _renamed(points: pd.DataFrame, run: str, baseline: str, groups: list[_Group]) -> tuple[dict[str, str], list[str]]:
    """Group of this run -> its name in the joined table, and a sentence for each that keeps its own although another
    run has one that looks the same. `groups` are those of the runs before, and grow."""
    renamed, apart = {baseline: baseline}, []
    for group, rows in points.loc[points["group"] != baseline].groupby("group", sort=False):
        meaning = tuple(sorted(set(_text(rows.reindex(columns=list(MEANING))).itertuples(index=False, name=None))))
        trials = _trials(rows)
        alike = [one for one in groups if one.may_be(meaning, trials, run)]
        same = [one for one in alike if any(keys & one.trials.get(seed, set()) for seed, keys in trials.items())]
        named = [one for one in alike if one.name == group]
        if match := next(iter([*same, *named, *(alike if len(alike) == 1 else [])]), None):
            for seed, keys in trials.items():
                match.trials.setdefault(seed, set()).update(keys)
            match.runs.append(run)
            match.pooled |= not same
            renamed[str(group)] = match.name
            continue
        namesake = next((one for one in groups if one.name == group), None)
        if namesake is not None and namesake.meaning == meaning:
            apart.append(f"{group} of {run} is not that of {namesake.runs[0]}: trials of the same seed are others")
        name = str(group) if namesake is None else f"{group} ({run})"
        groups.append(_Group(name, meaning, trials, [run]))
        renamed[str(group)] = name
    return renamed, apart


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
        "their trials mean the same: the scores of the run with most shifts are used, else of the run named first"
    ]


def _tested_on(table: Table) -> frozenset[str]:
    """The shifts, and further ID sets, that a run's models were tested on."""
    rows = table.run.results(every_shift=True)["shift"] if table.run else pd.Series(dtype=str)
    return frozenset(rows.dropna().astype(str)) - {OWN}


def _trainings(parts: Sequence[tuple[str, Table, Options]]) -> list[dict[str, str]]:
    """For each run, of fine-tunings with further tests the id that they have without. Raises UserError where a run that
    has some was planned by a version that did not keep it, and has trials that another run names otherwise."""
    trainings = [table.run.trainings() if table.run else {} for _, table, _ in parts]
    named = [
        {key: frozenset(own) for key, own in table.points["finetune"].groupby(table.points["trial"].map(key_of))}
        for _, table, _ in parts
    ]
    for number, (address, table, _) in enumerate(parts):
        others = [own for i, own in enumerate(named) if i != number]
        if trainings[number] is None and _tested_on(table) and any(
            own[key] != names for key, names in named[number].items() for own in others if key in own
        ):  # fmt: skip
            what = "its plan does not say which fine-tunings are those of another run without further tests"
            right = "its sweep's command again, with the same spec, writes that and trains nothing"
            raise UserError(Problem(address, f"{what}: no join; {right}"))
    return [one or {} for one in trainings]


def _lost_shifts(
    points: pd.DataFrame, keys: Sequence[str], names: Sequence[str], shifts: Sequence[frozenset[str]]
) -> list[str]:
    """A sentence for each run whose shifts are not those of the run that the same points are kept from."""
    kept = points.groupby(list(keys), sort=False, dropna=False)["run"].transform("first")
    pairs = pd.DataFrame({"kept": kept, "own": points["run"]}).drop_duplicates().itertuples(index=False)
    lost = {(own, kept): sorted(shifts[own] - shifts[kept]) for kept, own in pairs}
    return [
        f"what {names[own]} and {names[kept]} both have is of {names[kept]}, and not tested on {', '.join(more)}, "
        f"which {names[own]} alone has"
        for (own, kept), more in lost.items()
        if more
    ]


def _about_settings(names: Sequence[str], tables: Sequence[Table]) -> list[str]:
    """What no column shows of the pre-trainings or the network and is not the same in all runs, as sentences."""
    return [f"{one}: groups that look the same are one all the same" for one in _settings(names, tables)]


def _settings(names: Sequence[str], tables: Sequence[Table]) -> list[str]:
    """Each such setting with its values: `model.image_size is 32 in a, 64 in b`."""
    specs = [(name, table.run.spec()) for name, table in zip(names, tables, strict=True) if table.run]
    notes = []
    for section in ("model", "pretrain"):
        own = [(name, spec.get(section)) for name, spec in specs]
        settings = [(name, one) for name, one in own if isinstance(one, dict)]
        for key in sorted({key for _, one in settings for key in one} - SHOWN):
            values = {name: str(one.get(key, "not set")) for name, one in settings}
            if len(set(values.values())) > 1:
                listed = ", ".join(f"{value} in {name}" for name, value in values.items())
                notes.append(f"{section}.{key} is {listed}")
    return notes


def _about_baselines(names: Sequence[str], frames: Sequence[pd.DataFrame], options: Options) -> list[str]:
    """What differs between the baselines that make one line, as sentences."""
    notes = []
    own = [frame.loc[frame["group"] == options.baseline] for frame in frames]
    for column, what in (("model", "models"), ("finetune", "fine-tunings")):
        sets = [set(frame[column].astype(str)) for frame in own if column in frame and len(frame)]
        if len({frozenset(s) for s in sets}) > 1:
            notes.append(f"the baselines of {' and '.join(names)} have other {what}: one line is fitted on all of them")
    return notes
