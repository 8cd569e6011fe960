"""The section `search` of a sweep's YAML: how a sweep chooses its mixtures, by which objective, and when it ends.

Owns which keys there are and which of them contradict each other. `search_space` has what is drawn, `conditions` what
`where` means.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ray_robust import registry
from ray_robust.errors import did_you_mean
from ray_robust.spec.section import LARGEST_SEED, MOST_TRIALS, Contradiction, Section
from ray_robust.spec.values import Positive, Rate, short_repr

EFFECTIVE_ROBUSTNESS = "effective_robustness"
DRAW = "method: random, trials: 20"  # how examples begin
OBJECTIVES = (EFFECTIVE_ROBUSTNESS, "id_val", "ood_val", "upstream_accuracy", "seconds_pretrain", "seconds_finetune")
PROBED = (
    EFFECTIVE_ROBUSTNESS,
    "id_val",
    "ood_val",
)  # objectives that a probe of an unfinished pre-training can estimate


class Budget(Section):
    """What a search may spend in all, earlier runs in the same folder counted in; no trial begins beyond it."""

    images: Positive | None = Field(
        default=None,
        description="training images of pre-training and fine-tuning, the baseline's included",
        examples=["method: random, budget: {images: 50M}"],
    )
    device_hours: Rate | None = Field(
        default=None,
        description="hours of trials: of their GPUs where they have some, else of their workers",
        examples=["method: random, budget: {device_hours: 24}"],
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        if self.images is None and self.device_hours is None:
            yield ("images", "device_hours"), "give images or device_hours, or both"


class Stop(Section):
    """Asynchronous successive halving: a pre-training that is behind at a milestone is stopped (Li et al., "A System
    for Massively Parallel Hyperparameter Tuning", MLSys 2020)."""

    method: Literal["asha"] = Field(
        default="asha",
        description="the rule; its name alone is short for `{method: asha}`",
        examples=[f"{DRAW}, stop: asha"],
    )
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = Field(
        default=(0.11, 0.33),
        description="shares of a pre-training after which it is compared with the others",
        examples=[f"{DRAW}, stop: {{milestones: [0.1, 0.3]}}"],
    )
    keep: float = Field(
        default=1 / 3,
        gt=0,
        lt=1,
        description="share of the pre-trainings that reached a milestone which go on",
        examples=[f"{DRAW}, stop: {{keep: 0.25}}"],
    )

    @field_validator("milestones")
    @classmethod
    def _rise(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(late <= early for early, late in itertools.pairwise(milestones)):
            raise ValueError("must rise, as shares of a pre-training: [0.1, 0.3]")
        return milestones


class Search(Section):
    """How a sweep chooses its mixtures, by which objective and within which limits."""

    method: str = Field(
        default="grid",
        description=f"{', '.join(registry.SEARCHES)}: run all that is written, or draw values left open",
        examples=[DRAW],
    )
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = Field(
        default=None, description="configurations to draw; each is run with every seed", examples=[DRAW]
    )
    objective: str = Field(
        default=EFFECTIVE_ROBUSTNESS,
        description=f"what is sought: {', '.join(OBJECTIVES)}",
        examples=[f"{DRAW}, objective: ood_val"],
    )
    mode: Literal["max", "min"] = Field(
        default="max",
        description="whether the objective is to be high or low",
        examples=[f"{DRAW}, objective: seconds_pretrain, mode: min"],
    )
    where: tuple[str, ...] = Field(
        default=(),
        description="conditions that a mixture must meet ([Searching](search.md))",
        examples=['where: "num_images <= 4k"'],
    )
    budget: Budget | None = Field(
        default=None, description="what the search may spend in all", examples=["method: random, budget: {images: 50M}"]
    )
    stop: Stop | None = Field(
        default=None, description="ends pre-trainings that are behind, as below", examples=[f"{DRAW}, stop: asha"]
    )
    seed: int = Field(default=0, ge=0, lt=LARGEST_SEED, description="of the draws", examples=[f"{DRAW}, seed: 3"])
    startup: Positive = Field(
        default=10,
        description="configurations drawn at random before a method begins to learn",
        examples=["method: optuna, trials: 30, startup: 15"],
    )

    @property
    def draws(self) -> bool:
        """Whether mixtures are drawn rather than written."""
        return registry.SEARCHES[self.method].draws

    @property
    def adaptive(self) -> bool:
        """Whether results decide what runs next, so that the objective is computed while the search runs."""
        return registry.SEARCHES[self.method].learns or self.stop is not None

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_registered(cls, raw: Any) -> Any:
        if not isinstance(raw, str) or raw not in registry.SEARCHES:
            raise ValueError(f"must be one of {', '.join(registry.SEARCHES)}, not {short_repr(raw)}")
        return raw

    @field_validator("where", mode="before")
    @classmethod
    def _one_or_several(cls, raw: Any) -> Any:
        return (raw,) if isinstance(raw, str) else raw

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_by_name(cls, raw: Any) -> Any:
        return {"method": raw} if isinstance(raw, str) else raw

    @field_validator("objective")
    @classmethod
    def _objective_is_no_test(cls, objective: str) -> str:
        if objective not in OBJECTIVES:
            test = objective.startswith(("id", "ood"))
            why = " is a score on a test split, which the objective of a search must not use" if test else " is unknown"
            raise ValueError(f"{objective!r}{why}{did_you_mean(objective, OBJECTIVES)}")
        return objective

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        written = self.model_fields_set
        learning = [name for name, method in registry.SEARCHES.items() if method.learns]
        if not self.draws:
            methods = " or ".join(name for name, method in registry.SEARCHES.items() if method.draws)
            for key in sorted(written & {"trials", "objective", "mode", "budget", "stop", "seed", "startup"}):
                yield ("method", key), f"{key} belongs to method {methods}; a {self.method} runs all that is written"
            return
        if self.trials is None and self.budget is None:
            yield ("method", "trials", "budget"), "give trials (how many mixtures to draw) or a budget"
        if self.method not in learning and "startup" in written:
            what = f"startup belongs to method {' or '.join(learning)}; {self.method} draws do not learn"
            yield ("method", "startup"), what
        if self.stop is not None and (self.objective not in PROBED or self.mode != "max"):
            what = f"stop needs mode max and an objective that a probe can tell: {', '.join(PROBED)}"
            yield ("stop", "objective", "mode"), what
