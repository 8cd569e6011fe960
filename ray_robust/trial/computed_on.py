"""On what a trial and its pre-trained weights were computed, as trial.json and the facts of the weights say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ray_robust.files.storage import Storage
from ray_robust.spec.sections import ModelSection
from ray_robust.train.checkpoints import state_facts
from ray_robust.train.context import Context

UNKNOWN = "?"  # in a text, of weights whose facts are not as this version writes them


def computed_on(context: Context, section: ModelSection, images: int) -> dict[str, Any]:
    """Return "device", "workers" and "precision", and where a batch goes through the model in parts "batch_parts" and
    the size of one, "micro_batch"; `images` are those of a batch in one worker."""
    facts = {
        "device": _device_name(context.device),
        "workers": context.world_size,
        "precision": context.precision(section.precision),
    }
    if context.grad_accum_steps > 1:
        micro_batch = -(-images // context.grad_accum_steps)
        facts |= {"batch_parts": context.grad_accum_steps, "micro_batch": micro_batch}
    return facts


def made_on_text(made_on: Mapping[str, Any] | None) -> str:
    """Return ` (made on ...)`, for the log; "" of weights that do not say it."""
    if not made_on:
        return ""
    device, workers, precision = (made_on.get(key, UNKNOWN) for key in ("device", "workers", "precision"))
    text = f" (made on {device}; {workers} worker{'' if workers == 1 else 's'}; {precision}"
    if (parts := made_on.get("batch_parts", 1)) != 1:
        text += f"; batches in {parts} parts of {made_on.get('micro_batch', UNKNOWN)} images"
    return f"{text})"


def recorded_precision(made_on: Mapping[str, Any] | None, weights: Storage, earlier: Mapping[str, Any]) -> object:
    """Return the precision of what exists of a trial, None where it is not known: of its pre-trained weights, as their
    facts `made_on` say, of the states of a pre-training in the folder `weights`, or of an `earlier` trial.json."""
    pretraining = made_on or state_facts(weights, "pretrain") or {}
    return pretraining.get("precision") or earlier.get("precision")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
