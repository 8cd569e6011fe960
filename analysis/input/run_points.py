"""The points of a run folder, with the options that its spec set beforehand, and every warning that concerns them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from analysis.input import run_counts, run_shifts
from analysis.input.declared import Declared, OfRun
from analysis.input.run_id_sets import columns, with_id_sets
from analysis.input.table import Table
from analysis.options import FirstStage, Options
from ray_robust.run.analysis_settings import settings_of
from ray_robust.run.earlier_attempt import EarlierAttempt, reasons_of
from ray_robust.run.interim import interim_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.seed_plan import BONFERRONI, baseline_of, recorded, rule_of
from ray_robust.run.trial_rows import RERUN

RUN_KEYS = ("trial", "group", "model", "seed", "subset_seed", "num_images", "num_classes", "images_per_class",
            "granularity", "sources", "finetune", "finetune_lr", "epoch", "step", "metric")  # fmt: skip
NOT_RUN, OTHERS = "no scores", "*"


def read_run(address: str) -> tuple[Table, Options]:
    """Return the points of a finished or partial run, with the options that its spec set beforehand. Raises UserError
    where it is no run."""
    run = RunFolder(address)
    run.require()
    spec, results = run.spec(), run.results()
    scores = results["id"].notna() & (results["ood"].notna() | results["er_estimated"].fillna(False).astype(bool))
    missing = results.loc[~scores | results["status"].isin(["failed", "damaged"])]
    reasons = {name: _reasons(run, name) for name in missing["trial"].unique()}
    each = [_reason(reasons[row.trial], "" if pd.isna(row.finetune) else row.finetune) for row in missing.itertuples()]
    left_out = missing[["trial", "group", "task", "finetune"]].assign(reason=each)
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
    warnings += _of_trials(run, results)
    if rule_of(spec) is not None and not unfinished and recorded(run.storage) is None:
        warnings.append("the second stage of the seeds is not planned yet: the same command again continues")
    points, lacking, id_names = with_id_sets(run, points)
    more = lacking[["trial", "group", "task", "finetune"]].assign(reason="no score on one of several ID sets")
    left_out = pd.concat([left_out, more], ignore_index=True) if len(more) else left_out
    keys = tuple(key for key in (*RUN_KEYS, *columns(len(id_names))) if key in points)
    keys += ("wise_alpha",) if points["wise_alpha"].notna().any() else ()
    name = run.storage.shown.rstrip("/").rpartition("/")[2]
    counts, interim = partial(run_counts.read, (run,)), interim_of(run, states.to_dict())
    shifts = partial(run_shifts.read, (run,))
    settings = settings_of(spec)
    table = Table(
        name, points, keys, left_out, tuple(warnings), (run,), counts, shifts, interim=interim,
        declared=Declared((OfRun.read(run, name, settings),)),
    )  # fmt: skip
    return table, Options(**asdict(settings), id_names=id_names, first_stage=first_stage_of(spec))


def first_stage_of(spec: Mapping[str, Any]) -> FirstStage | None:
    """Return which trials of a run were trained before the number of the others was chosen; None where it was fixed."""
    rule = rule_of(spec)
    if rule is None:
        return None
    baseline, fixed = baseline_of(spec)
    bonferroni = BONFERRONI["late"] if rule.until is None else 1.0
    return FirstStage(baseline, rule.first, rule.first if fixed is None else fixed, bonferroni)


def _reasons(run: RunFolder, name: str) -> dict[str, str]:
    """Why a trial has no scores, from its folder, under ""; and why fine-tunings of it have none, by id or for all
    `OTHERS`."""
    folder = run.trial(name)
    if damage := folder.damage():
        return dict.fromkeys(("", OTHERS), f"damaged: {damage}")
    if (failure := folder.stopped() or folder.failure()) is not None:
        others = NOT_RUN if reasons_of(failure) else failure.get("reason", NOT_RUN)  # it failed as a whole
        return {"": failure.get("reason", NOT_RUN), OTHERS: others, **folder.reasons(failure)}
    earlier = EarlierAttempt.read(folder.storage) or EarlierAttempt()
    return {"": earlier.reason or NOT_RUN, OTHERS: NOT_RUN, **earlier.finetunings}


def _reason(reasons: Mapping[str, str], finetuning: str) -> str:
    """Why a row has no scores: that of its fine-tuning, or that of a trial which failed as a whole."""
    return f"fine-tuning {finetuning}: {reasons.get(finetuning, reasons[OTHERS])}" if finetuning else reasons[""]


def identity_of(pool: Mapping[str, Any]) -> str:
    """Return what the ids of a pool's images in data.json are of: `recipe`, `content`, or of file pools of a run that
    was made before contents were looked at, `names and sizes`."""
    made = str(pool.get("licence", "")).startswith(("rendered by this project", "made by "))
    return str(pool.get("identity") or ("recipe" if made else "names and sizes"))


def _of_identity(pool: Mapping[str, Any]) -> list[str]:
    if identity_of(pool) != "names and sizes":
        return []
    return ["its images were told apart by their names and sizes, not by what they contain, in this run of an earlier "
            "version: other images with the same names and sizes would have passed for them"]  # fmt: skip


def _of_trials(run: RunFolder, results: pd.DataFrame) -> list[str]:
    """What trials have to warn of, each once with the number of its trials, and which models were computed in several
    precisions (`precision: auto`, on machines that differ)."""
    warnings, precisions = Counter[str](), dict[str, Counter[str]]()
    for trial, model in results[["trial", "model"]].drop_duplicates("trial").itertuples(index=False):
        facts = run.trial(trial).storage.recall_json("trial.json") or {}
        warnings.update(facts.get("warnings", ()))
        if isinstance(precision := facts.get("precision"), str):
            precisions.setdefault(model, Counter())[precision] += 1
    mixed = [
        f"{model}: {', '.join(f'{_trials(count)} in {name}' for name, count in sorted(counts.items()))}: machines that "
        f"differ; model.precision: float32 computes all of them alike"
        for model, counts in precisions.items()
        if len(counts) > 1
    ]
    return [*(f"{_trials(count)}: {warning}" for warning, count in warnings.items()), *mixed]


def _trials(count: int) -> str:
    return f"{count} trial{'s' if count > 1 else ''}"
