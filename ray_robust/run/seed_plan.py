"""How many seeds each group of a sweep in two stages gets: the rule of its spec, and the plan that a run folder keeps.

The first stage gives every group `first` seeds. What its scatter then asks for is decided in
`analysis.predict.second_stage`; the sweep and the report read it here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ray_robust.files.storage import Storage
from ray_robust.run.analysis_settings import settings_of
from ray_robust.text.names import count_noun

if TYPE_CHECKING:
    from ray_robust.run.run_folder import RunFolder  # brings pandas, which reading a spec need not wait for

FILE = "seeds.json"
GROUPS, TREND = "groups", "trend"  # what `of` may be, beside two groups by name
EARLY, WHOLE = 0.01, 0.05  # error probability of a claim after the first stage, and of all claims of a study
BONFERRONI = {"early": WHOLE / EARLY, "late": WHOLE / (WHOLE - EARLY)}  # by what p is multiplied at each look

DECIDED, NARROW, MORE, CAPPED = "decided", "narrow enough", "more seeds", "as many as may be"
OUT_OF_REACH, UNLIKELY, UNKNOWN = "out of reach", "unlikely", "no interval"


@dataclass(frozen=True)
class SeedRule:
    """What a spec asks of its seeds.

    first, most  seeds of every group in the first stage, and at most
    until        how wide an interval of 95 % may be, percentage points; None: until a difference, or that there is none
                 beyond the margin, is shown
    of           whose interval: `GROUPS` (each against the baseline), `TREND`, or two groups
    """

    first: int
    most: int
    until: float | None
    of: str | tuple[str, str] = GROUPS

    @property
    def asked(self) -> str:
        """What is asked for, in words."""
        whose = {GROUPS: "every group against the baseline", TREND: "every trend"}
        named = whose[self.of] if isinstance(self.of, str) else " against ".join(self.of)
        if self.until is None:
            return f"a difference, or none beyond the margin, for {named}"
        return f"an interval of {self.until:g} points for {named}"


def rule_of(spec: Mapping[str, Any]) -> SeedRule | None:
    """Return the rule of a run's spec.yaml as a mapping; None where its seeds are fixed."""
    raw = spec.get("seeds")
    if not isinstance(raw, Mapping):
        return None
    until, of = raw["until"], raw.get("of", GROUPS)
    width = None if isinstance(until, Mapping) else float(until)
    return SeedRule(int(raw["first"]), int(raw["most"]), width, of if isinstance(of, str) else tuple(of))


def baseline_of(spec: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return the name of a run's baseline, and how many seeds its spec fixes for it, None where it does not."""
    section = spec.get("baseline")
    fixed = section.get("seeds") if isinstance(section, Mapping) else None
    return settings_of(spec).baseline, None if fixed is None else int(fixed)


@dataclass(frozen=True)
class Need:
    """What one comparison asked for.

    what, task     the comparison, and its task where there are several
    state          what became of it, one of those above
    width          of its 95 % interval after the first stage; `planned`: with the seeds that the plan has
    least          that no number of seeds takes away
    """

    what: str
    task: str
    state: str
    width: float
    planned: float
    least: float

    def sentence(self, rule: SeedRule) -> str:
        """What there is to say about it."""
        name = f"{self.task}: {self.what}" if self.task else self.what
        if self.state == UNKNOWN:
            return f"{name}: the first stage gives no interval, so no seed was spent on it"
        now = f"{name}: {self.width:.1f} points wide after {rule.first} seeds"
        if self.state == OUT_OF_REACH:
            goal = "that decides it" if rule.until is None else f"of {rule.until:g}"
            return (
                f"{now}; a width {goal} cannot be reached, for {self.least:.1f} of it no seed takes away: none was "
                "spent on it"
            )
        if self.state == UNLIKELY:
            return f"{now}; {rule.most} seeds would hardly decide it (under one in five), so none was spent on it"
        if self.state == CAPPED:
            return f"{now}, about {self.planned:.1f} with the {rule.most} that it may have"
        if self.state == MORE:
            return f"{now}, about {self.planned:.1f} with more"
        return f"{now}: {self.state}"


@dataclass(frozen=True)
class SeedPlan:
    """How many seeds every group has, the baseline too, and why.

    meaning   of the first stage and its rule: a plan of another one does not hold
    trials    by group, how many each of its seeds is (one per model)
    limits    by group, the most seeds that it may have: a spec may fix the baseline's; a plan that an earlier version
              kept has none, and `rule.most` stands for them
    """

    meaning: str
    rule: SeedRule
    seeds: Mapping[str, int]
    trials: Mapping[str, int]
    needs: tuple[Need, ...]
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> int:
        """Trials of both stages."""
        return sum(count * self.trials.get(group, 1) for group, count in self.seeds.items())

    @property
    def most(self) -> int:
        """Trials that the largest number of seeds would be, of a group whose seeds are fixed these."""
        return sum(
            max(count, self.limits.get(group, self.rule.most)) * self.trials.get(group, 1)
            for group, count in self.seeds.items()
        )

    def sentences(self) -> list[str]:
        """What was asked, spent and saved, and what could not be had."""
        rule, by_count = self.rule, dict[int, list[str]]()
        for group, count in self.seeds.items():
            by_count.setdefault(count, []).append(group)
        many = "; ".join(f"{count} for {', '.join(names)}" for count, names in sorted(by_count.items()))
        fixed = [group for group, limit in self.limits.items() if limit != rule.most]
        each = f"of each group but {', '.join(fixed)}" if fixed else "each"
        fewer = f"{self.most - self.spent} fewer than {rule.most} seeds {each}"
        lines = [
            f"asked for {rule.asked}, with {rule.first} to {rule.most} seeds",
            f"planned: {many}: {count_noun(self.spent, 'trial')}, {fewer}",
        ]
        return [*lines, *(need.sentence(rule) for need in self.needs if need.state not in (NARROW, DECIDED))]

    def verdict(self) -> dict[str, Any]:
        """Return what verdict.json has of it: what was asked, spent, and saved."""
        plain = self.plain()
        rule = {**plain["rule"], "until": {"margin": True} if self.rule.until is None else self.rule.until}
        return {"asked": rule, "seeds": plain["seeds"], "trials": self.spent, "most_trials": self.most,
                "saved": self.most - self.spent, "needs": plain["needs"], "sentences": self.sentences()}  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        needs = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(need).items()}
                 for need in self.needs]  # fmt: skip
        return {"meaning": self.meaning, "rule": asdict(self.rule), "seeds": dict(self.seeds),
                "trials": dict(self.trials), "needs": needs, "limits": dict(self.limits)}  # fmt: skip


def _need(kept: Mapping[str, Any]) -> Need:
    widths = (math.nan if kept[key] is None else float(kept[key]) for key in ("width", "planned", "least"))
    return Need(str(kept["what"]), str(kept["task"]), str(kept["state"]), *widths)


def recorded(folder: Storage) -> SeedPlan | None:
    """Return the plan that a run folder keeps; None where there is none, or it could not be one: a damaged file must
    neither end a command nor train for years."""
    kept = folder.recall_json(FILE) or {}
    try:
        raw = kept["rule"]
        of = raw["of"] if isinstance(raw["of"], str) else tuple(raw["of"])
        rule = SeedRule(int(raw["first"]), int(raw["most"]), raw["until"], of)
        needs = tuple(_need(one) for one in kept["needs"])
        seeds, trials, limits = (
            {str(group): int(count) for group, count in own.items()}
            for own in (kept["seeds"], kept["trials"], kept.get("limits", {}))
        )
        plan = SeedPlan(str(kept["meaning"]), rule, seeds, trials, needs, limits)
        plan.sentences()
        return plan
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):  # JSON's 1e999 is no int
        return None


def plans_of(runs: Iterable[RunFolder]) -> list[tuple[RunFolder, SeedPlan]]:
    """Return the runs whose seeds came in two stages, each with its plan; not those that have none yet."""
    plans = ((run, recorded(run.storage)) for run in runs if rule_of(run.spec()) is not None)
    return [(run, plan) for run, plan in plans if plan is not None]
