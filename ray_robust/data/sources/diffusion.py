"""The source `diffusion`: images that a text-to-image model makes of class names, kept as files and then read like any.

Owns the recipe (what to make: model, prompts, classes, seeds), the manifest beside the images, and the pipeline on one
device. `launch.ingest.generate` spreads the making; an image is made once, when a trial or `ray_robust.ingest` first
wants it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field, ValidationError, field_validator

from ray_robust import registry
from ray_robust.data.images.decode import decode_all
from ray_robust.data.images.files import Folder, absolute
from ray_robust.data.pool import AnyOptions, Catalog, Pixels, Pool, Source, mix_bits, seed_of
from ray_robust.data.published import catalog_of_counts
from ray_robust.data.readers.folder import LocalPath
from ray_robust.data.readers.table import read_table
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean, install_hint
from ray_robust.spec.validation_messages import describe_error

RECIPE, MANIFEST = "recipe.json", "manifest.parquet"
SUFFIX = {"webp": "webp", "png": "png", "jpeg": "jpg"}
WEIGHTS_SEEN = 1 << 16  # bytes at either end of a file of weights that tell one model from another


@dataclass(frozen=True, eq=False)
class Classes:
    """What to make images of: labels, what a prompt calls each, and the tree over them if there is one."""

    labels: tuple[str, ...]
    names: tuple[str, ...]
    hierarchy: pd.DataFrame | None = None
    below: Mapping[str, np.ndarray] | None = None


def _folder_or_id(model: str) -> str:
    """Return a model as a user writes it: a path, absolute from now on, or a hub id as it stands."""
    path = absolute(model)
    return str(path) if model[0] in "/.~$" or path.is_dir() else model


class Diffusion(Source):
    """`images_per_class` images of every class. Image i of a class has its own seed and takes prompt i (in turn), so
    that more images or classes leave the others as they are."""

    class Options(AnyOptions):
        root: LocalPath = Field(
            description="the folder that the images are made in; on a cluster one that all nodes share",
            examples=["root: ~/made"],
        )
        model: Annotated[str, Field(min_length=1), AfterValidator(_folder_or_id)] = Field(
            description="a folder or a hub id that diffusers reads as a text-to-image pipeline",
            examples=["model: stabilityai/sd-turbo"],
        )
        classes: tuple[str, ...] | LocalPath | dict[str, Any] = Field(
            description="a list of names, a CSV with a column class (and a column name: what prompts say), or "
            "the classes of another source",
            examples=["classes: {source: imagenet, root: ~/data/imagenet}"],
        )
        prompts: tuple[str, ...] = Field(
            default=("a photo of a {class}",),
            min_length=1,
            description="templates with {class}",
            examples=['prompts: ["a photo of a {class}", "a drawing of a {class}"]'],
        )
        images_per_class: int = Field(
            default=1000,
            ge=1,
            le=1_000_000,
            description="images that can be drawn of each class",
            examples=["images_per_class: 500"],
        )
        seed: int = Field(default=0, ge=0, description="of the images", examples=["seed: 1"])
        steps: int = Field(default=50, ge=1, le=1000, description="denoising steps", examples=["steps: 30"])
        guidance: float = Field(
            default=7.5,
            ge=0,
            allow_inf_nan=False,
            description="classifier-free guidance scale",
            examples=["guidance: 5"],
        )
        px: int = Field(
            default=512,
            ge=8,
            le=4096,
            multiple_of=8,
            description="width and height of the images that are made",
            examples=["px: 256"],
        )
        format: Literal["webp", "png", "jpeg"] = Field(
            default="webp", description="of the files", examples=["format: png"]
        )
        quality: int = Field(default=90, ge=1, le=100, description="of webp and jpeg", examples=["quality: 95"])
        batch: int = Field(
            default=8, ge=1, le=1024, description="images made at a time on one device", examples=["batch: 4"]
        )
        fit: Literal["crop", "squash", "pad"] = Field(
            default="crop",
            description="how an image becomes square: its short side scaled and the centre cut out, squeezed, or "
            "letterboxed",
            examples=["fit: pad"],
        )

        @field_validator("prompts")
        @classmethod
        def _name_the_class(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
            for prompt in prompts:
                if "{" in prompt.replace("{class}", "") or "{class}" not in prompt:
                    raise ValueError(f"the prompt {prompt!r} must say {{class}}, and nothing else in braces")
            return prompts

        @field_validator("classes")
        @classmethod
        def _of_a_source(cls, classes: Any) -> Any:
            if isinstance(classes, dict):  # with its paths as they are meant here: a worker has another directory
                options = _of_source(classes).options.model_dump(mode="json", exclude_unset=True)
                classes = {"source": classes["source"], **options}
            elif not isinstance(classes, str) and len(set(classes)) < max(2, len(classes)):
                raise ValueError("must be at least two different names")
            return classes

    options: Options

    rendered = True

    def list_images(self) -> Catalog:
        classes, each = self.classes, self.options.images_per_class
        recipe = self.recipe
        self._check_root(recipe)
        meaning = json.dumps([recipe, classes.labels, classes.names, each], sort_keys=True)
        bases = np.array([seed_of("diffusion", label) for label in classes.labels], np.uint64)
        number = np.tile(np.arange(each, dtype=np.uint64), len(bases))
        return Catalog(
            labels=np.repeat(np.arange(len(bases), dtype=np.int32), each),
            classes=classes.labels,
            ids=mix_bits(mix_bits(number, 0) ^ np.repeat(bases, each), seed_of("diffusion image", self.options.seed)),
            hierarchy=classes.hierarchy,
            below=classes.below,
            fingerprint=f"{seed_of(meaning):016x}",
            licence=f"made by {Path(self.options.model).name}: see the licence of that model",
            notes=(f"Made by a diffusion model ({Path(self.options.model).name}), not photographs.",),
            names=classes.names if classes.names != classes.labels else (),
        )

    def published(self) -> Catalog | None:
        """Counts by its own options, when the model, or the source whose classes it takes, is not there."""
        try:
            count = len(self.classes.labels)
        except DataAbsent:
            assert isinstance(self.options.classes, dict)
            other = _of_source(self.options.classes).published()
            if other is None:
                return None
            count = len(other.classes)
        return catalog_of_counts(
            self.name, count * self.options.images_per_class, count, "see the licence of the model"
        )

    @cached_property
    def classes(self) -> Classes:
        """The classes. Raises UserError when what lists them is wrong, DataAbsent when it is not there."""
        wanted = self.options.classes
        if isinstance(wanted, dict):
            other = _of_source(wanted).catalog
            return Classes(other.classes, other.called, other.hierarchy, other.below)
        if isinstance(wanted, tuple):
            return Classes(wanted, wanted)
        path = Path(wanted)
        if not path.is_file():
            raise UserError(Problem(str(path), "no such file; wanted: a CSV with a column class"))
        frame, lines = read_table(path, ("class", "name"))
        if "class" not in frame:
            raise UserError(
                Problem(f"{path}:{lines.header}", f"has no column 'class'{did_you_mean('class', frame.columns)}")
            )
        labels = frame["class"].str.strip()
        if labels.duplicated().any() or (labels == "").any() or len(labels) < 2:
            raise UserError(Problem(str(path), "must list at least two classes, each once"))
        return Classes(tuple(labels), tuple(frame["name"].str.strip()) if "name" in frame else tuple(labels))

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What decides the pixels of an image of a given class and number."""
        chosen = ("prompts", "seed", "steps", "guidance", "px", "format", "quality")
        options = self.options.model_dump(mode="json", include=set(chosen))
        return {"model": model_identity(self.options.model), **options}

    def prompt(self, row: int) -> str:
        label, number = divmod(int(row), self.options.images_per_class)
        return self.options.prompts[number % len(self.options.prompts)].replace("{class}", self.classes.names[label])

    def captions(self, rows: np.ndarray) -> list[str]:
        """Return what each of these images was asked to show."""
        return [self.prompt(row) for row in rows]

    def seed(self, row: int) -> int:
        """Return the seed of the noise that an image is made from, in 63 bits."""
        label, number = divmod(int(row), self.options.images_per_class)
        return seed_of("diffusion", self.options.seed, self.classes.labels[label], number) >> 1

    def keys(self, rows: np.ndarray) -> list[str]:
        folders, suffix = self._folders, SUFFIX[self.options.format]
        pairs = (divmod(int(row), self.options.images_per_class) for row in rows)
        return [f"{folders[label]}/{number:06d}.{suffix}" for label, number in pairs]

    @cached_property
    def _folders(self) -> list[str]:
        """A folder per class, by its label where any file system takes that as a name."""
        plain = [re.sub(r"[^\w.+-]+", "_", label)[:80] for label in self.classes.labels]
        return [
            name if name == label and not name.startswith(".") else f"c_{name}-{seed_of(label):016x}"
            for name, label in zip(plain, self.classes.labels, strict=True)
        ]

    def read(self, rows: np.ndarray, size: int) -> Pixels:
        keys = self.keys(rows)
        decoded = decode_all(Folder(self.options.root).read, keys, size, self.options.fit)
        if decoded.broken:
            at, reason = next(iter(decoded.broken.items()))
            path = f"{self.options.root}/{keys[at]}"
            hint = "delete it, to have it made again" if os.path.exists(path) else "ray_robust.ingest makes it"
            raise UserError(Problem(path, f"{reason}; {hint} (all nodes must share this folder)"))
        return decoded

    def unmade(self, rows: np.ndarray) -> np.ndarray:
        keys = self.keys(rows)
        folders = {key.partition("/")[0] for key in keys}
        there = {f"{f}/{name}" for f in folders if (d := Path(self.options.root, f)).is_dir() for name in os.listdir(d)}
        return np.asarray([row for row, key in zip(rows, keys, strict=True) if key not in there], np.int64)

    def begin(self) -> None:
        """Write the recipe and the manifest (image, class, prompt, seed) before images are made."""
        rows, root = range(len(self.catalog)), Path(self.options.root)
        root.mkdir(parents=True, exist_ok=True)
        manifest = pd.DataFrame({
            "image": self.keys(np.arange(len(rows))),
            "class": pd.Categorical.from_codes(self.catalog.labels, list(self.classes.labels)),
            "prompt": pd.Categorical([self.prompt(row) for row in rows]),
            "seed": np.fromiter((self.seed(row) for row in rows), np.int64, len(rows)),
        })  # fmt: skip
        _write(root / MANIFEST, lambda path: manifest.to_parquet(path, index=False))
        recipe = {**self.recipe, "made_by": self.options.model}
        _write(root / RECIPE, lambda path: path.write_text(json.dumps(recipe, indent=1) + "\n", "utf-8"))

    def _check_root(self, recipe: dict[str, Any]) -> None:
        root = Path(self.options.root)
        file = root / RECIPE
        if not file.exists() or not any((root / folder).is_dir() for folder in self._folders):  # nothing is made yet
            return
        before = json.loads(file.read_text("utf-8"))
        for key, value in json.loads(json.dumps(recipe)).items():
            if before.get(key) != value:
                what = f"the images there were made with {key} {before.get(key)!r}, not {value!r}; give another root"
                raise UserError(Problem(self.options.root, what))


class Painter:
    """A source's pipeline on one device, loaded when it is first used."""

    def __init__(self, source: Diffusion, device: str = "cpu") -> None:
        self._source, self._device = source, device

    @cached_property
    def _pipeline(self) -> Any:
        try:
            import torch
            from diffusers import DiffusionPipeline
            from diffusers.utils import logging
            from transformers.utils import logging as text_logging
        except ImportError as error:
            what = f"the source diffusion needs more packages ({error}); {install_hint('diffusion')}"
            raise UserError(what) from None
        for logger in (logging, text_logging):  # a bar per actor would bury what the sweep says
            logger.set_verbosity_error()
            logger.disable_progress_bar()
        kind = torch.float16 if self._device.startswith("cuda") else torch.float32
        model = self._source.options.model
        try:
            pipeline = DiffusionPipeline.from_pretrained(model)
        except (OSError, ValueError) as error:  # no such folder, a half copy, or no way to the hub
            why = " ".join(str(error).split())[:200]
            raise UserError(Problem(model, f"cannot be loaded as a diffusers pipeline: {why}")) from None
        if getattr(pipeline, "safety_checker", None) is not None:
            pipeline.safety_checker = None  # it would put black squares among the images of a class
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self._device, kind)

    def paint(self, rows: Sequence[int]) -> int:
        """Make the images of these rows (at most a batch) and write each whole; returns how many.

        Every batch has the same shape, filled up with its last image, and noise comes from each image's own generator
        on the CPU: an image does not depend on the device. Raises UserError, in one line, when diffusers or the
        model is not there.
        """
        import torch

        options, source = self._source.options, self._source
        padded = [*rows, *[rows[-1]] * (options.batch - len(rows))]
        made = self._pipeline(
            [source.prompt(row) for row in padded],
            height=options.px,
            width=options.px,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=[torch.Generator("cpu").manual_seed(source.seed(row)) for row in padded],
        ).images[: len(rows)]
        how: dict[str, Any] = {} if options.format == "png" else {"quality": options.quality}
        for key, image in zip(source.keys(np.asarray(rows)), made, strict=True):
            path = Path(options.root) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, lambda to, image=image: image.save(to, options.format.upper(), **how))
        return len(rows)


@lru_cache(maxsize=8)
def model_identity(model: str) -> str:
    """Return the hub id as it stands; of a folder a digest: every configuration, and the size and both ends of all
    weights.

    Raises DataAbsent for a folder that is not there.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute():
            what = "no such folder; wanted: a pipeline that diffusers has saved (model_index.json), or a hub id"
            raise DataAbsent(Problem(model, what))
        return model
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        with open(path, "rb") as file:
            ends = file.read(WEIGHTS_SEEN)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - WEIGHTS_SEEN))
            ends += file.read()
        digest.update(f"{path.relative_to(folder)}:{size}:".encode() + ends)
    return f"folder {digest.hexdigest()}"


def _of_source(section: dict[str, Any]) -> Pool:
    """Return the source whose classes are wanted. Raises ValueError in one line."""
    options = dict(section)
    name = options.pop("source", None)
    if not isinstance(name, str):
        raise ValueError("must say whose classes it takes, e.g. {source: imagenet, root: ...}, not a mapping of "
                         f"{', '.join(map(str, section)) or 'nothing'}")  # fmt: skip
    try:
        cls = registry.find("source", name)
        return cls(name, cls.Options.model_validate(options))
    except UserError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        raise ValueError(next(describe_error(cls.Options, error.errors()[0], (name,), {}, False, {}))[1]) from None


def _write(path: Path, write: Any) -> None:
    """`write(path)`, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write(draft)
    draft.replace(path)
