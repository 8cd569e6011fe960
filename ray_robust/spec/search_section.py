"""The section `search` of a sweep's YAML: how a sweep chooses its mixtures, by which objective, and when it ends.

Owns which keys there are and which of them contradict each other. `search_space` has what is drawn, `conditions` what
`where` means.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_robust import registry
from ray_robust.errors import did_you_mean
from ray_robust.spec.sections import LARGEST_SEED, MOST_TRIALS, Positive, Rate, Section
from ray_robust.spec.validation_messages import short_repr

EFFECTIVE_ROBUSTNESS = "effective_robustness"
OBJECTIVES = (EFFECTIVE_ROBUSTNESS, "id_val", "ood_val", "upstream_accuracy", "seconds_pretrain", "seconds_finetune")
PROBED = (
    EFFECTIVE_ROBUSTNESS,
    "id_val",
    "ood_val",
)  # objectives that a probe of an unfinished pre-training can estimate


class Budget(Section):
    """What a search may spend in all, earlier runs in the same folder counted in; no trial begins beyond it."""

    images: Positive | None = None  # training images, of pre-training and fine-tuning, the baseline's too
    device_hours: Rate | None = None  # of trials: GPUs where trials have some, else workers

    @model_validator(mode="after")
    def _says_something(self) -> Budget:
        if self.images is None and self.device_hours is None:
            raise ValueError("give images or device_hours, or both")
        return self


class Stop(Section):
    """Asynchronous successive halving: a pre-training that is behind at a milestone is stopped (Li et al., "A System
    for Massively Parallel Hyperparameter Tuning", MLSys 2020)."""

    method: Literal["asha"] = "asha"
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.11, 0.33)
    keep: Annotated[float, Field(gt=0, lt=1)] = 1 / 3  # share of those that reached a milestone which may go on

    @field_validator("milestones")
    @classmethod
    def _rise(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(late <= early for early, late in itertools.pairwise(milestones)):
            raise ValueError("must rise, as shares of a pre-training: [0.1, 0.3]")
        return milestones


class Search(Section):
    """How a sweep chooses its mixtures: a method of `registry.SEARCHES`, its objective and its limits."""

    method: str = "grid"
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None  # configurations; each is run with every seed
    objective: str = EFFECTIVE_ROBUSTNESS
    mode: Literal["max", "min"] = "max"
    where: tuple[str, ...] = ()  # conditions that a mixture must meet, see `conditions`
    budget: Budget | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] = 0
    startup: Positive = 10  # of a method that learns: configurations drawn at random before it begins to learn

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

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_is_known(cls, raw: Any) -> Any:
        return _with_known_keys(Budget, raw)

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_by_name(cls, raw: Any) -> Any:
        return {"method": raw} if isinstance(raw, str) else _with_known_keys(Stop, raw)

    @field_validator("objective")
    @classmethod
    def _objective_is_no_test(cls, objective: str) -> str:
        if objective not in OBJECTIVES:
            test = objective.startswith(("id", "ood"))
            why = " is a score on a test split, which the objective of a search must not use" if test else " is unknown"
            raise ValueError(f"{objective!r}{why}{did_you_mean(objective, OBJECTIVES)}")
        return objective

    @model_validator(mode="after")
    def _goes_together(self) -> Search:
        written = self.model_fields_set
        learning = [name for name, method in registry.SEARCHES.items() if method.learns]
        if not self.draws:
            if drawn := sorted(written & {"trials", "objective", "mode", "budget", "stop", "seed", "startup"}):
                methods = " or ".join(name for name, method in registry.SEARCHES.items() if method.draws)
                raise ValueError(f"{drawn[0]} belongs to method {methods}; a {self.method} runs all that is written")
        elif self.trials is None and self.budget is None:
            raise ValueError("give trials (how many mixtures to draw) or a budget")
        if self.draws and self.method not in learning and "startup" in written:
            raise ValueError(f"startup belongs to method {' or '.join(learning)}; {self.method} draws do not learn")
        if self.stop is not None and (self.objective not in PROBED or self.mode != "max"):
            raise ValueError(f"stop needs mode max and an objective that a probe can tell: {', '.join(PROBED)}")
        return self


def _with_known_keys(cls: type[Section], raw: Any) -> Any:
    """Return `raw`, a section within the section. Raise ValueError at a key that the section does not have."""
    if isinstance(raw, dict) and (odd := [key for key in raw if key not in cls.model_fields]):
        raise ValueError(f"{odd[0]} is no key of it{did_you_mean(odd[0], cls.model_fields)}")
    return raw
