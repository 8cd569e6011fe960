"""What the studies came to, and what the paper's size would cost: `python -m bench.studies RUN... [--write FILE]`.

Reads finished run folders (verdict, results, provenance) and prints Markdown, a section per run. `--costs` adds a table
of the sweeps under `sweeps/paper`: the images that their plans count, over the training rate of their models measured
here and now - an estimate. With `--write docs/studies.md` each piece replaces what stands between `<!-- NAME -->` and
`<!-- /NAME -->` there, so that no figure is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.formatting import signed, span
from bench import filled
from ray_robust.errors import DONE, UserError, command
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection

PAPER = Path("sweeps/paper")
SECONDS = 10.0  # a rate is measured for so long
BATCH = 16


def main(argv: list[str]) -> int:
    """Print, or write, what the runs and the costs come to; the last line of what is printed is JSON."""
    parser = argparse.ArgumentParser("python -m bench.studies", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="*", help="run folders, e.g. runs/quantity")
    parser.add_argument(
        "--costs", action="store_true", help="measure rates and estimate the sweeps of the paper's size"
    )
    parser.add_argument("--write", metavar="FILE", help="put the pieces into this document")
    args = parser.parse_args(argv)
    pieces = {Path(run).name: "\n".join(measured(RunFolder(run), Path(run).name)) for run in args.run}
    if args.costs:
        pieces["costs"] = "\n".join(costs(sorted(PAPER.glob("*.yaml"))))
    if args.write:
        path = Path(args.write)
        path.write_text(filled(path.read_text("utf-8"), pieces), "utf-8")
    else:
        print("\n\n".join(pieces.values()))
    print(json.dumps({"pieces": sorted(pieces)}))
    return DONE


def measured(run: RunFolder, name: str) -> Iterator[str]:
    """The lines of one run: how it ran, its groups, its findings. Raises UserError for a run without a report."""
    verdict = json.loads(run.read_bytes("report/verdict.json") or b"null")
    if verdict is None:
        raise UserError(f"{run.storage.shown}: has no report; run python -m analysis on it")
    points = run.results()
    points = points[points["status"] == "done"]
    line, facts = verdict["baseline"], run.storage.read_json("run.json") or {}
    seconds = sum(part["seconds"] for part in facts.get("invocations", ()))
    yield (
        f"`sweeps/{name}.yaml`: {points['trial'].nunique()} trials, {len(points)} points, {seconds / 60:.0f} minutes "
        f"on {hardware(facts)} (commit {run.spec().get('provenance', {}).get('commit')}). Line of the baseline "
        f"({line['group']}, {verdict['scale']}): slope {number(line.get('slope'))}, R² {number(line.get('r2'))}."
    )
    yield ""
    yield "| group | trials | points | extrapolated | best ID | best OOD | ER, points (95 %) |"
    yield "|---|---|---|---|---|---|---|"
    for group, row in verdict["groups"].items():
        own: pd.DataFrame = points[points["group"] == group]
        best = own.sort_values(["trial", "id_val"]).groupby("trial").tail(1)  # chosen as one would: on id_val
        yield (
            f"| {group} | {row['n_trials']} | {row['n_points']} | {row['extrapolated']} | {best['id'].mean():.1%} "
            f"| {best['ood'].mean():.1%} | {interval(row)} |"
        )
    yield ""
    texts = [finding["text"] for finding in verdict["findings"]]
    yield from (f"- {sentence}" for sentence in [*texts, *(f"Note: {w}" for w in verdict["warnings"])])


def hardware(facts: dict[str, Any]) -> str:
    """`2 cores (AMD EPYC 9R14)`, as the run noted it."""
    known = facts.get("hardware", {})
    return f"{known.get('cores', '?')} cores ({known.get('processor', 'unknown')})"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def interval(row: dict[str, Any]) -> str:
    if row["er"] is None:
        return "-"
    return (
        f"{signed(row['er'])} {span(row['er_low'], row['er_high'])}" if row["er_low"] is not None else signed(row["er"])
    )


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


if __name__ == "__main__":
    command(main)
