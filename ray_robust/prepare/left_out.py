"""Which trainings leave out much of every epoch: the images that fill no batch, which are not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ray_robust.plan.plan import Trial
from ray_robust.spec.load import Spec
from ray_robust.text.percent import percent
from ray_robust.train.duration import Duration

UNSAID = 0.1  # of the images, that may be left out without a word
SHOWN = 3  # trainings in a note


def left_out(spec: Spec, trials: Iterable[Trial]) -> list[str]:
    """Return a note for each `batch_size` of a spec that leaves out more than a tenth of a training of some epochs:
    the share, and the nearest size with which it would be less."""
    by_key: dict[str, dict[tuple[int, int], float]] = {}
    for key, (images, batch_size, epochs, least) in dict.fromkeys(_trainings(spec, trials)):
        duration = Duration.of(images, batch_size, epochs, None, least)
        share = 1 - duration.steps * duration.batch_size / (epochs * images)
        if share > UNSAID:
            by_key.setdefault(key, {})[images, batch_size] = share
    return [f"{key}: images that fill no batch are left out of every epoch: {_text(of)}" for key, of in by_key.items()]


def _trainings(spec: Spec, trials: Iterable[Trial]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yield the trainings whose length is a number of epochs: the key of their batch size; images, batch size, epochs,
    and the least number of images to process."""
    own = "batch_size" in spec.baseline.finetune
    for trial in trials:
        mixture = trial.pretrain
        if mixture is not None and mixture.epochs is not None:
            least = mixture.min_images_seen or 0
            if trial.pretrain_images > least:  # else the least is the length
                images = trial.pretrain_images // mixture.epochs
                yield "pretrain.batch_size", (images, mixture.batch_size, mixture.epochs, least)
        key = "baseline.finetune.batch_size" if own and mixture is None else "finetune.batch_size"
        for finetuning in trial.finetunings:
            settings = finetuning.settings
            if images := finetuning.images // settings.passes:
                yield key, (images, settings.batch_size, settings.epochs, 0)


def _text(shares: dict[tuple[int, int], float]) -> str:
    """Return trainings in words, those that leave out most first."""
    first = sorted(shares, key=lambda training: -shares[training])
    lines = []
    for images, batch_size in first[:SHOWN]:
        better = _better(images, batch_size)
        left = percent(images % better / images, 0)
        what = f"{percent(shares[images, batch_size], 0)} of {images:,} with {batch_size}"
        lines.append(f"{what} (batch_size: {better} leaves out {left})")
    more = len(first) - SHOWN
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _better(images: int, batch_size: int) -> int:
    """Return the nearest batch size that divides the images in equal parts, but for fewer than are left out now."""
    parts = (images // count for count in range(images // batch_size + 1, 0, -1))
    fitting = [size for size in parts if size > 1 and images % size < images % batch_size]
    return min(fitting, key=lambda size: abs(size - batch_size))
