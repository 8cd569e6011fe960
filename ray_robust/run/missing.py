"""What is missing of a run, counted in pre-trainings and fine-tunings: what its folder and the shared weights lack.

A trial of an edited spec may need one more fine-tuning and nothing else; counted in trials it would look as much work
as a new one. Reads markers and listings; weights count as there where their file is, since reading gigabytes to count
would take longer than it saves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ray_robust.run.analysis_settings import BASELINE
from ray_robust.run.checkpoint_paths import FINAL, SHARED_WEIGHTS, SUFFIX, is_finished, shared_weights, weights_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_folder import key_of
from ray_robust.text.names import count_noun

UNTRAINED = ("", BASELINE, "weights")  # values of `pretrain_method` of trials that pre-train nothing here
FINETUNING = "fine-tuning"


@dataclass(frozen=True)
class TrialWork:
    """What a trial consists of: the ids of its fine-tunings, and whether it pre-trains."""

    trial: str
    finetunings: tuple[str, ...]
    pretrains: bool


@dataclass(frozen=True)
class Missing:
    """What one trial lacks. `again`: it was pre-trained once, and the weights are gone."""

    trial: str
    finetunings: tuple[str, ...]
    finetunings_in_all: int
    pretraining: bool
    pretrains: bool
    again: bool = False


@dataclass(frozen=True)
class Remaining:
    """What a run lacks, by trial id (those that lack nothing are absent), and what it consists of in all.

    trials, pretrainings, finetunings  (missing, in all)
    """

    missing: Mapping[str, Missing]
    trials: tuple[int, int]
    pretrainings: tuple[int, int]
    finetunings: tuple[int, int]

    @property
    def untouched(self) -> bool:
        """Whether nothing is there yet."""
        return all(missing == whole for missing, whole in (self.trials, self.pretrainings, self.finetunings))

    def counts(self) -> str:
        """Return `2 of 4 pre-trainings, 6 of 12 fine-tunings`: those that are missing."""
        kinds = (("pre-trainings", self.pretrainings), ("fine-tunings", self.finetunings))
        return ", ".join(
            f"{missing:,} of {whole:,} {name}" if missing else f"no {name}" for name, (missing, whole) in kinds if whole
        )

    def done_counts(self) -> str:
        """Return `4 of 6 trials, 2 of 4 pre-trainings, 6 of 12 fine-tunings`: those that are done."""
        kinds = (("trials", self.trials), ("pre-trainings", self.pretrainings), ("fine-tunings", self.finetunings))
        return ", ".join(f"{whole - missing:,} of {whole:,} {name}" for name, (missing, whole) in kinds if whole)

    def text_of(self, trial: str) -> str:
        """Return what a trial lacks in a few words: `all`, `2 fine-tunings`, `done`."""
        one = self.missing.get(trial)
        if one is None:
            return "done"
        if len(one.finetunings) == one.finetunings_in_all and one.pretraining == one.pretrains:
            return "all"
        parts = [
            *(("pre-training",) if one.pretraining else ()),
            *((count_noun(n, FINETUNING),) if (n := len(one.finetunings)) else ()),
        ]
        return ", ".join(parts) or "no training"

    def lines(self) -> Iterator[str]:
        """Yield a sentence for the trials that lack the same, the most numerous first; none where nothing is there."""
        if self.untouched:
            return
        kinds = Counter((len(one.finetunings), _pretraining(one)) for one in self.missing.values())
        for (finetunings, pretraining), trials in kinds.most_common():
            yield _sentence(trials, finetunings, pretraining)


def planned_work(plan: pd.DataFrame) -> list[TrialWork]:
    """Return the trials of a plan.csv."""
    methods = plan["pretrain_method"].fillna("") if "pretrain_method" in plan else [""] * len(plan)
    return [
        TrialWork(name, tuple(json.loads(finetunes)), str(method) not in UNTRAINED)
        for name, finetunes, method in zip(plan["trial"], plan["finetunes"], methods, strict=True)
    ]


def remaining(run: RunFolder, trials: Iterable[TrialWork], done: Collection[str]) -> Remaining:
    """Return what is missing of these trials. `done` are the ids of those that lack nothing."""
    trials = list(trials)
    open_trials = [one for one in trials if one.trial not in done]
    there = _weights_there(run, [one.trial for one in open_trials if one.pretrains])
    return in_all(trials, {one.trial: _missing_of(run, one, there) for one in open_trials})


def in_all(trials: Collection[TrialWork], missing: Mapping[str, Missing]) -> Remaining:
    """Return what these trials lack, by trial, with the counts of it and of the whole."""
    return Remaining(
        missing,
        (len(missing), len(trials)),
        (sum(one.pretraining for one in missing.values()), sum(one.pretrains for one in trials)),
        (sum(len(one.finetunings) for one in missing.values()), sum(len(one.finetunings) for one in trials)),
    )


def _missing_of(run: RunFolder, trial: TrialWork, weights: Collection[str]) -> Missing:
    folder = run.trial(trial.trial)
    lacking = tuple(name for name in trial.finetunings if not folder.has_finetuning(name))
    begun = len(lacking) < len(trial.finetunings)
    # a trial that only has to gather its rows reads its weights all the same
    pretraining = trial.pretrains and key_of(trial.trial) not in weights
    return Missing(trial.trial, lacking, len(trial.finetunings), pretraining, trial.pretrains, pretraining and begun)


def _weights_there(run: RunFolder, trials: Iterable[str]) -> set[str]:
    """The keys, of these trials, whose shared weights are finished; on remote storage one request lists all."""
    keys = {key_of(name) for name in trials}
    if not keys:
        return set()
    if run.storage.remote:
        listed = set(run.storage.parent.stamps(SHARED_WEIGHTS))
        return {key for key in keys if f"{SHARED_WEIGHTS}/{key}/{FINAL}{SUFFIX}" in listed}
    shared = shared_weights(run.storage)
    return {key for key in keys if is_finished(weights_of(shared, key))}


def _pretraining(one: Missing) -> str:
    if not one.pretrains:
        return ""
    return "again" if one.again else "needed" if one.pretraining else "found"


def _sentence(trials: int, finetunings: int, pretraining: str) -> str:
    """`12 trials need one more fine-tuning; their pre-trainings are found`."""
    one = trials == 1
    who = f"{trials:,} {'trial needs' if one else 'trials need'}"
    its, weights = ("its", "pre-training") if one else ("their", "pre-trainings")
    each = "" if one else " each"
    if pretraining == "needed":
        return f"{who} {its} {weights} and {count_noun(finetunings, FINETUNING)}{each}"
    more = "no more fine-tuning" if not finetunings else "one more fine-tuning" if finetunings == 1 else ""
    need = more or f"{count_noun(finetunings, FINETUNING)}{each}"
    if pretraining == "again":
        return f"{who} {need}, and {its} {weights} again: the weights are no longer there"
    if pretraining == "found":
        return f"{who} {need}; {its} {weights} {'is' if one else 'are'} found"
    return f"{who} {need}"
