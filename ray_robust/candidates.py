"""What a search may run: values drawn from its space as trials, or why they cannot be.

Owns the check of a drawn mixture against the data, and the configurations that a plan shows. Hands on to the command,
and to `launch.search`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ray_robust.errors import UserError
from ray_robust.plan import Configuration, Plan
from ray_robust.preparation import Draws, Sweep, draw_all

CHECKED = 100  # configurations of a plan that are drawn to see whether the sources hold them; a run checks every one
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
    """The first draws from the prior: those that can be run, and how many cannot or repeat another."""

    configurations: tuple[Configuration, ...]
    left_out: int
    subsets: Draws

    @property
    def plan(self) -> Plan:
        """Their trials."""
        return Plan(tuple(trial for one in self.configurations for trial in one.trials))


def preview(sweep: Sweep, count: int) -> Preview:
    """The first `count` configurations that are drawn from the prior, as a search draws them."""
    candidates = Candidates(sweep)
    seen: set[str] = set()
    left_out = 0

    def found() -> Iterator[Configuration]:
        nonlocal left_out
        number = since = 0
        while since < MOST_TRIED:
            number, since = number + 1, since + 1
            try:
                one = candidates.configure(candidates.draw(number - 1), check=len(seen) < CHECKED)
            except UserError:
                left_out += 1
                continue
            if one.key in seen:
                left_out += 1
                continue
            seen.add(one.key)
            since = 0
            yield one

    return Preview(tuple(islice(found(), count)), left_out, candidates.subsets)
