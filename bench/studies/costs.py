"""What the sweeps of the paper's size would cost: hours of a card that their plans take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray_robust.prepare.devices import DEVICES, on_device
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.work import open_work
from ray_robust.spec.load import load_spec

CARD = "h100"


def costs(files: list[Path]) -> Iterator[str]:
    """Yield the lines of a table with the estimated cost of every sweep."""
    device, source = DEVICES[CARD], ""
    yield f"| sweep | trials | images in pre-training | in fine-tuning | evaluated | {device.name}-hours |"
    yield "|---|---|---|---|---|---|"
    for file in files:
        sweep = open_sweep(load_spec(file), plan_only=True)
        work = open_work(sweep.plan, None)
        on = on_device(device, work, sweep.spec.resources.model_copy(update={"gpus_per_worker": 0.0}))
        counts = (sum(part) for part in zip(*((w.pretrained, w.finetuned, w.evaluated) for w in work), strict=True))
        millions = " | ".join(f"{count / 1e6:,.0f} M" for count in counts)
        yield f"| `{file}` | {len(sweep.plan)} | {millions} | {on.hours:,.0f} |"
        source = on.source
    yield ""
    yield (
        f"An estimate, as `--plan --on {CARD}` gives it: {source}. `--on a100` or another card tells of that, "
        "`--set resources.price=2.5` the money, of any spec; the plan's last line says what its trials could find."
    )
