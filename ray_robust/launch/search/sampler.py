"""What a search asks of others: who makes trials of values, and who proposes values and learns what came of them.

Owns the two shapes, so that a search can be tested without data and without Optuna, and the choice of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ray_robust.plan.plan import Configuration
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec


class Candidates(Protocol):
    """What makes trials of values."""

    def draw(self, number: int) -> dict[str, Any]: ...

    def configure(self, values: Mapping[str, Any]) -> Configuration: ...


class Teacher(Protocol):
    """What proposes values and learns; see `learner.Learner`. None of it is needed for random draws."""

    before: list[dict[str, Any]]

    def propose(self, wished: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]: ...
    def accept(self, name: str, values: Mapping[str, Any]) -> None: ...
    def refuse(self, name: str) -> None: ...
    def impossible(self, name: str) -> None: ...
    def tell(self, name: str, value: float | None) -> None: ...
    def stopped(self, name: str, value: float, milestone: int) -> None: ...
    def accepted(self) -> Iterator[tuple[str, dict[str, Any], bool]]: ...
    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | None: ...


def teacher_of(spec: Spec, run: RunFolder) -> Callable[[str], Teacher] | None:
    """What makes the teacher that a spec's search asks for, by the name of its study; None for random draws."""
    if spec.search.method != "optuna":
        return None

    def learner(study: str) -> Teacher:
        from ray_robust.launch.search.optuna_sampler import (
            Learner,  # late: it takes a second, and random draws need none
        )

        return Learner(spec.space, run.storage, study, spec.search.mode, spec.search.startup)

    return learner
