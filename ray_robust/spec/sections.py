"""The sections of a sweep's YAML as frozen models: which keys there are, what each means and what it may be.

Owns how numbers are written (`3e-4`, `64k`, `1_000`) and which values contradict each other within one section. No
torch, no ray.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ray_robust.errors import did_you_mean
from ray_robust.registry import METHODS
from ray_robust.run.analysis_settings import DEFAULTS, ScaleName
from ray_robust.spec.class_selection import ClassSelection, parse_classes, parse_granularity, parse_weights

Positive = Annotated[int, Field(gt=0, le=10**12)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Augmentation = Literal["none", "flip", "crop", "strong"]
Optimizer = Literal["adamw", "sgd"]
LARGEST_SEED = 2**32
LARGEST_SIZE = 2048  # px of an image: a square of 12 MB
MOST_TRIALS = 1_000_000  # of a sweep: more is a typing error, and would fill the memory before anyone saw it


class Section(BaseModel):
    """A part of the YAML: frozen, no unknown keys, numbers read by the field's type (`3e-4`, `64k`, `1_000`).

    `only_for` maps a key to the methods that use it. Any other method ignores the key, so that methods can vary over
    one section and no trial is named by what it does not use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {}

    @classmethod
    def idle(cls, method: str) -> set[str]:
        """Return the keys that this method ignores."""
        return {key for key, methods in cls.only_for.items() if method not in methods}

    @model_validator(mode="before")
    @classmethod
    def _leave_out_idle_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not cls.only_for:
            return raw
        idle = cls.idle(str(raw.get("method", cls.model_fields["method"].default)))
        return {key: value for key, value in raw.items() if key not in idle}

    @model_validator(mode="before")
    @classmethod
    def _read_numbers(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: number_for(cls.model_fields.get(key), value) for key, value in raw.items()}


def number_for(field: Any, value: Any) -> Any:
    """Return `value` as the number that `field` wants, where its text is one; pydantic judges anything else."""
    if field is None:
        return value
    wanted = types_in(field.annotation)
    if isinstance(value, bool) and bool not in wanted and wanted & {int, float}:
        return str(value).lower()  # pydantic would take true for 1
    if not isinstance(value, str) or not wanted & {int, float}:
        return value
    number = parse_number(value)
    return value if number is None else number


def is_whole(field: Any) -> bool:
    """Return whether a field's numbers are whole ones."""
    wanted = types_in(field.annotation)
    return int in wanted and float not in wanted


def types_in(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    parts = typing.get_args(annotation)
    return set().union(*map(types_in, parts)) if parts else {annotation}


def parse_number(text: str) -> int | float | None:
    """Return the number of a text: `64k` is 64000, `1.2M` 1200000, `1_000` 1000, `3e-4` 0.0003; None where it is
    no finite number."""
    text = text.strip().replace("_", "")
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = float(text if scale == 1 else text[:-1]) * scale
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return round(value) if abs(value - round(value)) < 1e-6 * max(1.0, abs(value)) and abs(value) >= 1 else value


def parse_size(text: Any) -> Any:
    """Return `20G`, `1.5 TB` or `500MB` in bytes; pydantic judges anything else."""
    match = re.fullmatch(r"([\d_.]+)\s*([kMGT])B?", text.strip()) if isinstance(text, str) else None
    number = parse_number(match[1]) if match else None
    return text if number is None or match is None else round(number * 1000 ** ("kMGT".index(match[2]) + 1))


class PoolSection(Section):
    """A source or a task by name; `kind` is the registered class where the name is the user's own."""

    kind: str
    options: Any  # the validated Options of that class


class TaskSection(PoolSection):
    name: str


class SourceSection(PoolSection):
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class ModelSection(Section):
    """The network: any name of timm, or open_clip:NAME for the image tower of one of open_clip; images are square."""

    name: str = "test_resnet"
    image_size: Annotated[int, Field(ge=8, le=LARGEST_SIZE)] = 32
    precision: Literal["auto", "bf16", "float32"] = "auto"  # auto: bf16 where the processor or GPU computes in it
    compile: bool | Literal["auto"] = "auto"  # torch.compile; auto: in long trainings, where it was measured to win


class Training(Section):
    """What pre-training and fine-tuning share."""

    lr: Rate
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    optimizer: Optimizer = "adamw"
    batch_size: Positive = 128
    warmup: Fraction = 0.05  # share of all steps over which the learning rate rises; then it falls along a cosine
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    augment: Augmentation = "crop"


class Pretrain(Training):
    """One mixture and how it is trained on."""

    lr: Rate = 3e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    method: str = "supervised"
    sources: dict[str, SourceSection] = {}  # at least one, but for weights, which trains on nothing
    num_images: Positive | Literal["all"] = "all"
    num_classes: Positive | Literal["all"] = "all"
    images_per_class: Positive | None = None
    classes: ClassSelection | None = None  # none: all; else names, a subtree, those near or far from one, a CSV
    match: bool = True  # where `classes` varies, numbers of classes and images that are not given are made equal
    granularity: str = "class"  # or a rank of the hierarchy, depth:N, labels:N, random:K, map:PATH.csv
    subclasses_per_label: Positive | None = None  # none: all; so many classes feed each label of a coarser granularity
    label_space: Literal["separate", "shared"] = "separate"  # shared: equal labels of several sources are one
    balance: Literal["natural", "uniform"] = "natural"  # classes by their share of the source, or all alike
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of every class kept back for upstream accuracy
    subset_seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] | None = (
        None  # none: every seed draws its own nested subsets
    )
    images_seen: Positive | None = None
    epochs: Positive | None = None
    temperature: Rate = 0.5  # simclr: what similarities are divided by
    projection: Positive = 128  # simclr, clip: the width that images (and texts) are compared at
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of a {}.",)  # clip: texts, by label
    text_width: Annotated[int, Field(ge=64, multiple_of=64, le=4096)] = 128  # clip: of the text transformer
    text_layers: Positive = 2
    text_length: Annotated[int, Field(ge=4, le=1024)] = 32  # clip: in tokens; what is longer is cut
    weights: str | None = None  # weights: a tag of timm or open_clip, or a file or folder

    only_for = {
        "temperature": ("simclr",),
        "projection": ("simclr", "clip"),
        "templates": ("clip",),
        "text_width": ("clip",),
        "text_layers": ("clip",),
        "text_length": ("clip",),
        "weights": ("weights",),
    }

    @classmethod
    def idle(cls, method: str) -> set[str]:
        """Return the keys that this method ignores: published weights are not trained here, so no other key applies."""
        return set(cls.model_fields) - {"method", "weights"} if method == "weights" else super().idle(method)

    @model_validator(mode="before")
    @classmethod
    def _two_views_are_strong(cls, raw: Any) -> Any:
        return {"augment": "strong", **raw} if isinstance(raw, dict) and raw.get("method") == "simclr" else raw

    _classes = field_validator("classes", mode="before")(parse_classes)
    _granularity = field_validator("granularity", mode="before")(parse_granularity)
    _weights = field_validator("weights", mode="before")(parse_weights)

    @property
    def tables(self) -> dict[str, str]:
        """The CSV files that keys name, by key."""
        named = {"classes": self.classes.file if self.classes else None}
        named["granularity"] = self.granularity.removeprefix("map:") if self.granularity.startswith("map:") else None
        return {key: file for key, file in named.items() if file is not None}

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"{method!r} is no known method{did_you_mean(method, METHODS)}")
        return method

    @field_validator("templates")
    @classmethod
    def _templates_name_the_label(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for text in templates:
            if text.count("{}") != 1 or text.replace("{}", "").strip("{}") != text.replace("{}", ""):
                raise ValueError(f"{text!r} must hold {{}} once, where the label goes")
        return templates

    @model_validator(mode="after")
    def _lengths_fit(self) -> Pretrain:
        if self.method == "weights":
            if not self.weights:
                raise ValueError("method weights needs weights: a tag of timm or open_clip, or a file or folder")
            return self
        if self.method in ("simclr", "clip") and self.batch_size == 1:
            raise ValueError(f"method {self.method} compares the images of a batch; give batch_size at least 2")
        if self.method == "simclr" and self.augment == "none":
            raise ValueError("augment none makes the two views of method simclr the same; strong is the custom")
        if not self.sources:
            raise ValueError("give at least one source, e.g. sources: {species: 1.0}")
        if (self.images_seen is None) == (self.epochs is None):
            raise ValueError("give images_seen or epochs, one of the two")
        if self.subclasses_per_label is not None:
            if self.granularity in ("class", "leaf"):
                raise ValueError("subclasses_per_label needs a granularity coarser than class")
            if self.num_classes != "all":
                raise ValueError("subclasses_per_label says how many classes there are; leave num_classes out")
        if self.images_per_class is not None:
            if self.num_images != "all" and self.num_classes == "all":
                raise ValueError("with num_images and images_per_class give num_classes as well, or leave one out")
            if isinstance(self.num_images, int) and isinstance(self.num_classes, int):
                product = self.num_classes * self.images_per_class
                if product != self.num_images:
                    raise ValueError(f"num_classes x images_per_class is {product}, num_images is {self.num_images}")
        if (
            isinstance(self.num_images, int)
            and isinstance(self.num_classes, int)
            and self.num_images < self.num_classes
        ):
            raise ValueError(f"{self.num_images} images cannot fill {self.num_classes} classes")
        return self


class Finetune(Training):
    """One fine-tuning with a fresh head."""

    lr: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    method: Literal["full", "linear", "lp-ft"] = "full"  # all weights, a new head alone, or first the head, then all
    epochs: Positive = 12
    evaluate_every: Positive = 3  # in epochs; the last epoch is always evaluated
    num_images: Positive | None = None  # of the task's training images, with its shares of classes; none: all of them
    per_class: Positive | None = None  # so many of every class instead, and all of a class that holds fewer
    probe_epochs: Positive = 10  # lp-ft: of the head alone, before `epochs` of everything
    probe_lr: Rate = 1e-2
    wise_ft: tuple[Fraction, ...] = ()  # lp-ft: points between the probed (0) and the fine-tuned weights (1)

    only_for = {"probe_epochs": ("lp-ft",), "probe_lr": ("lp-ft",), "wise_ft": ("lp-ft",)}

    @property
    def passes(self) -> int:
        """Passes over the training images that cost a step: a linear probe computes the features of each image once."""
        return 1 if self.method == "linear" else self.epochs + (self.method == "lp-ft")

    @model_validator(mode="after")
    def _one_size(self) -> Finetune:
        if self.num_images is not None and self.per_class is not None:
            raise ValueError("give num_images or per_class, one of the two")
        return self

    def training_images(self, per_class: Sequence[int]) -> int:
        """Return how many images it trains on where the task's classes hold `per_class` training images."""
        if self.per_class is not None:
            return sum(min(self.per_class, count) for count in per_class)
        return min(self.num_images or sum(per_class), sum(per_class))

    def in_full(self) -> Finetune:
        """Return the same for a model from scratch, which has no features to probe: every weight is trained."""
        return self if self.method == "full" else Finetune(**self.model_dump(exclude={"method"}))


class Baseline(Section):
    """The points that the reference trend is fitted on: models fine-tuned from scratch, or a group of the sweep."""

    name: str = DEFAULTS.baseline
    seeds: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None  # none: as many as the sweep has
    finetune: dict[str, Any] = {}  # what differs from `finetune`, e.g. more epochs, so that the ID ranges overlap


class Resources(Section):
    """What one trial may use, and how long the sweep waits; no part of a trial's identity."""

    workers: Positive = 1  # or {min: 1, max: 4}: as many as there is room for, more or fewer as nodes come and go
    min_workers: Positive | None = None  # what {min: ...} becomes; none: all of `workers`
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # 0.25: four workers share a GPU
    cpus_per_worker: Positive = 1
    finetunings_at_once: Positive = 1  # interleaved in one process, over one copy of the images
    heartbeat: Positive = 1800  # seconds without progress after which a worker is ended and its trial tried again
    disk: Positive | None = None  # bytes (20G) that shared pre-trained weights may take; the least used go first

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

    @model_validator(mode="after")
    def _can_be_placed(self) -> Resources:
        if self.fewest_workers > self.workers:
            raise ValueError(f"workers: min {self.fewest_workers} is above max {self.workers}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(f"gpus_per_worker must be whole above 1, not {self.gpus_per_worker:g}")
        return self

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
    """Set before any result is known: the scale of the line, the margin of "no effect", the R2 below which ER is
    not given."""

    scale: ScaleName = DEFAULTS.scale
    margin: Rate = DEFAULTS.margin
    min_r2: Fraction = DEFAULTS.min_r2
