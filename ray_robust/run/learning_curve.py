"""The learning curve of one training: loss and learning rate along its steps, and what was held out now and then.

Owns what is recorded, how densely, and its form in JSON. `ray_robust.train.curve` records, the trial's folder keeps
them in `curves/`, and the report draws them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MOST_POINTS = 200  # of a curve, however long the training
LARGEST = 3.5e38  # of a loss or a rate, in float32; beyond it sums and products have no end
MOST_STEPS = 2**50  # of a count: images seen, their product, still fit 64 bits in a table
LISTS = ("step", "loss", "lr", "held_out_step", "held_out_accuracy")


@dataclass(frozen=True)
class LearningCurve:
    """One training.

    stage       `pretrain`, `probe` or `finetune`
    steps       optimizer steps in all
    batch_size  images of a step, so that step x batch_size are the images seen
    images      training images of one epoch
    step, loss, lr   one entry per point: steps taken, the mean training loss since the point before (None where it was
                not recorded: the state that the training resumed from had no curve), the learning rate of that step. Of
                several workers the loss is that of the first one's part of every batch
    held_out_step, held_out_accuracy, held_out_images   accuracy on that many held-out images, where a method measures
                it and that costs next to nothing; the same images at all steps
    """

    stage: str
    steps: int
    batch_size: int
    images: int
    step: tuple[int, ...] = ()
    loss: tuple[float | None, ...] = ()
    lr: tuple[float, ...] = ()
    held_out_step: tuple[int, ...] = ()
    held_out_accuracy: tuple[float | None, ...] = ()
    held_out_images: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the curve in JSON's own types, numbers to six digits."""
        values = asdict(self)
        return values | {name: [_short(value) for value in values[name]] for name in LISTS}

    @classmethod
    def read(cls, value: Any) -> LearningCurve | None:
        """Return the curve that `as_json` wrote; None where the value is none."""
        if not isinstance(value, dict) or not isinstance(value.get("stage"), str):
            return None
        counts = {name: value.get(name) for name in ("steps", "batch_size", "images", "held_out_images")}
        lists = {name: value.get(name) for name in LISTS}
        if not all(type(count) is int and 0 <= count <= MOST_STEPS for count in counts.values()):
            return None
        if not all(isinstance(own, list) and all(map(_is_entry, own)) for own in lists.values()):
            return None
        whole = all(_are_steps(lists[name], counts["steps"]) for name in ("step", "held_out_step"))
        equal = len(lists["step"]) == len(lists["loss"]) == len(lists["lr"]) <= MOST_POINTS  # type: ignore[arg-type]
        if not whole or not equal or len(lists["held_out_step"]) != len(lists["held_out_accuracy"]):  # type: ignore[arg-type]
            return None
        tuples: dict[str, Any] = {name: tuple(own or ()) for name, own in lists.items()}
        return cls(value["stage"], **counts, **tuples)  # type: ignore[arg-type]


def interval(steps: int) -> int:
    """Return how many steps lie between two points of a curve."""
    return max(1, -(-steps // MOST_POINTS))


def _short(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def _is_entry(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) <= LARGEST)


def _are_steps(values: Any, steps: Any) -> bool:
    return all(type(value) is int and 0 <= value <= steps for value in values) and values == sorted(values)
