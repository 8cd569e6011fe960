"""Optuna as a search's teacher, through Tune's own searcher over it: proposes values, is told what came of them.

Owns how a space is written for Optuna, the seeds of its sampler, and what is proposed again after a crash. Nothing here
knows what a value costs or means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch
from scipy.special import betainc, betaincinv

from ray_robust.data.pool import seed_of
from ray_robust.files.storage import Storage
from ray_robust.launch.search.journal import Journal
from ray_robust.redact import redact, redacted
from ray_robust.spec.dirichlet import in_thousandths
from ray_robust.spec.search_space import Dimension, Space
from ray_robust.spec.validation_messages import format_value

VALUE, VALUES = "value", "values"
NEW = "new"  # a proposal before it has its number
DIGITS = 6  # of a share of the simplex, which comes back from a mixture in thousandths


class Learner(OptunaSearch):
    """One study in the journal of a run folder. Proposals are named by their number in the study.

    study  names what the values mean: another space, objective or baseline is another study
    """

    _ot_study: Any  # an optuna.Study, which the base class sets to None until it is made

    def __init__(self, space: Space, folder: Storage, study: str, mode: str, startup: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.startup = space, startup
        storage = optuna.storages.JournalStorage(Journal(folder))
        super().__init__(
            self._define, metric=VALUE, mode=mode, study_name=study, storage=storage, sampler=self._sampler_of(0)
        )
        self.before = [
            trial.user_attrs[VALUES]
            for other in storage.get_all_studies()
            if other.study_name != study
            for trial in storage.get_all_trials(storage.get_study_id_from_name(other.study_name), deepcopy=False)
            if VALUES in trial.user_attrs and trial.state == TrialState.COMPLETE
        ]
        for trial in self._trials(TrialState.RUNNING):  # asked for by a driver that is gone
            self._ot_trials[str(trial.number)] = optuna.trial.Trial(self._ot_study, trial._trial_id)
            if VALUES not in trial.user_attrs:
                self.refuse(str(trial.number))

    def propose(self, wished: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """The name and the values of a new proposal; `wished` are values to begin with instead of Optuna's own."""
        self._ot_study.sampler = self._sampler_of(len(self._trials()))  # hangs on the number, not on this process
        if wished is not None:
            self._ot_study.enqueue_trial(self.parameters(wished) or {})
        suggested = self.suggest(NEW)
        assert suggested is not None  # that is of a search space without a function
        asked = self._ot_trials.pop(NEW)
        self._ot_trials[str(asked.number)] = asked
        return str(asked.number), suggested[VALUES]

    def accept(self, name: str, values: Mapping[str, Any]) -> None:
        """A proposal is being run: after a crash it comes first."""
        self._ot_trials[name].set_user_attr(VALUES, dict(values))

    def refuse(self, name: str) -> None:
        """A proposal is not run, and nothing is learned from that: it was there before."""
        self.on_trial_complete(name, error=True)

    def impossible(self, name: str) -> None:
        """A proposal cannot be run; the like of it is proposed less."""
        self._ot_trials[name].set_constraint("possible", 1.0)
        self.on_trial_complete(name)

    def tell(self, name: str, value: float | None) -> None:
        """What came of a proposal; None: nothing that can be compared."""
        self.on_trial_complete(name, None if value is None else {VALUE: value}, error=value is None)

    def stopped(self, name: str, value: float, milestone: int) -> None:
        """A proposal was stopped at a milestone (1, 2, ...), where a probe said `value`."""
        self.on_trial_result(name, {VALUE: value, "training_iteration": milestone})
        self.on_trial_complete(name)

    def accepted(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """(name, values, whether it is still open) of every proposal that was accepted, in order."""
        for trial in self._trials():
            if VALUES in trial.user_attrs:
                yield str(trial.number), self._whole(trial.user_attrs[VALUES]), trial.state == TrialState.RUNNING

    def _whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as the spec has them: the journal keeps no credential that a choice may hold."""
        choices = {one.key: one.choices for one in self.space.dimensions if one.distribution == "choice"}
        return {
            key: next((choice for choice in choices.get(key, ()) if redacted(choice) == value), value)
            for key, value in values.items()
        }

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Optuna calls these values; None when they lie outside the space."""
        found: dict[str, Any] = {}
        for one in self.space.dimensions:
            if one.key not in values:
                return None
            value = values[one.key]
            if one.distribution == "simplex":
                if set(value) - set(one.names):
                    return None
                found |= _broken(one, value)
            elif one.distribution == "choice":
                if format_value(value) not in map(format_value, one.choices):
                    return None
                found[one.key] = redact(format_value(value))
            elif not one.low <= value <= one.high:
                return None
            else:
                found[one.key] = value
        return found

    def save(self, checkpoint_path: str) -> None:
        """Tune's own state is never read again: the journal is."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _trials(self, *states: TrialState) -> list[Any]:
        return self._ot_study.get_trials(deepcopy=False, states=states or None)

    def _sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
        seed = seed_of("search", self.space.seed, number) % 2**32
        return optuna.samplers.TPESampler(n_startup_trials=self.startup, seed=seed)

    def _define(self, trial: Any) -> dict[str, Any]:
        """Optuna's define-by-run: suggest every dimension."""
        return {VALUES: {one.key: _suggest(trial, one) for one in self.space.dimensions}}


def _suggest(trial: Any, one: Dimension) -> Any:
    if one.distribution == "simplex":
        left, weights = 1.0, []
        for i, name in enumerate(one.names[:-1]):
            share = trial.suggest_float(_part(one, name), 0.0, 1.0)
            behind = len(one.names) - 1 - i
            weights.append(left * float(betaincinv(one.concentration, one.concentration * behind, share)))
            left -= weights[-1]
        return in_thousandths(one.names, [*weights, max(left, 0.0)])
    if one.distribution == "choice":
        told = [redact(format_value(value)) for value in one.choices]  # as the journal has them
        return one.choices[told.index(trial.suggest_categorical(one.key, told))]
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return one.rounded(trial.suggest_float(one.key, one.low, one.high, log=one.log))


def _broken(one: Dimension, mixture: Mapping[str, float]) -> dict[str, float]:
    """A mixture as the uniform shares that stick breaking makes it of: of what is left, the first source takes a
    Beta(a, a (K - 1)) share, the next a Beta(a, a (K - 2)) share ..., which is the Dirichlet distribution."""
    left, found = 1.0, {}
    for i, name in enumerate(one.names[:-1]):
        taken = min(1.0, mixture.get(name, 0.0) / left) if left > 1e-9 else 0.0
        behind = len(one.names) - 1 - i
        found[_part(one, name)] = round(float(betainc(one.concentration, one.concentration * behind, taken)), DIGITS)
        left -= mixture.get(name, 0.0)
    return found


def _part(one: Dimension, name: str) -> str:
    return f"{one.key}[{name}]"
