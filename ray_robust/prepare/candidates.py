"""What a search may run: values drawn from its space as trials, or why they cannot be.

Owns the check of a drawn mixture against the data, and the configurations that a plan shows. Hands on to the command,
and to `launch.search`, which runs them.
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
from ray_robust.prepare.open_sweep import Draws, Sweep, draw_all
from ray_robust.spec.validation_messages import format_value

CHECKED = 100  # configurations of a plan that are drawn to see whether the sources hold them; a run checks every one
TRIED = 10  # draws with a value of a choice, of which one must be possible
SHOWN = 3  # reasons why draws are left out
MOST_TRIED = 1_000  # draws in a row without a new configuration


@dataclass
class Candidates:
    """Values into trials. `subsets` collects what was drawn of the configurations that were checked."""

    sweep: Sweep

    def __post_init__(self) -> None:
        self.subsets = Draws()

    def draw(self, number: int) -> dict[str, Any]:
        """A draw from the prior."""
        return self.sweep.spec.space.draw(number)

    def configure(self, values: Mapping[str, Any], check: bool = True) -> Configuration:
        """The trials of some values. Raises UserError when they do not go together, `search.where` is not met, or a
        source does not hold what they ask for (unless `check` is False)."""
        spec = replace(self.sweep.spec.at(values), baseline_finetunes=())
        plan = self.sweep.plan_of(spec)
        if check:
            self.subsets.add(draw_all(replace(self.sweep, spec=spec, plan=plan), {}))
        return Configuration(dict(values), plan.trials)


@dataclass(frozen=True)
class Preview:
    """The first draws from the prior: those that can be run, how many cannot or repeat another, and why most cannot."""

    configurations: tuple[Configuration, ...]
    left_out: int
    subsets: Draws
    reasons: tuple[Problem, ...] = ()

    @property
    def plan(self) -> Plan:
        """Their trials."""
        return Plan(tuple(trial for one in self.configurations for trial in one.trials))


def preview(sweep: Sweep, count: int) -> Preview:
    """The first `count` configurations that are drawn from the prior, as a search draws them."""
    candidates = Candidates(sweep)
    seen: set[str] = set()
    left_out, reasons = 0, Counter[Problem]()

    def found() -> Iterator[Configuration]:
        nonlocal left_out
        number = since = 0
        while since < MOST_TRIED:
            number, since = number + 1, since + 1
            try:
                one = candidates.configure(candidates.draw(number - 1), check=len(seen) < CHECKED)
            except UserError as error:
                left_out += 1
                reasons.update(replace(problem, what=_of_any_draw(problem.what)) for problem in error.problems)
                continue
            if one.key in seen:
                left_out += 1
                continue
            seen.add(one.key)
            since = 0
            yield one

    configurations = tuple(islice(found(), count))
    most = tuple(problem for problem, _ in reasons.most_common(SHOWN))
    return Preview(configurations, left_out, candidates.subsets, most)


def check_choices(sweep: Sweep) -> None:
    """See that every value that a search may choose can be drawn: one that fails by itself in each of `TRIED` draws is
    a mistake, as it would be in a grid, and not a draw to be left out.

    Raises UserError, with the place of each such value.
    """
    candidates, spec = Candidates(sweep), sweep.spec
    problems = []
    for one in spec.space.dimensions:
        for i, value in enumerate(one.choices):
            said = _why_never(candidates, one.key, value)
            if said is not None:
                place = spec.location(*one.path, "choice", i)
                problems.append(Problem(place, f"{said} [{one.path[-1]}={format_value(value)}]"))
    if problems:
        raise UserError(*problems)


def _why_never(candidates: Candidates, key: str, value: Any) -> str | None:
    """Why no draw can have a value, None where one can, or where it is only not known to be to blame."""
    said: str | None = None
    for number in range(TRIED):
        try:
            candidates.configure({**candidates.draw(number), key: value})
            return None
        except UserError as error:
            own = [problem.what for problem in error.problems if problem.what.partition(":")[0] == key]
            if not own:
                return None
            said = said or _of_any_draw(own[0])
    return said


def _of_any_draw(what: str) -> str:
    """A problem without the group that it was met in, which is named at its end."""
    return re.sub(r" \[[^][]*\]$", "", what)
