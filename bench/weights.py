"""Are published weights placed right? `python -m bench.weights FILE --model NAME... --images DIR`.

Loads FILE with its head into timm's model of that name, as method `weights` does, and classifies images of ImageNet
classes with the product's own scaling and prediction: accuracy upstream, without any training. DIR holds a folder per
WordNet id (`n01440764/*.JPEG`), or files whose names begin with one. Images are resized and cropped as timm's
configuration of the model says, at the size that it was published for; `--sizes 64` for what is left of it at the size
of a sweep, `--store 256` for what it is shown from the compact store of 256 px besides, 0 from decoded squares. Several
models show what another padding, epsilon or scale costs.

It is a command and not a part of a sweep, since it is a property of the file and not of a trial: a sweep would repeat
it for every seed, at a size that the published head was not made for, and would need another set of images.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from scipy import stats
from timm.data import ImageNetInfo, create_transform

from bench import show
from ray_robust.data.images.decode import decode
from ray_robust.data.images.form import Form
from ray_robust.data.images.jpegs import cut, encode, whole_views
from ray_robust.data.weights import find_weights
from ray_robust.errors import UserError, command
from ray_robust.spec.sections import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.evaluate import predict
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.images import ImageBank
from ray_robust.train.methods.placement import load_body
from ray_robust.train.methods.weights import read_tensors
from ray_robust.train.models import build_model, eval_view, input_scale

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CLASSES = 1000  # of ImageNet
CHUNK = 64  # images in memory at once


@dataclass(frozen=True)
class Labelled:
    """An image file, and which of ImageNet's classes it shows."""

    file: Path
    label: int


def main(argv: list[str]) -> int:
    """Print the accuracy of each model at each size; return 1 where one is less than `--least`."""
    parser = argparse.ArgumentParser("python -m bench.weights", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", help="weights with a head of ImageNet's 1,000 classes")
    parser.add_argument("--model", nargs="+", required=True, help="names in timm; a tag decides the scale of images")
    parser.add_argument("--images", type=Path, required=True, help="a folder per WordNet id, or files named by them")
    parser.add_argument("--sizes", type=int, nargs="+", help="in pixels; not given: the model's own")
    parser.add_argument("--store", type=int, nargs="*", default=[], help="stored sides in px, 0 for decoded squares")
    parser.add_argument("--each", type=int, default=50, help="images of a class at most, the first by name")
    parser.add_argument("--stride", type=int, default=1, help="every so-many-th class alone, for a quick look")
    parser.add_argument("--least", type=float, default=0.5, help="the accuracy below which the exit code is 1")
    args = parser.parse_args(argv)
    images = labelled(args.images, args.each, args.stride)
    rows = [measured(args.file, name, size, images, side)
            for name in args.model for size in args.sizes or [0] for side in (None, *args.store)]  # fmt: skip
    show(
        ("model", "px", "from", "mean", "placed right", "of", "accuracy", "95 %"),
        [(row["model"], str(row["px"]), row["from"], f"{row['mean']:g}", f"{row['right']:,}", f"{row['images']:,}",
          f"{row['accuracy']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}") for row in rows],
        {"classes": len({image.label for image in images}), "rows": rows},
    )  # fmt: skip
    for row in rows:
        print(f"{row['model']} at {row['px']} px from {row['from']}: placed right: "
              f"{row['accuracy']:.0%} of {row['images']:,} images of ImageNet classes; "
              f"chance is {1 / CLASSES:.1%}", file=sys.stderr)  # fmt: skip
    return int(any(row["accuracy"] < args.least for row in rows))


def labelled(folder: Path, each: int, stride: int = 1) -> list[Labelled]:
    """Return the images below a folder that are of ImageNet's classes, at most `each` of a class. Raise UserError."""
    wanted = {name: i for i, name in enumerate(ImageNetInfo().label_names()) if i % stride == 0}
    taken: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        names = re.findall(r"(?<![a-z0-9])n\d{8}(?!\d)", str(file.relative_to(folder)))
        if file.suffix.lower() in SUFFIXES and names and names[-1] in wanted:
            taken.setdefault(names[-1], []).append(file)
    if not taken:
        raise UserError(f"--images: {folder} holds no images below or named by a WordNet id of ImageNet (n01440764)")
    return [Labelled(file, wanted[name]) for name, files in sorted(taken.items()) for file in files[:each]]


def measured(file: str, name: str, size: int, images: list[Labelled], side: int | None = None) -> dict[str, Any]:
    """Classify images by the head of a file's weights, at `size` pixels or for 0 the model's own, from a store whose
    side is `side`, 0 for decoded squares; None: as timm reads them. Raise UserError for weights that do not fit, head
    included."""
    weights, config = find_weights(file), timm.get_pretrained_cfg(name)
    if weights.kind != "file":
        raise UserError(f"{file} is a tag, of which timm places every tensor itself; name a file")
    if config is None:
        raise UserError(f"--model: timm has no model {name!r} that was published with weights")
    section = ModelSection(name=name, image_size=size or config.input_size[-1], precision="float32")
    context = Context()
    headless = UserError(f"{file}: holds no head of {CLASSES:,} classes, so that nothing can be classified by it")
    try:
        tensors = read_tensors(Path(weights.name))
        if not any(value.shape[:1] == (CLASSES,) for value in tensors.values()):
            raise headless
        model = build_model(section, CLASSES, 0)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        load_body(model, tensors, file, name)
    except TrainingFailed as error:
        raise UserError(str(error)) from None
    head = [key for key in before if before[key].shape[:1] == (CLASSES,)]
    if not head or any(torch.equal(before[key], model.state_dict()[key]) for key in head):
        raise headless  # it lies under a name that is none of the model's
    right = 0
    for chunk in _chunks(images):
        files = [image.file for image in chunk]
        pixels = _pixels(files, config, section.image_size) if side is None else _stored(files, section, side)
        bank = ImageBank([(pixels.numpy(), None)], context.device)
        labels = torch.tensor([image.label for image in chunk])
        right += int((torch.from_numpy(predict(model, bank, section, context).classes) == labels).sum())
    ends = stats.binomtest(right, len(images)).proportion_ci(0.95, "wilson")
    return {
        "model": name, "px": section.image_size, "from": _named(side),
        "mean": round(input_scale(model)[0][0] / 255, 3), "right": right,
        "images": len(images), "accuracy": right / len(images), "low": float(ends.low), "high": float(ends.high),
    }  # fmt: skip


def _chunks(images: list[Labelled]) -> Iterator[list[Labelled]]:
    yield from (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))


def _named(side: int | None) -> str:
    return "files" if side is None else f"a store of {side} px" if side else "decoded squares"


def _stored(files: list[Path], section: ModelSection, side: int) -> torch.Tensor:
    """Return what a sweep shows of these files from a store, uint8 [n, size, size, 3]."""
    size, view = section.image_size, eval_view(section)
    squares = np.empty((len(files), size, size, 3), np.uint8)
    for square, file in zip(squares, files, strict=True):
        if not side:
            square[:] = decode(file.read_bytes(), size, "crop")
            continue
        jpeg = encode(file.read_bytes(), Form(size, side), "crop")
        (box,) = whole_views(np.array([[jpeg.height, jpeg.width]]), view, "crop")
        cut(jpeg, box, square[None], view.interpolation)
    return torch.from_numpy(squares)


def _pixels(files: list[Path], config: Any, size: int) -> torch.Tensor:
    """Return uint8 [n, size, size, 3], resized and cropped as the model's configuration says."""
    transform = create_transform(
        (3, size, size), interpolation=config.interpolation, crop_pct=config.crop_pct, normalize=False
    )
    return torch.stack([transform(Image.open(file).convert("RGB")) for file in files]).permute(0, 2, 3, 1).contiguous()


if __name__ == "__main__":
    command(main)
