"""What the sweeps of the paper's size would cost: the images that their plans count, over a rate measured here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection

SECONDS = 10.0  # a rate is measured for so long
BATCH = 16


def costs(files: list[Path]) -> Iterator[str]:
    """The estimated cost of every sweep in days of the device that the rates are measured on."""
    yield "| sweep | trials | pre-trained | fine-tuned | evaluated | estimate |"
    yield "|---|---|---|---|---|---|"
    used: dict[str, float] = {}  # images a second by model and size
    for file in files:
        plan = open_sweep(load_spec(file), plan_only=True).plan
        seconds = 0.0
        for trial in plan:
            name = trial.model.name.partition(".")[0]  # whatever its weights are
            key = f"{name} at {trial.model.image_size} px"
            if key not in used:
                used[key] = rate_of(trial.model.model_copy(update={"name": name}))
            seconds += trial.cost / used[key]
        counts = (
            sum(trial.pretrain_images for trial in plan),
            sum(f.images for trial in plan for f in trial.finetunings),
            sum(f.evaluated for trial in plan for f in trial.finetunings),
        )
        millions = " | ".join(f"{count / 1e6:,.0f} M" for count in counts)
        days = f"{seconds / 86400:,.0f}" if seconds > 10 * 86400 else f"{seconds / 86400:.1f}"
        yield f"| `{file}` | {len(plan)} | {millions} | {days} days |"
    told = ", ".join(f"{model} {rate:.1f}" for model, rate in used.items())
    yield ""
    yield (
        f"An estimate, in days of one {device_name()}: the images over the rate of training steps measured there, in "
        f"images a second: {told}. An evaluated image counts a third of a step. A device that trains k times as fast "
        "takes 1/k of that; decoding is not counted."
    )


def rate_of(section: ModelSection) -> float:
    """Images a second of training steps of this model, on the first GPU or one core: forward, backward, AdamW."""
    import torch

    from ray_robust.train.models import build_model

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = BATCH * (8 if device.type == "cuda" else 1)
    model = build_model(section, 182, 0).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.rand(batch, 3, section.image_size, section.image_size, device=device)
    labels = torch.randint(182, (batch,), device=device)
    steps, begun = -2, time.perf_counter()
    while steps < 1 or time.perf_counter() - begun < SECONDS:
        with torch.autocast(device.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps += 1
        if steps == 0:  # two steps to warm up
            begun = time.perf_counter()
    return batch * steps / (time.perf_counter() - begun)


def device_name() -> str:
    import torch

    from ray_robust.prepare.provenance import processor

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"core of this {processor()}"
