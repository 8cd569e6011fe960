"""Optuna's TPE sampler: one study in the journal of a run folder.

Owns how a space is written for Optuna, the seeds of its sampler, and what is proposed again after a crash. Independent
of what a value costs or means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from scipy.special import betainc, betaincinv

from ray_robust.data.pool import seed_of
from ray_robust.files.storage import Storage
from ray_robust.launch.search.journal import Journal
from ray_robust.launch.search.sampler import Sampler, Values
from ray_robust.redact import redact, redacted
from ray_robust.spec.dirichlet import in_thousandths
from ray_robust.spec.load import Spec
from ray_robust.spec.search_space import Dimension
from ray_robust.spec.validation_messages import format_value

VALUES = "values"  # the attribute of Optuna's trial under which the journal has an accepted proposal
CONSTRAINT = "possible"  # above 0 where a proposal cannot be run
DIGITS = 6  # of a share of the simplex, which comes back from a mixture in thousandths


class OptunaSampler(Sampler):
    """Proposals are named by their number in the study."""

    def __init__(self, spec: Spec, run: Storage, study: str) -> None:
        super().__init__(spec, run, study)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.JournalStorage(Journal(run))
        self.study = optuna.create_study(
            storage=storage,
            sampler=self._tpe(0),
            pruner=optuna.pruners.NopPruner(),  # `asha` stops trials
            study_name=study,
            direction="maximize" if self.settings.mode == "max" else "minimize",
            load_if_exists=True,
        )
        self.warm_starts = [
            trial.user_attrs[VALUES]
            for other in storage.get_all_studies()
            if other.study_name != study
            for trial in storage.get_all_trials(storage.get_study_id_from_name(other.study_name), deepcopy=False)
            if VALUES in trial.user_attrs and trial.state == TrialState.COMPLETE
        ]
        self._open: dict[str, optuna.Trial] = {}  # proposals whose outcome has not been told
        own = storage.get_study_id_from_name(study)
        for trial in self._trials(TrialState.RUNNING):  # proposed by a driver that is gone
            number = storage.get_trial_id_from_study_id_trial_number(own, trial.number)
            self._open[str(trial.number)] = optuna.Trial(self.study, number)
            if VALUES not in trial.user_attrs:
                self.refuse(str(trial.number))

    def propose(self, initial: Values | None = None) -> tuple[str, dict[str, Any]]:
        self.study.sampler = self._tpe(len(self._trials()))  # seeded by the number, so that a restart changes nothing
        if initial is not None:
            self.study.enqueue_trial(self._parameters(initial) or {})
        trial = self.study.ask()
        values = {dimension.key: _suggest(trial, dimension) for dimension in self.space.dimensions}
        self._open[str(trial.number)] = trial
        return str(trial.number), values

    def accept(self, name: str, values: Values) -> None:
        self._open[name].set_user_attr(VALUES, dict(values))

    def refuse(self, name: str) -> None:
        self.study.tell(self._open.pop(name), state=TrialState.FAIL)

    def reject(self, name: str) -> None:
        self._open[name].set_constraint(CONSTRAINT, 1.0)
        self.study.tell(self._open.pop(name), state=TrialState.PRUNED)

    def tell(self, name: str, value: float | None) -> None:
        if value is None or math.isnan(value):
            self.refuse(name)
        else:
            self.study.tell(self._open.pop(name), value)

    def tell_stopped(self, name: str, value: float, milestone: int) -> None:
        self._open[name].report(value, milestone)
        self.study.tell(self._open.pop(name), state=TrialState.PRUNED)

    def accepted(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        for trial in self._trials():
            if VALUES in trial.user_attrs:
                yield str(trial.number), self._unredacted(trial.user_attrs[VALUES]), trial.state == TrialState.RUNNING

    def contains(self, values: Values) -> bool:
        return self._parameters(values) is not None

    def _unredacted(self, values: Values) -> dict[str, Any]:
        """Values as the spec has them: the journal keeps no credential that a choice may hold."""
        choices = {one.key: one.choices for one in self.space.dimensions if one.distribution == "choice"}
        return {
            key: next((choice for choice in choices.get(key, ()) if redacted(choice) == value), value)
            for key, value in values.items()
        }

    def _parameters(self, values: Values) -> dict[str, Any] | None:
        """These values as Optuna's parameters; None when they lie outside the space."""
        parameters: dict[str, Any] = {}
        for one in self.space.dimensions:
            if one.key not in values:
                return None
            value = values[one.key]
            if one.distribution == "simplex":
                if set(value) - set(one.names):
                    return None
                parameters |= _break_stick(one, value)
            elif one.distribution == "choice":
                if format_value(value) not in map(format_value, one.choices):
                    return None
                parameters[one.key] = redact(format_value(value))
            elif not one.low <= value <= one.high:
                return None
            else:
                parameters[one.key] = value
        return parameters

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _tpe(self, number: int) -> optuna.samplers.TPESampler:
        seed = seed_of("search", self.space.seed, number) % 2**32
        return optuna.samplers.TPESampler(n_startup_trials=self.settings.startup, seed=seed)


def _suggest(trial: optuna.Trial, one: Dimension) -> Any:
    if one.distribution == "simplex":
        left, weights = 1.0, []
        for i, name in enumerate(one.names[:-1]):
            share = trial.suggest_float(_share_name(one, name), 0.0, 1.0)
            behind = len(one.names) - 1 - i
            weights.append(left * float(betaincinv(one.concentration, one.concentration * behind, share)))
            left -= weights[-1]
        return in_thousandths(one.names, [*weights, max(left, 0.0)])
    if one.distribution == "choice":
        choices = [redact(format_value(value)) for value in one.choices]  # as the journal has them
        return one.choices[choices.index(trial.suggest_categorical(one.key, choices))]
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return one.rounded(trial.suggest_float(one.key, one.low, one.high, log=one.log))


def _break_stick(one: Dimension, mixture: Mapping[str, float]) -> dict[str, float]:
    """A mixture as the uniform shares that stick breaking makes it of: of what is left, the first source takes a
    Beta(a, a (K - 1)) share, the next a Beta(a, a (K - 2)) share ..., which is the Dirichlet distribution."""
    left, shares = 1.0, {}
    for i, name in enumerate(one.names[:-1]):
        taken = min(1.0, mixture.get(name, 0.0) / left) if left > 1e-9 else 0.0
        behind = len(one.names) - 1 - i
        share = betainc(one.concentration, one.concentration * behind, taken)
        shares[_share_name(one, name)] = round(float(share), DIGITS)
        left -= mixture.get(name, 0.0)
    return shares


def _share_name(one: Dimension, name: str) -> str:
    return f"{one.key}[{name}]"
