"""What a search prints: its space and the cost of its draws before it runs, its best configurations after.

Also search.csv in the run folder: one row per configuration, with its drawn values and its outcome.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ray_robust.plan.plan import Configuration, Plan
from ray_robust.prepare.candidates import Preview
from ray_robust.registry import SEARCHES
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS
from ray_robust.spec.validation_messages import format_value
from ray_robust.text.percent import percent
from ray_robust.text.safe_csv import cells

SHOWN = 5  # of the best configurations


class Outcome(Protocol):
    """How a configuration ended; see `launch.search.search.Outcome`."""

    @property
    def configuration(self) -> Configuration: ...
    @property
    def state(self) -> str: ...
    @property
    def value(self) -> float | None: ...


def print_space(out: Console, spec: Spec, first: Preview, baseline: Plan) -> None:
    """Print the space, how many configurations are drawn from it, and the range of their cost."""
    search = spec.search
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("drawn", no_wrap=True)
    table.add_column("from")
    for one in spec.space.dimensions:
        table.add_row(escape(one.key), escape(one.describe()))
    out.print(table)
    for condition in search.where:
        out.print(f"where  {condition}", markup=False, soft_wrap=True)
    how = SEARCHES[search.method].how.format(startup=search.startup)
    wanted = f"{search.trials:,} configurations" if search.trials else "configurations until the budget is spent"
    out.print(f"{search.method}  {wanted}, {how}", soft_wrap=True)
    if search.adaptive:
        out.print(f"objective  {search.mode} {_objective(search.objective)}, on validation splits alone")
    if search.stop is not None:
        shares = ", ".join(percent(share, 0) for share in search.stop.milestones)
        out.print(f"stop  {search.stop.method}: of those that reach {shares} of a pre-training the best "
                  f"{percent(search.stop.keep, 0)} go on")  # fmt: skip
    if (budget := search.budget) is not None:
        limits = [f"{budget.images:,} images"] if budget.images is not None else []
        limits += [f"{budget.device_hours:g} device-hours"] if budget.device_hours is not None else []
        out.print(f"budget  {', '.join(limits)}, whichever is first; no trial begins beyond it")
    costs = sorted(sum(trial.cost for trial in one.trials) for one in first.configurations)
    if costs:
        middle = costs[len(costs) // 2]
        out.print(f"cost of one  {costs[0]:,.0f} to {costs[-1]:,.0f} images, {middle:,.0f} in the middle; the baseline "
                  f"{sum(trial.cost for trial in baseline):,.0f}")  # fmt: skip
    if first.rejected:
        draws = first.rejected + len(first.configurations)
        out.print(f"left out  {first.rejected:,} of the first {draws:,} draws: they are invalid together, do not meet "
                  "a condition, ask for more than there is, or repeat another")  # fmt: skip
        for problem in first.reasons:
            out.print(f"  e.g.  {problem}", markup=False, soft_wrap=True)


def print_best(out: Console, spec: Spec, ranked: Sequence[Outcome], outcomes: Sequence[Outcome], why: str) -> None:
    """Print how a search ended, and its best configurations by the objective."""
    counts = Counter(outcome.state for outcome in outcomes)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "stopped", "failed") if counts[state])
    end = why or "goes on when it is run again"
    out.print(
        f"search   {len(outcomes)} configurations: {states or 'none has ended'}; {end}", markup=False, soft_wrap=True
    )
    if not ranked:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"best by {_objective(spec.search.objective)} on validation splits", no_wrap=True)
    table.add_column("", justify="right")
    for outcome in ranked[:SHOWN]:
        table.add_row(escape(outcome.configuration.group), _value(spec.search.objective, outcome.value))
    out.print(table)


def write_search_table(run: RunFolder, spec: Spec, outcomes: Sequence[Outcome]) -> None:
    """Write search.csv: one row per configuration that has ended, in that order."""
    keys = [one.key for one in spec.space.dimensions]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(cells(["group", "state", spec.search.objective, *keys, "trials"]))
    for outcome in outcomes:
        one = outcome.configuration
        drawn = [format_value(one.values[key]) for key in keys]
        value: Any = "" if outcome.value is None else round(outcome.value, 6)
        writer.writerow(cells([one.group, outcome.state, value, *drawn, json.dumps([t.id for t in one.trials])]))
    run.write("search.csv", buffer.getvalue())


def _objective(name: str) -> str:
    return "effective robustness" if name == EFFECTIVE_ROBUSTNESS else name


def _value(objective: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.1f} pp" if objective == EFFECTIVE_ROBUSTNESS else f"{value:.4g}"
