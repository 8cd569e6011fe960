"""Candidates of a search: values drawn from its space, as trials, checked against the data.

`launch.search` runs them; the command shows the first of them in a plan.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ray_robust.errors import Problem, UserError
from ray_robust.plan.plan import Configuration, Plan
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.subsets import Subsets, draw_all
from ray_robust.spec.validation_messages import format_value

CHECKED = 100  # configurations of a plan that are checked against the sources; a run checks every one
DRAWS_PER_CHOICE = 10  # of which one must be possible
REASONS = 3  # that a plan shows why draws are rejected
MOST_REJECTED = 1_000  # draws in a row without a new configuration


@dataclass
class Candidates:
    """Turns drawn values into trials. `subsets` collects those of the configurations that were checked."""

    sweep: Sweep

    def __post_init__(self) -> None:
        self.subsets = Subsets()

    def draw(self, number: int) -> dict[str, Any]:
        """Return draw `number` from the prior."""
        return self.sweep.spec.space.draw(number)

    def configure(self, values: Mapping[str, Any], check: bool = True) -> Configuration:
        """Return the trials of some values. Raise UserError where the values contradict each other, `search.where` is
        not met, or a source does not hold what they ask for (skipped if `check` is False)."""
        spec = replace(self.sweep.spec.at(values), baseline_finetunes=())
        plan = self.sweep.plan_of(spec)
        if check:
            self.subsets.add(draw_all(replace(self.sweep, spec=spec, plan=plan), {}))
        return Configuration(dict(values), plan.trials)


@dataclass(frozen=True)
class Preview:
    """The first draws from the prior: those that can be run, how many were rejected or repeat another, and the most
    frequent reasons."""

    configurations: tuple[Configuration, ...]
    rejected: int
    subsets: Subsets
    reasons: tuple[Problem, ...] = ()

    @property
    def plan(self) -> Plan:
        """The trials of all configurations."""
        return Plan(tuple(trial for one in self.configurations for trial in one.trials))


def preview(sweep: Sweep, count: int) -> Preview:
    """Return the first `count` configurations that a search draws from the prior."""
    candidates = Candidates(sweep)
    seen: set[str] = set()
    rejected, reasons = 0, Counter[Problem]()

    def configurations() -> Iterator[Configuration]:
        nonlocal rejected
        number = since = 0
        while since < MOST_REJECTED:
            number, since = number + 1, since + 1
            try:
                one = candidates.configure(candidates.draw(number - 1), check=len(seen) < CHECKED)
            except UserError as error:
                rejected += 1
                reasons.update(replace(problem, what=_without_group(problem.what)) for problem in error.problems)
                continue
            if one.key in seen:
                rejected += 1
                continue
            seen.add(one.key)
            since = 0
            yield one

    first = tuple(islice(configurations(), count))
    most = tuple(problem for problem, _ in reasons.most_common(REASONS))
    return Preview(first, rejected, candidates.subsets, most)


def check_choices(sweep: Sweep) -> None:
    """Check that some draw can have each value of a choice. A value that fails by itself in each of `DRAWS_PER_CHOICE`
    draws is an error, as in a grid, and not a draw to be rejected.

    Raise UserError with the line of each such value.
    """
    candidates, spec = Candidates(sweep), sweep.spec
    problems = []
    for one in spec.space.dimensions:
        for i, value in enumerate(one.choices):
            reason = _why_never(candidates, one.key, value)
            if reason is not None:
                location = spec.location(*one.path, "choice", i)
                problems.append(Problem(location, f"{reason} [{one.path[-1]}={format_value(value)}]"))
    if problems:
        raise UserError(*problems)


def _why_never(candidates: Candidates, key: str, value: Any) -> str | None:
    """Return why no draw can have a value; None where one can, or where another value may be the cause."""
    reason: str | None = None
    for number in range(DRAWS_PER_CHOICE):
        try:
            candidates.configure({**candidates.draw(number), key: value})
            return None
        except UserError as error:
            own = [problem.what for problem in error.problems if problem.what.partition(":")[0] == key]
            if not own:
                return None
            reason = reason or _without_group(own[0])
    return reason


def _without_group(what: str) -> str:
    """Return a problem without the group at its end: it is that of any draw."""
    return re.sub(r" \[[^][]*\]$", "", what)


def expected_plan(given: Plan, drawn: Plan, limit: int | None) -> Plan:
    """Return the trials that a search is known to run when it begins: those given out already, and as many of its first
    draws as the limit leaves room for."""
    ids = {trial.id for trial in given}
    others = [trial for trial in drawn if trial.id not in ids]
    room = len(others) if limit is None else max(0, limit - len(ids))
    return Plan((*given, *others[:room]))
