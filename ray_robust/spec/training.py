"""The keys that pre-training and fine-tuning share. No torch, no ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ray_robust.spec.augmentation import AUGMENTATIONS, parse_augmentation
from ray_robust.spec.section import Section
from ray_robust.spec.values import Fraction, Positive, Rate

Augmentation = Annotated[str, BeforeValidator(parse_augmentation)]
Optimizer = Literal["adamw", "sgd"]
WeightDecay = Annotated[float, Field(ge=0, allow_inf_nan=False, description="of the optimizer",
                                     examples=["weight_decay: 0.01"])]  # fmt: skip
LabelSmoothing = Annotated[float, Field(ge=0, lt=1, description="share of every label spread over all classes",
                                        examples=["label_smoothing: 0.05"])]  # fmt: skip
LearningRate = Annotated[Rate, Field(description="the highest learning rate of the schedule",
                                     examples=["lr: {grid: [3e-4, 1e-3, 3e-3]}"])]  # fmt: skip


class Training(Section):
    """What pre-training and fine-tuning share."""

    lr: LearningRate
    weight_decay: WeightDecay
    optimizer: Optimizer = Field(default="adamw", description="the optimizer", examples=["optimizer: sgd"])
    batch_size: Positive = Field(
        default=128,
        description="images in each step, of all workers; the last, smaller batch of an epoch is left out, and the "
        "plan says where that is more than a tenth of it",
        examples=["batch_size: 256"],
    )
    warmup: Fraction = Field(
        default=0.05,
        description="share of all steps over which the learning rate rises; it then falls along a cosine",
        examples=["warmup: 0.1"],
    )
    label_smoothing: LabelSmoothing = 0.1
    augment: Augmentation = Field(
        default="crop",
        description="what is done to each image in training, joined by `+` where it is several ([below]"
        "(#augmentations)); in pre-training with method simclr the default is strong",
        examples=["augment: flip", "augment: rotate90+crop"],
        json_schema_extra={"shown": ", ".join(f"`{name}`" for name in AUGMENTATIONS) + ", or some joined by `+`"},
    )
