"""The design of a sweep as its power depends on it: how many trials and fine-tunings each group has, what varies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import log10
from typing import Any

from analysis.stats.task_points import LEAST_SEEDS
from ray_robust.run.analysis_settings import DEFAULTS

FACTORS = ("num_images", "num_classes")


@dataclass(frozen=True)
class Design:
    """What is planned, for one task. Counts of trials, and of fine-tunings within one of them.

    groups       trials of every group but the baseline, in the plan's order
    factors      of each number that the groups vary: its decimal logarithm in each group
    test_groups  how many groups (cameras, hospitals) each source of error named after them has
    same_seeds   whether every group, the baseline too, has the same seeds, one trial of each
    """

    groups: Mapping[str, int]
    baseline: int
    finetunings: int
    baseline_finetunings: int
    factors: Mapping[str, tuple[float, ...]]
    test_groups: Mapping[str, int] = field(default_factory=dict)
    margin: float = DEFAULTS.margin
    same_seeds: bool = False

    @property
    def paired(self) -> bool:
        """Whether the analysis will pair groups by seed (see `task_points.pairing`)."""
        return self.same_seeds and self.trials >= LEAST_SEEDS

    def with_seeds(self, seeds: int) -> Design:
        """Return the same with so many trials in every group; the baseline keeps its ratio to them."""
        ratio = self.baseline / max(self.trials, 1)
        return replace(self, groups=dict.fromkeys(self.groups, seeds), baseline=max(1, round(ratio * seeds)))

    @property
    def trials(self) -> int:
        """Trials of the smallest group."""
        return min(self.groups.values(), default=0)


def design_of(
    rows: Iterable[Mapping[str, Any]], baseline: str, margin: float, test_groups: Mapping[str, int] | None = None
) -> Design:
    """Return the design behind the rows of a plan (see `Plan.rows`): how many trials and fine-tunings each group
    has."""
    trials, finetunings = dict[str, int](), dict[str, int]()
    levels: dict[str, dict[str, set]] = {}
    seeds: dict[str, list[Any]] = {}
    for row in rows:
        group = str(row["group"])
        seeds.setdefault(group, []).append(row.get("seed"))
        trials[group] = trials.get(group, 0) + 1
        tasks = list(json.loads(row["finetunes"]).values())
        finetunings[group] = max(tasks.count(task) for task in tasks) if tasks else 0
        for factor in FACTORS:
            levels.setdefault(factor, {}).setdefault(group, set()).add(row.get(factor))
    own = {group: count for group, count in trials.items() if group != baseline}
    factors = {}
    for factor, values in levels.items():
        varied = [values[group] for group in own]
        if all(len(level) == 1 and _positive(next(iter(level))) for level in varied):
            logs = tuple(log10(float(next(iter(level)))) for level in varied)
            if len(set(logs)) > 1:
                factors[factor] = logs
    each = {tuple(sorted(map(str, own))) for own in seeds.values()}
    same = len(each) == 1 and None not in seeds[group] and len(set(seeds[group])) == len(seeds[group])
    return Design(own, trials.get(baseline, 0), max((finetunings[g] for g in own), default=0),
                  finetunings.get(baseline, 0), factors, test_groups or {}, margin, same)  # fmt: skip


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
