"""What a search asks of others: who makes trials of values, and who proposes values and learns from results.

Owns the two interfaces, so that a search is tested without data and without Optuna, and the choice of a sampler by the
registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ray_robust import registry
from ray_robust.files.storage import Storage
from ray_robust.plan.plan import Configuration
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec

Values = Mapping[str, Any]  # by dotted key of the spec


class Candidates(Protocol):
    """What makes trials of values."""

    def draw(self, number: int) -> dict[str, Any]:
        """Return draw `number` (0, 1, ...) from the prior."""

    def configure(self, values: Values) -> Configuration:
        """Return the trials of some values. Raises UserError when they cannot be run."""


class Sampler:
    """Proposes the values of configurations and learns from results; the base class of every method in
    `registry.SEARCHES` that learns.

    A subclass need only define `propose`; `tell` is where it learns. One that keeps no journal of its own forgets what
    it proposed when the command ends: the next command then proposes from the beginning, finds those trials done and
    tells their results at once, so `propose` must depend on nothing but what it was told.

    warm_starts  values that did run under another objective or space, to be proposed first
    """

    def __init__(self, spec: Spec, run: Storage, study: str) -> None:
        """spec   of the sweep: `spec.space` has the dimensions, `spec.search` the settings
        run    the run folder
        study  names what a result means: another space, objective or baseline is another study
        """
        self.spec, self.space, self.settings = spec, spec.space, spec.search
        self.warm_starts: Sequence[dict[str, Any]] = ()

    def propose(self, initial: Values | None = None) -> tuple[str, dict[str, Any]]:
        """Return the name and the values of a new proposal. `initial` are values to propose instead of its own choice:
        a draw from the prior, or a warm start."""
        raise NotImplementedError

    def tell(self, name: str, value: float | None) -> None:
        """Learn the objective's value of a proposal; None: it failed, or nothing of it can be compared."""

    def tell_stopped(self, name: str, value: float, milestone: int) -> None:
        """Learn that a proposal was stopped at a milestone (1, 2, ...), where a probe had `value`."""

    def accept(self, name: str, values: Values) -> None:
        """Note that a proposal is being run: after a crash it comes first."""

    def refuse(self, name: str) -> None:
        """Note that a proposal is not run, which says nothing about it: its configuration was there before."""

    def reject(self, name: str) -> None:
        """Note that a proposal cannot be run, so that the like of it is proposed less."""

    def accepted(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield (name, values, whether it is still open) of every accepted proposal of earlier commands, in order."""
        yield from ()

    def contains(self, values: Values) -> bool:
        """Whether these values lie in the space, so that they can be proposed as `initial`."""
        return True


def sampler_of(spec: Spec, run: RunFolder) -> Callable[[str], Sampler] | None:
    """Return a function that makes the sampler of a spec's search, given the name of its study; None for a method that
    does not learn. The sampler's module is imported by that call: Optuna takes a second, which random draws save."""
    method = registry.SEARCHES[spec.search.method]
    return (lambda study: registry.load(method.sampler)(spec, run.storage, study)) if method.learns else None
