"""One piece of advice and its cost, and the words that both are printed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_robust.text.durations import duration
from ray_robust.text.names import count_noun

REASONS = {
    "interim": "the run is not complete",
    "no_points": "the baseline has no points, or too few for a line",
    "task_not_learned": "the baseline has not learned the task",
    "no_shift": "ID and OOD scores are the same numbers",
    "falling": "better ID scores go with worse OOD scores",
    "bent": "the baseline's points lie on a curve",
    "level": "OOD scores do not follow ID scores",
    "few_points": "few baseline points",
    "few_trials": "few baseline trials",
    "narrow": "the baseline's ID scores lie close together",
    "noisy": "the scatter around the line is too wide for any ID range",
    "test_images": "the scatter is mostly sampling error of the test images",
    "test_groups": "too few test groups",
    "few_seeds": "too few trials to decide",
    "extrapolated": "groups lie outside the baseline's ID range",
    "fragile": "a finding does not hold in every check",
    "weak_line": "a check of the baseline's line fails",
    "hardly_learned": "a pre-training hardly learned",
    "still_improving": "a pre-training was still improving at its end",
    "unequal_cost": "the baseline at its best setting was fine-tuned longer than any group",
    "no_group": "there is no group to compare",
    "settled": "every comparison is decided",
}
TIME = re.compile("; about [^;]+ on one worker$")  # how a cost in words ends


@dataclass(frozen=True)
class Cost:
    """What an action takes beyond what the run has: fine-tunings and pre-trainings that are new, the images that they
    process (an evaluated image counts as `throughput.EVALUATION_COST` of one that is trained on), and seconds of one
    worker, None where no rate is known."""

    finetunings: int
    pretrainings: int = 0
    images: int = 0
    seconds: float | None = None

    @property
    def text(self) -> str:
        """Return the cost in words: `27 new fine-tunings, no pre-training; 189,000 images to process`."""
        if not self.finetunings and not self.pretrainings:
            return "nothing new is trained"
        parts = [count_noun(self.finetunings, "new fine-tuning")]
        parts.append(count_noun(self.pretrainings, "new pre-training") if self.pretrainings else "no pre-training")
        time = "" if self.seconds is None else f"; about {duration(self.seconds)} on one worker"  # as TIME says
        images = f"; {self.images:,} images to process" if self.images else ""
        return ", ".join(parts) + images + time


def untimed(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cost as `Advice.plain` has it, without what follows from the rates of the machine that wrote it."""
    own = {key: value for key, value in cost.items() if key != "seconds"}
    return own | ({"text": TIME.sub("", text)} if isinstance(text := own.get("text"), str) else {})


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    reason    a key of `REASONS`
    evidence  a sentence with the numbers that show the reason
    action    a sentence: what to do
    yaml      what to paste into the run's spec in place of the sections of the same name; None where nothing is
    cost      None where it is not known, or nothing is run
    """

    reason: str
    evidence: str
    action: str
    yaml: str | None = None
    cost: Cost | None = None

    def plain(self) -> dict[str, Any]:
        """Return it for verdict.json."""
        cost = None if self.cost is None else {**asdict(self.cost), "text": self.cost.text}
        return {
            "reason": self.reason,
            "evidence": self.evidence,
            "action": self.action,
            "yaml": self.yaml,
            "cost": cost,
        }
