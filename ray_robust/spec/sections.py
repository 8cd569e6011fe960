"""The sections of a sweep's YAML that are trained: which keys there are, what each means, what contradicts what.

A field's description and examples are what `docs/keys.md` prints of its key. `run_sections` has the other sections,
`values` how numbers are written. No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ray_robust.errors import did_you_mean
from ray_robust.registry import METHODS
from ray_robust.spec.class_selection import ClassSelection, parse_classes, parse_granularity, parse_weights
from ray_robust.spec.image_selection import (
    Deduplication,
    ImageSelection,
    LabelNoise,
    parse_dedupe,
    parse_label_noise,
    parse_select,
)
from ray_robust.spec.pool_sections import SourceSection
from ray_robust.spec.section import LARGEST_SEED, Contradiction, Section
from ray_robust.spec.store import Store, parse_store
from ray_robust.spec.training import LabelSmoothing, LearningRate, Training, WeightDecay
from ray_robust.spec.values import Fraction, Positive, Rate, short_repr

LARGEST_SIZE = 2048  # px of an image: a square of 12 MB
# of a pre-training of which no length is given; `bench.recipes` measured that it learns
EPOCHS, MIN_IMAGES_SEEN = 10, 64_000


class ModelSection(Section):
    """The network."""

    name: str = Field(
        default="test_resnet",
        description="a model of timm, or `open_clip:NAME` for the image tower of one of open_clip",
        examples=["name: resnet18", "name: {grid: [resnet18, vit_tiny_patch16_224]}"],
    )
    image_size: int = Field(
        default=32, ge=8, le=LARGEST_SIZE, description="width and height of the images, px", examples=["image_size: 64"]
    )
    precision: Literal["auto", "bf16", "float32"] = Field(
        default="auto",
        description="of training; `auto`: bf16 where the processor or GPU computes in it",
        examples=["precision: float32"],
    )
    compile: bool | Literal["auto", "graphs"] = Field(
        default="auto",
        description="whether torch.compile is used; `auto`: in long trainings, where it was measured to be faster; "
        "`graphs`: as CUDA graphs besides, experimental",
        examples=["compile: false"],
    )
    store: Store | None = Field(
        default=None,
        description="how images are stored for it: `raw`, `compact` or a mapping; `auto`: raw where there is room",
        examples=["store: raw", "store: {size: 288, quality: 95}"],
        json_schema_extra={"shown": "`auto`, `raw`, `compact` or mapping"},
    )
    _store = field_validator("store", mode="before")(parse_store)

    @property
    def stored_side(self) -> int | None:
        """The short side of stored images in px; None: squares."""
        return None if self.store is None else self.store.side(self.image_size)

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        yield from () if self.store is None else self.store.contradicts(self.image_size)


class Pretrain(Training):
    """One mixture and how it is trained on; `none` instead of the section runs the baseline alone."""

    lr: LearningRate = 3e-3
    weight_decay: WeightDecay = 0.05
    method: str = Field(
        default="supervised",
        description=f"how: {', '.join(METHODS)}; a method ignores the keys of the others",
        examples=["method: {grid: [supervised, simclr]}"],
    )
    sources: dict[str, SourceSection] = Field(
        default={},
        description="the sources of the images with their weights, at least one except for method weights",
        examples=["sources: {species: 0.5, fractals: 0.5}"],
    )
    num_images: Positive | Literal["all"] = Field(
        default="all",
        description="images of the whole mixture, drawn at random and nested: 1k lies inside 4k",
        examples=["num_images: {grid: [1k, 4k, 16k]}"],
    )
    num_classes: Positive | Literal["all"] = Field(
        default="all",
        description="classes of the whole mixture, drawn at random and nested",
        examples=["num_classes: 50"],
    )
    images_per_class: Positive | None = Field(
        default=None, description="images of every class, in place of `num_images`", examples=["images_per_class: 64"]
    )
    classes: ClassSelection | None = Field(
        default=None,
        description="which classes: `all`, names, a subtree, those near to or far from a class, or a CSV with the "
        "column `class`; not given: all",
        examples=["classes: {under: order1}", "classes: [species1, species2]"],
        json_schema_extra={"shown": "`all`, list of text, mapping, or a .csv file"},
    )
    select: ImageSelection | None = Field(
        default=None,
        description="which images of these classes, by a column of what is known of them ([which images]"
        "(mixture.md#which-images)); not given, or `all`: all",
        examples=["select: {column: clip_score, top: 0.3}", "select: {grid: [all, {column: width, at_least: 200}]}"],
        json_schema_extra={"shown": "`all` or mapping"},
    )
    dedupe: Deduplication | None = Field(
        default=None,
        description="which images are left out since they are there more than once; not given, or `none`: none",
        examples=["dedupe: {within: true, against: task}"],
        json_schema_extra={"shown": "`none` or mapping"},
    )
    label_noise: LabelNoise | None = Field(
        default=None,
        description="the share of training labels that are made wrong, or a mapping; never of a task",
        examples=["label_noise: {grid: [0, 0.2, 0.4]}"],
        json_schema_extra={"shown": "number at least 0 and below 1, or mapping"},
    )
    match: bool = Field(
        default=True,
        description="where `classes` varies, numbers of classes and images that are not given are made equal",
        examples=["match: false"],
    )
    granularity: str = Field(
        default="class",
        description="how finely labels divide: `class`, a rank of the hierarchy, `depth:N`, a number of labels, "
        "`random:N`, or `map:FILE.csv` with the columns `class,label`",
        examples=["granularity: {grid: [order, family, species]}"],
    )
    subclasses_per_label: Positive | None = Field(
        default=None,
        description="how many classes feed each label of a coarser granularity; not given: all",
        examples=["granularity: family, subclasses_per_label: 2"],
    )
    label_space: Literal["separate", "shared"] = Field(
        default="separate",
        description="`shared`: equal labels of several sources are one label",
        examples=["label_space: shared"],
    )
    balance: Literal["natural", "uniform"] = Field(
        default="natural",
        description="images by class: as many as its share of the source, or equally many of all",
        examples=["balance: uniform"],
    )
    holdout: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of every class, of at most 20 images, that is not trained on: for upstream accuracy",
        examples=["holdout: 0.1"],
    )
    subset_seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] | None = Field(
        default=None,
        description="seed of the images drawn; not given: every seed draws its own nested subsets",
        examples=["subset_seed: 7"],
    )
    images_seen: Positive | None = Field(
        default=None,
        description="length, in images with repetitions, in place of `epochs`",
        examples=["images_seen: 64k"],
    )
    epochs: Positive | None = Field(
        default=None,
        description="length, in passes over the images, in whole batches",
        examples=["epochs: 8"],
        json_schema_extra={"default": f"`{EPOCHS}` without `images_seen`"},
    )
    min_images_seen: Positive | None = Field(
        default=None,
        description="beside `epochs`: the least length, in images with repetitions, so that few images are seen often "
        "enough to learn from",
        examples=["epochs: 5, min_images_seen: 64k"],
        json_schema_extra={"default": f"`{MIN_IMAGES_SEEN}` without `epochs` and `images_seen`"},
    )
    temperature: Rate = Field(
        default=0.5,
        description="what similarities are divided by in the contrastive loss",
        examples=["method: simclr, temperature: 0.2"],
    )
    projection: Positive = Field(
        default=128,
        description="the width that images (and texts) are compared at",
        examples=["method: simclr, projection: 64"],
    )
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("a photo of a {}.",),
        description="texts where a source has no captions; `{}` is the label's name",
        examples=['method: clip, templates: ["a photo of a {}.", "a drawing of a {}."]'],
    )
    text_width: int = Field(
        default=128,
        ge=64,
        multiple_of=64,
        le=4096,
        description="width of the text transformer",
        examples=["method: clip, text_width: 256"],
    )
    text_layers: Positive = Field(
        default=2, description="layers of the text transformer", examples=["method: clip, text_layers: 4"]
    )
    text_length: int = Field(
        default=32,
        ge=4,
        le=1024,
        description="longest text, in tokens; what is longer is cut",
        examples=["method: clip, text_length: 77"],
    )
    weights: str | None = Field(default=None, examples=["method: weights, weights: resnet18.a1_in1k"],
                                description="published weights: a tag of timm or open_clip, `hf-hub:...`, or a file or "
                                "folder")  # fmt: skip

    only_for = {
        "temperature": ("simclr",),
        "projection": ("simclr", "clip"),
        "templates": ("clip",),
        "text_width": ("clip",),
        "text_layers": ("clip",),
        "text_length": ("clip",),
        "weights": ("weights",),
        "label_noise": ("supervised",),
    }

    @classmethod
    def idle(cls, method: str) -> set[str]:
        """Return the keys that this method ignores: published weights are not trained here, so no other key applies."""
        return set(cls.model_fields) - {"method", "weights"} if method == "weights" else super().idle(method)

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, raw: Any) -> Any:
        return cls.written_out(raw) if isinstance(raw, dict) else raw

    @classmethod
    def written_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the section with the defaults that depend on other keys: two views are strong, and the default length
        is written out, so that it enters identities and the run's spec.yaml: if it changes, old runs keep theirs."""
        raw = {"augment": "strong", **raw} if raw.get("method") == "simclr" else raw
        if "epochs" in cls.idle(str(raw.get("method"))):
            return raw
        if raw.get("epochs") is not None or raw.get("images_seen") is not None:
            return raw
        return {**raw, "epochs": EPOCHS, "min_images_seen": raw.get("min_images_seen") or MIN_IMAGES_SEEN}

    _classes = field_validator("classes", mode="before")(parse_classes)
    _granularity = field_validator("granularity", mode="before")(parse_granularity)
    _select = field_validator("select", mode="before")(parse_select)
    _dedupe = field_validator("dedupe", mode="before")(parse_dedupe)
    _label_noise = field_validator("label_noise", mode="before")(parse_label_noise)
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

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        if self.method == "weights":
            if not self.weights:
                yield (
                    ("method", "weights"),
                    "method weights needs weights: a tag of timm or open_clip, or a file or folder",
                )
            return
        if self.method in ("simclr", "clip") and self.batch_size == 1:
            what = f"method {self.method} compares the images of a batch; give batch_size at least 2"
            yield ("method", "batch_size"), what
        if self.method == "simclr" and self.augment == "none":
            what = "augment none makes the two views of method simclr the same; strong is the custom"
            yield ("method", "augment"), what
        if not self.sources:
            yield ("method", "sources"), "give at least one source, e.g. sources: {species: 1.0}"
        if self.images_seen is not None and self.epochs is not None:
            yield ("method", "images_seen", "epochs"), "give images_seen or epochs, one of the two"
        elif self.images_seen is not None and self.min_images_seen is not None:
            yield ("images_seen", "min_images_seen"), "min_images_seen belongs beside epochs; images_seen is the length"
        yield from self._counts_that_contradict()

    def _counts_that_contradict(self) -> Iterator[Contradiction]:
        if self.subclasses_per_label is not None:
            if self.granularity in ("class", "leaf"):
                what = "subclasses_per_label needs a granularity coarser than class"
                yield ("subclasses_per_label", "granularity"), what
            if self.num_classes != "all":
                what = "subclasses_per_label says how many classes there are; leave num_classes out"
                yield ("subclasses_per_label", "num_classes"), what
        images, classes, each = self.num_images, self.num_classes, self.images_per_class
        if each is not None and images != "all" and classes == "all":
            what = "with num_images and images_per_class give num_classes as well, or leave one out"
            yield ("num_images", "num_classes", "images_per_class"), what
        if isinstance(images, int) and isinstance(classes, int):
            if each is not None and classes * each != images:
                what = f"num_classes x images_per_class is {classes * each}, num_images is {images}"
                yield ("num_images", "num_classes", "images_per_class"), what
            elif images < classes:
                yield ("num_images", "num_classes"), f"{images} images cannot fill {classes} classes"


def _count_or_all(raw: Any) -> Any:
    """Return `finetune.num_images`: None for `all`, so that it is the same fine-tuning as without the key."""
    if raw == "all":
        return None
    if raw is not None and not isinstance(raw, int | float):
        what = f"must be a whole number above 0 or all, not {short_repr(raw)}"
        raise PydanticCustomError("count_or_all", "{what}", {"what": what})
    return raw


class Finetune(Training):
    """One fine-tuning with a fresh head."""

    lr: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.05
    label_smoothing: LabelSmoothing = 0.0
    method: Literal["full", "linear", "lp-ft"] = Field(
        default="full",
        description="what is trained: all weights; a new head alone (a linear probe); or first the head, then all",
        examples=["method: {grid: [full, linear]}"],
    )
    epochs: Positive = Field(
        default=12, description="passes over the task's training images, in whole batches", examples=["epochs: 24"]
    )
    evaluate_every: Positive = Field(
        default=3, description="in epochs; the last epoch is always evaluated", examples=["evaluate_every: 6"]
    )
    num_images: Annotated[Positive | None, BeforeValidator(_count_or_all)] = Field(
        default=None,
        description="how many of the task's training images, with its shares of classes; `all` and not given: all",
        examples=["num_images: {grid: [500, 2k, all]}"],
        json_schema_extra={"words": ["all"]},
    )
    per_class: Positive | None = Field(
        default=None,
        description="so many of every class in place of `num_images`, and all of a class that holds fewer",
        examples=["per_class: 10"],
    )
    probe_epochs: Positive = Field(
        default=10,
        description="epochs of the head alone, before `epochs` of all weights",
        examples=["method: lp-ft, probe_epochs: 5"],
    )
    probe_lr: Rate = Field(
        default=1e-2, description="learning rate of the head alone", examples=["method: lp-ft, probe_lr: 3e-3"]
    )
    wise_ft: tuple[Fraction, ...] = Field(
        default=(),
        description="further points between the probed weights (0) and the fine-tuned ones (1)",
        examples=["method: lp-ft, wise_ft: [0.2, 0.5, 0.8]"],
    )

    only_for = {"probe_epochs": ("lp-ft",), "probe_lr": ("lp-ft",), "wise_ft": ("lp-ft",)}

    @property
    def passes(self) -> int:
        """Passes over the training images that cost a step: a linear probe computes the features of each image once."""
        return 1 if self.method == "linear" else self.epochs + (self.method == "lp-ft")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        if self.num_images is not None and self.per_class is not None:
            yield ("num_images", "per_class"), "give num_images or per_class, one of the two"

    def training_images(self, per_class: Sequence[int]) -> int:
        """Return how many images it trains on where the task's classes hold `per_class` training images."""
        if self.per_class is not None:
            return sum(min(self.per_class, count) for count in per_class)
        return min(self.num_images or sum(per_class), sum(per_class))

    def in_full(self) -> Finetune:
        """Return the same for a model from scratch, which has no features to probe: every weight is trained."""
        return self if self.method == "full" else Finetune(**self.model_dump(exclude={"method"}))
