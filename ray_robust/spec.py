"""The YAML as frozen models: what varies, what is held fixed, and every mistake in it at once.

Owns the sections a user may write and what each key means; hands on `Spec`, in which every `{grid: [...]}` has become
levels. Reading the file with its lines is `yaml_lines`; no torch, no ray, milliseconds.
"""

from __future__ import annotations

import copy
import itertools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_robust import registry
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.yaml_lines import Document, parse

Positive = Annotated[int, Field(gt=0, le=10**12)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Augmentation = Literal["none", "flip", "crop", "strong"]
Optimizer = Literal["adamw", "sgd"]
LARGEST_SEED = 2**32
MOST_TRIALS = 1_000_000  # of a sweep: more is a slip of the pen, and would fill the memory before anyone saw it


class Section(BaseModel):
    """A part of the YAML: frozen, no unknown keys, numbers read by the field's type (`3e-4`, `64k`, `1_000`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _read_numbers(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: _number_for(cls.model_fields.get(key), value) for key, value in raw.items()}


def _number_for(field: Any, value: Any) -> Any:
    """`value` as the number that `field` wants, where its text is one; anything else is left for pydantic to judge."""
    if field is None:
        return value
    wanted = _types_in(field.annotation)
    if isinstance(value, bool) and bool not in wanted and wanted & {int, float}:
        return str(value).lower()  # pydantic would take true for 1
    if not isinstance(value, str) or not wanted & {int, float}:
        return value
    number = parse_number(value)
    return value if number is None else number


def _types_in(annotation: Any) -> set[Any]:
    parts = typing.get_args(annotation)
    return set().union(*map(_types_in, parts)) if parts else {annotation}


def parse_number(text: str) -> int | float | None:
    """`64k` is 64000, `1.2M` 1200000, `1_000` 1000, `3e-4` 0.0003; None when the text is no finite number."""
    text = text.strip().replace("_", "")
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = float(text if scale == 1 else text[:-1]) * scale
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return round(value) if abs(value - round(value)) < 1e-6 * max(1.0, abs(value)) and abs(value) >= 1 else value


class PoolSection(Section):
    """A source or a task by name; `kind` is the registered class where the name is the user's own."""

    kind: str
    options: Any  # the validated Options of that class


class TaskSection(PoolSection):
    name: str


class SourceSection(PoolSection):
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class ModelSection(Section):
    """The network: any timm name; images are square."""

    name: str = "test_resnet"
    image_size: Annotated[int, Field(ge=8, le=2048)] = 32
    precision: Literal["auto", "bf16", "float32"] = "auto"  # auto: bf16 where the processor or GPU computes in it
    compile: bool = False  # torch.compile: pays on long GPU runs, never on tiny models


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
    method: Literal["supervised"] = "supervised"
    sources: Annotated[dict[str, SourceSection], Field(min_length=1)]
    num_images: Positive | Literal["all"] = "all"
    num_classes: Positive | Literal["all"] = "all"
    images_per_class: Positive | None = None
    granularity: str = "class"  # `class` (the finest labels) or a rank of the source's hierarchy
    balance: Literal["natural", "uniform"] = "natural"  # classes by their share of the source, or all alike
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of every class kept back for upstream accuracy
    subset_seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] | None = (
        None  # none: every seed draws its own nested subsets
    )
    images_seen: Positive | None = None
    epochs: Positive | None = None

    @model_validator(mode="after")
    def _lengths_fit(self) -> Pretrain:
        if (self.images_seen is None) == (self.epochs is None):
            raise ValueError("give images_seen or epochs, one of the two")
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
    method: Literal["full"] = "full"
    epochs: Positive = 12
    evaluate_every: Positive = 3  # in epochs; the last epoch is always evaluated


class Baseline(Section):
    """The points that the reference trend is fitted on: models fine-tuned from scratch, or a group of the sweep."""

    name: str = "scratch"
    seeds: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None  # none: as many as the sweep has
    finetune: dict[str, Any] = {}  # what differs from `finetune`, e.g. more epochs, so that the ID ranges overlap


class Search(Section):
    method: Literal["grid"] = "grid"


class Resources(Section):
    """What one trial may use; decides nothing about its scores."""

    workers: Positive = 1
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    cpus_per_worker: Positive = 1


class Analysis(Section):
    """Set before anything is seen: the scale of the trend, the margin of "no effect", the floor below which no ER."""

    scale: Literal["probit", "logit", "linear"] = "probit"
    margin: Rate = 2.0
    min_r2: Fraction = 0.8


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Level(Generic[S]):
    """One combination of a section's axes. `axes` maps a key to its value there, both as text, in the file's order."""

    section: S
    axes: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """`num_images=16000`, joined by commas; "" when the section has no axis."""
        return ", ".join(f"{key}={value}" for key, value in self.axes)

    @property
    def short(self) -> str:
        """The values alone: `16000`."""
        return "-".join(value for _, value in self.axes)


@dataclass(frozen=True)
class Spec:
    """A whole sweep, checked. `resolved` is its YAML with every default filled in; `place` says where a key stands."""

    name: str
    question: str
    tasks: tuple[Level[TaskSection], ...]
    models: tuple[Level[ModelSection], ...]
    pretrains: tuple[Level[Pretrain], ...]
    finetunes: tuple[Level[Finetune], ...]
    baseline_finetunes: tuple[Level[Finetune], ...]
    seeds: tuple[int, ...]
    baseline: Baseline
    search: Search
    resources: Resources
    analysis: Analysis
    resolved: str
    document: Document

    def place(self, *path: str) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        return self.document.place(path)


SECTIONS: dict[str, type[Section]] = {
    "task": TaskSection,
    "model": ModelSection,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "baseline": Baseline,
    "search": Search,
    "resources": Resources,
    "analysis": Analysis,
}
POINTS = ("pretrain", "points")  # the axis of combinations that are no product
VARYING = ("task", "model", "pretrain", "finetune")  # the sections in which a value may be {grid: [...]}
OTHER_KEYS = ("seeds", "question", "provenance")  # provenance: written into a run's spec.yaml, ignored when read


def load_spec(file: str | Path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read and check a sweep's YAML; `overrides` are `dotted.key=value` texts that replace single values.

    Raises UserError with every problem found, each with file and line.
    """
    document = parse(Path(file))
    problems: list[Problem] = []
    for override in overrides:
        try:
            document.override(override)
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    return _Reader(document).read()


class _Reader:
    """Collects problems while it turns a document into a Spec."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.seen: set[str] = set()

    def read(self) -> Spec:
        raw = self.document.tree
        for key in raw:
            if key not in SECTIONS and key not in OTHER_KEYS:
                known = [*SECTIONS, *OTHER_KEYS]
                self.say((key,), f"{key}: unknown key{did_you_mean(key, known)}")
        raw = {key: value for key, value in raw.items() if key in SECTIONS or key in OTHER_KEYS}
        raw["baseline"] = _baseline(raw.get("baseline", "scratch"))
        for key in ("task", "pretrain"):
            if key not in raw:
                self.say((), f"{key}: missing; a sweep needs it")
        levels = {
            key: self.levels(key, raw.get(key, {})) for key in VARYING if key in raw or key in ("model", "finetune")
        }
        fixed = {key: self.fixed(key, raw.get(key, {})) for key in SECTIONS if key not in VARYING}
        seeds = self.seeds(raw.get("seeds", 1))
        baseline = fixed["baseline"]
        baseline_finetunes: tuple = ()
        if baseline is not None:
            merged = {**_mapping(raw.get("finetune")), **baseline.finetune}
            own = {name: ("baseline", "finetune", name) for name in baseline.finetune}
            baseline_finetunes = self.levels("finetune", merged, own)
            groups = [level.label for level in levels.get("pretrain", ()) if level.label]
            if baseline.name not in ("scratch", "none", *groups) and levels.get("pretrain"):
                known = ["scratch", "none", *groups]
                self.say(("baseline",), f"baseline: {baseline.name!r} is no group{did_you_mean(baseline.name, known)}")
            if baseline.name != "scratch" and (baseline.finetune or baseline.seeds):
                self.say(("baseline",), "baseline: seeds and finetune belong to the scratch baseline only")
        question = raw.get("question") or self.document.question
        if not isinstance(question, str):
            self.say(("question",), f"question: must be text, not {question!r}")
        counts = [len(levels[key]) for key in ("model", "pretrain") if key in levels]
        if (count := math.prod((*counts, len(seeds)))) > MOST_TRIALS:
            self.say((), f"models x mixtures x seeds make {count:,} trials; at most {MOST_TRIALS:,} are possible")
        if self.problems:
            raise UserError(*self.problems)
        return Spec(
            name=self.document.name,
            question=question,
            tasks=levels["task"],
            models=levels["model"],
            pretrains=levels["pretrain"],
            finetunes=levels["finetune"],
            baseline_finetunes=baseline_finetunes if baseline.name == "scratch" else (),
            seeds=seeds,
            baseline=baseline,
            search=fixed["search"],
            resources=fixed["resources"],
            analysis=fixed["analysis"],
            resolved=_resolved(raw, levels, fixed, seeds, question),
            document=self.document,
        )

    def say(self, path: tuple, what: str) -> None:
        problem = Problem(self.document.place(path), what)
        if str(problem) not in self.seen:  # the same mistake shows in every level of a grid
            self.seen.add(str(problem))
            self.problems.append(problem)

    def fixed(self, key: str, raw: Any) -> Any:
        """A section in which nothing varies."""
        axes = list(_axes(raw, (key,)))
        if axes and key != "baseline":
            path = ".".join(map(str, axes[0][0]))
            self.say(axes[0][0], f"{path}: cannot vary; {{grid: ...}} belongs to {', '.join(VARYING)}")
            return None
        return self.section(key, raw, (key,))

    def levels(self, key: str, raw: Any, own: Mapping[str, tuple] | None = None) -> tuple[Level, ...]:
        """Every combination of a section's axes, in the file's order, the last axis fastest.

        `own` says where those keys stand that are not below `key` itself: a baseline's fine-tuning is `finetune` with
        some keys replaced.
        """
        found_axes = [*_axes(raw, (key,))]
        places = dict(own or {})
        axes: list[tuple[tuple, list]] = []
        for where, values in found_axes:
            place = (*places[where[1]], *where[2:]) if where[1:] and where[1] in places else where
            if problem := _bad_grid(values):
                self.say(place, f"{'.'.join(map(str, place))}.grid: {problem}")
                return ()
            axes.append((where, [((*place, "grid", i), value) for i, value in enumerate(values)]))
        raw = copy.deepcopy(raw)
        if isinstance(raw, dict) and "points" in raw and key == "pretrain":
            points = raw.pop("points")
            if not isinstance(points, list) or not points or not all(isinstance(p, dict) and p for p in points):
                self.say((key, "points"), "pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}")
                return ()
            for i, point in enumerate(points):
                if point in points[:i]:
                    self.say((key, "points", i), "pretrain.points: the same point stands there twice")
                for name in point:
                    if (key, name) in [where[:2] for where, _ in axes]:
                        self.say(
                            (key, "points", i, name), f"pretrain.points: {name} is also a grid; vary it in one place"
                        )
            axes.append((POINTS, [((key, "points", i), point) for i, point in enumerate(points)]))
        if (count := math.prod(len(values) for _, values in axes)) > MOST_TRIALS:
            self.say((key,), f"{key}: its grids make {count:,} combinations; at most {MOST_TRIALS:,} are possible")
            return ()
        found = []
        for combination in itertools.product(*(values for _, values in axes)):
            tree, names, here = {key: copy.deepcopy(raw)}, [], dict(places)
            for (where, _), (place, value) in zip(axes, combination, strict=True):
                if where is POINTS:
                    tree[key].update(value)
                    names += [(str(k), _text(v)) for k, v in value.items()]
                    here |= {"": place, **{name: (*place, name) for name in value}}
                else:
                    _put(tree, where, value)
                    whole = len(where) == 1 and isinstance(value, dict)  # the section itself varies: named by its keys
                    names += [(str(k), _text(v)) for k, v in (value.items() if whole else [(where[-1], value)])]
                    here["" if len(where) == 1 else where[1]] = place if len(where) < 3 else where[:2]
            found.append(Level(self.section(key, tree[key], (key,), here), tuple(names)))
        return tuple(found)

    def section(self, key: str, raw: Any, path: tuple, places: Mapping[str, tuple] | None = None) -> Any:
        """A validated section, or None with its problems said. `places`: where single keys stand, if not in `path`;
        under "" the place of what is wrong with the section as a whole."""
        places = places or {}
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            self.say(places.get("", path), f"{'.'.join(path)}: must be a mapping (key: value), not {_shown(raw)}")
            return None
        raw = dict(raw)
        if key == "pretrain":
            raw["sources"] = self.sources(raw.get("sources"), places.get("sources", (*path, "sources")))
        elif key == "task":
            options = {name: value for name, value in raw.items() if name != "name"}
            raw = self.pool("task", raw.get("name"), options, places.get("", path), places)
            if raw is None:
                return None
        elif key == "model":
            self.model_name(raw.get("name"), places.get("name", (*path, "name")))
        try:
            return SECTIONS[key].model_validate(raw)
        except ValidationError as error:
            for detail in _one_per_key(error):
                self.explain(SECTIONS[key], detail, path, places)
            return None

    def sources(self, raw: Any, path: tuple) -> Any:
        if not isinstance(raw, dict) or not raw:
            self.say(path, "pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}")
            return {"": SourceSection(kind="", options=None)}  # keeps one mistake from showing as two
        found = {}
        for name, value in raw.items():
            options = dict(value) if isinstance(value, dict) else {"weight": value}
            weight = options.pop("weight", 1.0)
            pool = self.pool("source", name, options, (*path, name))
            if pool is not None:
                number = parse_number(weight) if isinstance(weight, str) else weight
                if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
                    place = (*path, name, "weight") if isinstance(value, dict) else (*path, name)
                    self.say(
                        place, f"pretrain.sources.{name}: the weight must be a number above 0, not {_shown(weight)}"
                    )
                    continue
                found[name] = SourceSection(kind=pool["kind"], options=pool["options"], weight=number)
        return found or {"": SourceSection(kind="", options=None)}

    def pool(
        self, kind: str, name: Any, options: dict, path: tuple, places: Mapping[str, tuple] | None = None
    ) -> dict | None:
        """The parts of a PoolSection; the options are checked by the registered class."""
        if not isinstance(name, str) or not name:
            missing = f"{_dotted(path)}.name: {'missing; ' if name is None else ''}must name a {kind}"
            self.say((places or {}).get("name", (*path, "name")), missing + did_you_mean("", registry.KINDS[kind]))
            return None
        given = "kind" if "kind" in options else "name"
        registered = options.pop("kind", name)
        if not isinstance(registered, str):
            self.say((*path, "kind"), f"{_dotted(path)}.kind: must be text, not {_shown(registered)}")
            return None
        try:
            cls = registry.find(kind, registered)
        except UserError as error:
            here = path if kind == "source" and given == "name" else (*path, given)
            self.say((places or {}).get(given, here), f"{_dotted(here)}: {error.problems[0].what}")
            return None
        try:
            return {
                "name": name,
                "kind": registered,
                "options": cls.Options.model_validate(_numbers(cls, options)),
            }
        except ValidationError as error:
            for detail in _one_per_key(error):
                self.explain(cls.Options, detail, path, places)
            return None

    def model_name(self, name: Any, path: tuple) -> None:
        known = registry.timm_models()
        base = str(name).partition(".")[0]
        if isinstance(name, str) and known and base not in known and not name.startswith(("hf_hub:", "hf-hub:")):
            self.say(path, f"model.name: timm has no model {name!r}{did_you_mean(base, known)}")

    def seeds(self, raw: Any) -> tuple[int, ...]:
        value = parse_number(raw) if isinstance(raw, str) else raw
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TRIALS:
            return tuple(range(1, value + 1))
        good = isinstance(value, list) and all(type(v) is int and 0 <= v < LARGEST_SEED for v in value)
        if isinstance(value, list) and value and good and len(set(value)) == len(value):
            return tuple(value)
        shown = repr(raw)[:60] if isinstance(raw, list) else _shown(raw)
        self.say(("seeds",), f"seeds: must be how many, at least 1, or a list of different whole numbers, not {shown}")
        return ()

    def explain(
        self, model: type[BaseModel], detail: Any, path: tuple, places: Mapping[str, tuple] | None = None
    ) -> None:
        """One pydantic error as one line."""
        loc = tuple(part for i, part in enumerate(detail["loc"]) if i == 0 or isinstance(part, int))
        place = (places or {}).get(str(loc[0]) if loc else "", (*path, *loc))
        key = _dotted((*path, *loc) if place[:1] == path[:1] else place)
        value, context = detail.get("input"), detail.get("ctx", {})
        kind = detail["type"]
        if kind == "extra_forbidden":
            what = f"unknown key{did_you_mean(str(loc[-1]), model.model_fields)}"
        elif kind == "missing":
            what = "missing"
        elif kind.startswith("int_") or (kind.startswith("float_") and "inf" not in kind):
            what = f"must be a {'whole ' if kind.startswith('int_') else ''}number, not {_shown(value)}"
        elif kind == "literal_error":
            names = [name.strip().strip("'") for name in context["expected"].replace(" or ", ",").split(",")]
            if len(detail["loc"]) > 1:  # one arm of "a number or a word": the arm for words says both
                what = f"must be a whole number above 0 or {' or '.join(names)}, not {_shown(value)}"
            else:
                what = f"must be one of {', '.join(names)}, not {_shown(value)}"
        elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
            sign = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
            which = next(k for k in sign if k in context)
            what = f"must be {sign[which]} {_text(context[which])}, not {_shown(value)}"
        elif kind == "finite_number":
            what = f"must be a finite number, not {_shown(value)}"
        elif kind == "string_type":
            what = f"must be text, not {_shown(value)}" + ("" if isinstance(value, dict | list) else "; quote it")
        elif kind.startswith("bool_"):
            what = f"must be true or false, not {_shown(value)}"
        elif kind == "dict_type":
            what = f"must be a mapping (key: value), not {_shown(value)}"
        elif kind == "value_error":
            what = str(context["error"])
        else:
            what = detail["msg"]
        if isinstance(value, dict) and kind not in ("value_error", "missing", "extra_forbidden") and path[0] in VARYING:
            what += "; a value that varies is written {grid: [...]}"
        self.say(place, f"{key}: {what}")


def _one_per_key(error: ValidationError) -> list[Any]:
    """pydantic's errors, one per key: of "a number or a word" each arm has its own, and that for words says both."""
    found: dict[tuple, Any] = {}
    for detail in error.errors():
        key = tuple(part for i, part in enumerate(detail["loc"]) if i == 0 or isinstance(part, int))
        if key not in found or detail["type"] == "literal_error":
            found[key] = detail
    return list(found.values())


def _baseline(raw: Any) -> Any:
    """`baseline: scratch` is short for `baseline: {name: scratch}`; `none` and an empty value are alike."""
    if raw is None:
        return {"name": "none"}
    return {"name": raw} if isinstance(raw, str) else raw


def _mapping(raw: Any) -> dict:
    return raw if isinstance(raw, dict) else {}


def _numbers(cls: Any, options: dict) -> dict:
    """Options with their numbers read as in every section."""
    return {key: _number_for(cls.Options.model_fields.get(key), value) for key, value in options.items()}


def _axes(raw: Any, path: tuple) -> Iterator[tuple[tuple, Any]]:
    """(path, levels) of every `{grid: [...]}` below `raw`, in the file's order."""
    if isinstance(raw, dict):
        if set(raw) == {"grid"}:
            yield path, raw["grid"]
            return
        for key, value in raw.items():
            if key != "points":
                yield from _axes(value, (*path, key))


def _bad_grid(values: Any) -> str:
    """What is wrong with the values of an axis, or ""."""
    if not isinstance(values, list) or not values:
        return "must be a list with at least one value"
    seen = [repr(parse_number(value) if isinstance(value, str) else value) for value in values]
    seen = [repr(values[i]) if text == "None" else text for i, text in enumerate(seen)]
    twice = [values[i] for i, text in enumerate(seen) if text in seen[:i]]
    return f"{_shown(twice[0])} stands there twice" if twice else ""


def _dotted(path: tuple) -> str:
    """A path as people write it, without its places in lists of levels."""
    following = (*path[1:], None)
    kept = [part for part, after in zip(path, following, strict=True) if not isinstance(after, int)]
    return ".".join(str(part) for part in kept if not isinstance(part, int))


def _put(tree: dict, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _text(value: Any) -> str:
    """An axis value for names and tables: `16000`, `0.001`, `species:0.5+fractals:0.5`."""
    if isinstance(value, str):
        number = parse_number(value)
        return f"{number:.12g}" if isinstance(number, float) else str(number if number is not None else value)
    if isinstance(value, dict):
        return "+".join(f"{k}:{_text(v.get('weight', 1) if isinstance(v, dict) else v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _resolved(raw: dict, levels: dict, fixed: dict, seeds: tuple[int, ...], question: str) -> str:
    """The spec with defaults filled in and its axes as they were written."""
    tree: dict[str, Any] = {"question": question} if question else {}
    for key in SECTIONS:
        section = levels[key][0].section if key in levels else fixed[key]
        tree[key] = _plain(key, section)
        written = _mapping(raw.get(key))
        for path, values in _axes(written, (key,)):
            if path == (key,):
                tree[key] = {"grid": values}
            else:
                _put(tree, path, {"grid": values})
        if key == "pretrain" and "points" in written:
            for name in {name: None for point in written["points"] for name in point}:
                tree[key].pop(name, None)
                if name in written:  # what holds where a point does not say otherwise
                    tree[key][name] = written[name]
            tree[key]["points"] = written["points"]
    tree["seeds"] = list(seeds)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _plain(key: str, section: Section) -> dict:
    """A section as the user could have written it."""
    plain = section.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    if key == "task":
        return {"name": plain["name"], "kind": plain["kind"], **plain["options"]}
    if key == "pretrain":
        plain["sources"] = {
            name: {"kind": source["kind"], "weight": source["weight"], **source["options"]}
            for name, source in plain["sources"].items()
        }
    return plain


__all__ = ["Analysis", "Baseline", "Finetune", "Level", "ModelSection", "Pretrain", "Resources", "Search", "Spec",
           "TaskSection", "load_spec", "parse_number"]  # fmt: skip
