"""What a plan takes on a GPU that is not here: from what its steps ask for and the card's published peaks.

The time of a step is the sum over its operations: of each the FLOPs over the matrix rate or the bytes over the memory's
rate, whichever takes longer, but at least what PyTorch takes to issue one. All that over the share that is reached.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ray_robust.data.weights import HUB
from ray_robust.errors import UserError, did_you_mean
from ray_robust.plan.plan import Trial
from ray_robust.prepare.estimate import GPUS, prior_rate
from ray_robust.prepare.work import OpenWork, StageWork
from ray_robust.registry import OPEN_CLIP
from ray_robust.spec.run_sections import Resources
from ray_robust.spec.sections import Finetune, ModelSection
from ray_robust.text.percent import percent
from ray_robust.train.exceptions import TrainingFailed

if TYPE_CHECKING:
    from ray_robust.train.step_cost import StepCost

# The share of the peaks that is assumed where none was measured. timm's published rates of training twelve models on an
# RTX 3090 are 0.21 to 0.92 of what its peaks would give, in the median 0.71 (`bench.peaks`); cards whose memory and
# matrix units are many times as fast reach less of theirs.
SHARE = 0.5
ISSUED = 5e-6  # seconds that PyTorch takes at least to issue an operation, whatever its size
EVALUATED_AT_ONCE = 512  # images of a batch in evaluation
VIEWS = {"pretrain-simclr": 2}  # passes through the network per image, where they are several


@dataclass(frozen=True)
class Device:
    """A card: its name for people, FLOP/s of dense matrix products in bfloat16, bytes per second of its memory, and how
    the name ends by which a driver calls it."""

    name: str
    matrix: float
    memory: float
    driver: str


DEVICES: Mapping[str, Device] = {
    # NVIDIA's data sheets, of the SXM form where there are several; their BF16 figures are with sparsity, which doubles
    # them, but for the A100 and the A10, whose sheets give both
    "h200": Device("H200", 989.5e12, 4.8e12, "H200"),
    "h100": Device("H100", 989.5e12, 3.35e12, "H100 80GB HBM3"),
    "a100": Device("A100", 312e12, 2.039e12, "A100-SXM4-80GB"),
    "l40s": Device("L40S", 362e12, 864e9, "L40S"),
    "l4": Device("L4", 121e12, 300e9, "L4"),
    "a10": Device("A10", 125e12, 600e9, "A10"),
    # NVIDIA's papers on the architectures Ada and Ampere GA102: products that are added up in float32
    "rtx4090": Device("RTX 4090", 165.2e12, 1.008e12, "RTX 4090"),
    "rtx3090": Device("RTX 3090", 71e12, 936e9, "RTX 3090"),
}


@dataclass(frozen=True)
class DeviceHours:
    """Hours of one device that the training of a plan takes there.

    hours     at least, and at `most` until a pilot has chosen
    measured  the share of its peaks that a GPU here was measured to reach; None where `SHARE` is assumed
    texts     whether CLIP trains on texts, whose tower is not counted
    """

    device: Device
    hours: float
    most: float
    measured: float | None
    texts: bool = False

    @property
    def source(self) -> str:
        """What it rests on, in words."""
        peaks = f"{self.device.matrix / 1e12:,.0f} TFLOPS in bfloat16, {self.device.memory / 1e12:.3g} TB/s"
        share = (
            f"{percent(SHARE, 0)} of them, which is assumed: it may be half or twice as many hours"
            if self.measured is None
            else f"{percent(self.measured, 0)} of them, which the GPU here was measured to reach of its own"
        )
        left_out = "decoding and the text towers of CLIP are not counted" if self.texts else "decoding is not counted"
        return f"from the FLOPs and bytes of every step over the card's peaks ({peaks}), at {share}; {left_out}"


def device_named(text: str) -> Device:
    """Return a card by its name. Raises UserError."""
    key = re.sub(r"[^a-z0-9]", "", text.lower())
    if key not in DEVICES:
        raise UserError(f"--on: {text!r} is no card that is known{did_you_mean(key, DEVICES)}")
    return DEVICES[key]


def device_here() -> Device | None:
    """Return the card of this machine; None where there is none that is known, or different ones."""
    names = {_driver_name(file.read_text(errors="replace")) for file in GPUS.glob("*/information")}
    alike = names.pop() if len(names) == 1 else ""
    return next((device for device in DEVICES.values() if alike.endswith(f" {device.driver}")), None)


def _driver_name(information: str) -> str:
    model = re.search(r"^Model:(.*)$", information, re.MULTILINE)
    return model[1].rstrip() if model else ""


def on_device(
    device: Device, work: Sequence[OpenWork], resources: Resources, most: Sequence[OpenWork] | None = None
) -> DeviceHours:
    """Return what this work takes on a card; `most` is the dearest work that it may become."""
    measured = _MeasuredShares(resources)
    seconds, upper = (sum(_seconds(device, each, measured) for each in of) for of in (work, most or work))
    texts = any(stage.kind == "pretrain-clip" for one in work for stage in one.stages)
    return DeviceHours(device, seconds / 3600, max(seconds, upper) / 3600, measured.share, texts)


class _MeasuredShares:
    """The share of its peaks that the card of this machine reaches in a training, where one is here and has been
    measured; None else. `share` is that of all trainings that were asked for, by their time."""

    def __init__(self, resources: Resources) -> None:
        self._here = device_here() if resources.gpus_per_worker else None
        self._rate, self._devices = prior_rate(resources), resources.workers * resources.gpus_per_worker
        self._at_peaks = self._taken = 0.0

    @property
    def share(self) -> float | None:
        return self._at_peaks / self._taken if self._taken else None

    def of(self, trial: Trial, stage: StageWork) -> float | None:
        if self._here is None or (rate := self._rate(trial, stage)) is None:
            return None
        at_peaks, taken = _stage_seconds(self._here, trial, stage), rate.seconds(stage) * self._devices
        self._at_peaks, self._taken = self._at_peaks + at_peaks, self._taken + taken
        return at_peaks / taken if taken else None


def _seconds(device: Device, work: OpenWork, measured: _MeasuredShares) -> float:
    times = ((_stage_seconds(device, work.trial, stage), measured.of(work.trial, stage)) for stage in work.stages)
    return sum(at_peaks / (share or SHARE) for at_peaks, share in times)


def _stage_seconds(device: Device, trial: Trial, stage: StageWork) -> float:
    """Seconds of one training with its evaluations on one card at its peaks."""
    features = isinstance(stage.settings, Finetune) and stage.settings.method == "linear"  # computed once, not trained
    views, model = VIEWS.get(stage.kind, 1), _plain(trial.model)
    batch = EVALUATED_AT_ONCE if features else stage.settings.batch_size * views
    trained = image_seconds(device, model, batch, not features)
    return stage.images * views * trained + stage.evaluated * image_seconds(device, model, EVALUATED_AT_ONCE, False)


def _plain(section: ModelSection) -> ModelSection:
    """The model whatever its weights are, and whether it is compiled."""
    name = section.name if section.name.startswith((OPEN_CLIP, *HUB)) else section.name.partition(".")[0]
    return section.model_copy(update={"name": name, "compile": False})


@cache
def image_seconds(device: Device, section: ModelSection, images: int, trained: bool) -> float:
    """Return the seconds that a card takes for an image at its peaks, in steps of so many."""
    matrix = device.matrix / (2 if section.precision == "float32" else 1)  # TF32
    cost = _cost_of(section, images, trained)
    parts = (max(ISSUED, flops / matrix, moved / device.memory) for flops, moved in cost.operations)
    return (sum(parts) + cost.optimizer_bytes / device.memory) / images


@cache
def _cost_of(section: ModelSection, images: int, trained: bool) -> StepCost:
    from ray_robust.train.step_cost import step_cost  # late: torch

    try:
        return step_cost(section, images, trained)
    except TrainingFailed as error:  # its trials will fail for the same reason
        raise UserError(f"--on: {error}") from None
