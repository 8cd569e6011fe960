"""The sections of a sweep's YAML that are no part of a training: its baseline, resources, analysis, and other keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_robust.registry import LOGS
from ray_robust.run.analysis_settings import DEFAULTS, LookName, ScaleName
from ray_robust.run.seed_plan import GROUPS, TREND, SeedRule
from ray_robust.spec.section import LARGEST_SEED, MOST_TRIALS, Contradiction, Section
from ray_robust.spec.values import Fraction, Positive, Rate, parse_number, parse_size, short_repr

MOST_SEEDS = 200  # of a group in two stages: more is a wish that another design fulfils


class Baseline(Section):
    """The points that the line is fitted on: models fine-tuned from scratch, or a group of the sweep. A name alone is
    short for `{name: ...}`."""

    name: str = Field(
        default=DEFAULTS.baseline,
        description="`scratch`, `none`, or a group of the sweep such as `num_images=1000`",
        examples=["name: none"],
    )
    seeds: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = Field(
        default=None, description="how many; not given: as many as the sweep has", examples=["seeds: 5"]
    )
    finetune: dict[str, Any] = Field(
        default={},
        description="keys of `finetune` that differ for the baseline, so that the ID scores overlap",
        examples=["finetune: {epochs: 24}"],
    )
    spread: Literal["auto"] | None = Field(
        default=None,
        description="`auto`: fine-tunings of further sizes and lengths, so that the ID scores spread evenly from near "
        "chance upwards, beside the groups' own; a pilot of a few fine-tunings from scratch decides which, before "
        "the rest of the baseline runs",
        examples=["spread: auto"],
    )
    stop_if_no_line: bool = Field(
        default=False,
        description="whether nothing else begins before the baseline is done, and the sweep ends there, with exit code "
        "1, where its points make no line",
        examples=["stop_if_no_line: true"],
    )


class Resources(Section):
    """What one trial may use, and how long the sweep waits; no part of a trial's identity."""

    workers: Positive = Field(
        default=1,
        description="workers that train one trial as a group; `{min: 1, max: 4}`: as many as there is room for",
        examples=["workers: 2", "workers: {min: 1, max: 4}"],
    )
    min_workers: Positive | None = Field(
        default=None,
        description="the `min` of `workers`; not given: all of them",
        examples=["workers: 4, min_workers: 1"],
    )
    gpus_per_worker: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="0.25: four workers share a GPU",
        examples=["gpus_per_worker: 1"],
    )
    cpus_per_worker: Positive = Field(
        default=1, description="CPU cores of each worker", examples=["cpus_per_worker: 4"]
    )
    finetunings_at_once: Positive = Field(
        default=1,
        description="fine-tunings interleaved in one process, over one copy of the images; experimental on a GPU",
        examples=["finetunings_at_once: 3"],
    )
    heartbeat: Positive = Field(
        default=1800,
        description="seconds without progress after which a worker is ended and its trial tried again",
        examples=["heartbeat: 600"],
    )
    disk: Positive | None = Field(
        default=None,
        description="bytes that shared pre-trained weights may take; the least used are deleted first",
        examples=["disk: 20G"],
    )
    price: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="of an hour of a GPU, in any currency (without `gpus_per_worker`: of this machine); `--plan` tells "
        "the cost with it",
        examples=["price: 2.5"],
    )

    @model_validator(mode="before")
    @classmethod
    def _elastic(cls, raw: Any) -> Any:
        workers = raw.get("workers") if isinstance(raw, dict) else None
        if not isinstance(workers, dict):
            return raw
        if set(workers) != {"min", "max"} or "min_workers" in raw:
            raise ValueError(
                f"workers is a number, or {{min: 1, max: 4}}, not a mapping of {', '.join(map(str, workers))}"
            )
        return {**raw, "workers": workers["max"], "min_workers": workers["min"]}

    _disk = field_validator("disk", mode="before")(parse_size)

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        if self.fewest_workers > self.workers:
            what = f"workers: min {self.fewest_workers} is above max {self.workers}"
            yield ("workers", "min_workers"), what
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            yield ("gpus_per_worker",), f"gpus_per_worker must be whole above 1, not {self.gpus_per_worker:g}"

    @property
    def fewest_workers(self) -> int:
        """How many workers a trial begins with at least."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while a trial runs."""
        return self.fewest_workers < self.workers

    @property
    def together(self) -> bool:
        """Whether several workers train one trial, as a group."""
        return self.workers > 1


class Analysis(Section):
    """Set before any result is known."""

    scale: ScaleName = Field(
        default=DEFAULTS.scale, description="the scale on which the line is straight", examples=["scale: logit"]
    )
    margin: Rate = Field(
        default=DEFAULTS.margin,
        lt=100,
        description="percentage points of ER that count as no effect",
        examples=["margin: 1.5"],
    )
    min_r2: Fraction = Field(
        default=DEFAULTS.min_r2,
        description="the R^2 of the baseline's line below which no ER is given",
        examples=["min_r2: 0.7"],
    )
    look: LookName = Field(
        default=DEFAULTS.look,
        description="which evaluations of a fine-tuning ER is of: the mean of all, the last, or the one with the "
        "highest id_val; the report has all three",
        examples=["look: last"],
    )


class Seeds(Section):
    """Seeds in two stages: after the first one, by its scatter, more for the groups whose answer needs them."""

    first: Annotated[int, Field(ge=3, le=MOST_SEEDS)] = Field(
        default=4, description="seeds of every group in the first stage", examples=["first: 4, until: 4.0"]
    )
    until: Any = Field(
        description="how wide a 95 % interval may be, percentage points; or `{margin: true}`, until a difference is "
        "shown, or that there is none beyond the margin",
        examples=["until: 4.0", "until: {margin: true}"],
        json_schema_extra={"shown": "number above 0, `{margin: true}`"},
    )
    most: Annotated[int, Field(ge=3, le=MOST_SEEDS)] = Field(
        default=16, description="seeds that a group has at most", examples=["most: 12, until: 4.0"]
    )
    of: Any = Field(
        default=GROUPS,
        description="whose interval: `groups`, of each against the baseline; `trend`, of the slopes over what varies "
        "by number; or two groups by name",
        examples=["of: trend, until: 4.0", "of: [pretrained, scratch], until: 4.0"],
        json_schema_extra={"shown": "`groups`, `trend`, list of two groups"},
    )

    @field_validator("until", mode="before")
    @classmethod
    def _until(cls, raw: Any) -> Any:
        value: Any = parse_number(raw) if isinstance(raw, str) else raw
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == {"margin": True} or (number and 0 < value < math.inf):
            return value
        raise ValueError(f"must be a number of points above 0, or {{margin: true}}, not {short_repr(raw)}")

    @field_validator("of", mode="before")
    @classmethod
    def _of(cls, raw: Any) -> Any:
        pair = isinstance(raw, list | tuple) and len({str(name) for name in raw}) == 2 == len(raw)
        if raw in (GROUPS, TREND) or (pair and all(isinstance(name, str) for name in raw)):
            return raw if isinstance(raw, str) else tuple(raw)
        raise ValueError(f"must be {GROUPS}, {TREND}, or a list of two different groups, not {short_repr(raw)}")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        if self.most < self.first:
            yield ("first", "most"), f"most: {self.most} is below first: {self.first}"

    @property
    def rule(self) -> SeedRule:
        """The rule in the form that the analysis reads."""
        return SeedRule(self.first, self.most, None if isinstance(self.until, dict) else float(self.until), self.of)


class OtherKeys(Section):
    """Keys at the top of the file that are no section."""

    seeds: Positive | tuple[Annotated[int, Field(ge=0, lt=LARGEST_SEED)], ...] | Seeds = Field(
        default=1,
        description="how many, or which ones: each draws its own images and trains its own models; or as many as the "
        "answer needs ([Power and prediction](prediction.md#seeds-where-the-answer-needs-them))",
        examples=["seeds: 3", "seeds: [11, 12]", "seeds: {first: 4, until: 4.0, most: 16}"],
    )
    track: str | tuple[str, ...] = Field(
        default=("csv",),
        description=f"logs for other tools: {', '.join(LOGS)}",
        examples=["track: [csv, tensorboard]"],
    )
    question: str = Field(
        default="",
        description="the question, for the report; not given: that of the comment `# Question:`",
        examples=['question: "Do more images help?"'],
    )
    provenance: Any = Field(
        default=None,
        description="written into a run's spec.yaml: versions and commit; ignored when read",
        examples=["provenance: {}"],
    )
