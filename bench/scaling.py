"""What a second worker brings: `python -m bench.scaling [--model NAME] [--px N] [--batch N ...]`.

One pre-training through the sweep's own scheduler, several rounds in turn: by one worker on one core, by two Ray Train
workers on two (each takes half of every batch, gradients are averaged), and by one worker with two threads. Images per
second are those of the trial's own clock, without what starting the workers takes. The last line has the efficiency:
two workers' rate over twice that of one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench import command_of, show, write_table
from ray_robust.run.run_folder import RunFolder

SPEC = """
task: {{name: camera-traps, species: 4, train_images: 64, id_val_images: 64, ood_val_images: 64, id_test_images: 64,
       ood_test_images: 64}}
model: {{name: {model}, image_size: {px}}}
pretrain: {{sources: {{species: 1.0}}, num_images: 8000, images_seen: {images}, batch_size: {batch}}}
finetune: {{epochs: 1, lr: 1e-3, batch_size: 32}}
seeds: 1
baseline: none
resources: {{workers: {workers}, cpus_per_worker: {threads}}}
"""
WAYS = {"one worker": (1, 1), "two workers": (2, 1), "one worker, two threads": (1, 2)}


def main(argv: list[str]) -> None:
    """Measure every batch size and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    rows, found = [], dict[str, Any](model=args.model, px=args.px)
    for batch in args.batch:
        rates: dict[str, list[float]] = {name: [] for name in WAYS}
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for number in range(args.rounds):
                for name, (workers, threads) in WAYS.items():
                    text = SPEC.format(model=args.model, px=args.px, images=args.images, batch=batch, workers=workers,
                                       threads=threads)  # fmt: skip
                    rates[name].append(rate(text, Path(folder), f"{number}-{workers}-{threads}"))
        one = median(rates["one worker"])
        for name, each in rates.items():
            found[f"{name}, batch {batch}"] = round(median(each), 1)
            rows.append((str(batch), name, f"{median(each):,.0f}", f"{median(each) / one:.2f}"))
        found[f"efficiency, batch {batch}"] = round(median(rates["two workers"]) / (2 * one), 3)
    header = (f"batch of {args.model} at {args.px} px", "way", "images/s", "over one worker")
    if args.write:
        write_table(args.write, "scaling", [header, *rows], command_of("bench.scaling", argv))
    show(header, rows, found)


def rate(text: str, folder: Path, name: str) -> float:
    """Images per second of one pre-training, in folders of its own but for the images."""
    from ray_robust.launch.cluster.connect import connect
    from ray_robust.launch.ingest.ingest import ingest
    from ray_robust.launch.monitor.monitor import Monitor
    from ray_robust.launch.tuner import run_plan
    from ray_robust.prepare.open_sweep import open_sweep
    from ray_robust.prepare.subsets import decode_jobs, draw_all
    from ray_robust.spec.load import load_spec
    from ray_robust.trial.paths import RunPaths

    spec = folder / "scaling.yaml"
    spec.write_text(text)
    sweep = open_sweep(load_spec(spec))
    ingest([job for _, *job in decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))], folder / "store")  # type: ignore[misc]
    run = RunFolder(folder / name)
    monitor = Monitor(sweep.plan, run, Console(quiet=True), 0, name, metrics=False)
    paths = RunPaths(str(folder / name), str(folder / name / "checkpoints"), str(folder / "store"))
    with connect() as cluster:
        run_plan(sweep.plan, paths, sweep.spec.resources, cluster, monitor)
    (trial,) = sweep.plan
    facts = run.trial(trial.id).storage.read_json("trial.json")
    return facts["pretrain_images_seen"] / facts["seconds_pretrain"]


if __name__ == "__main__":
    main(sys.argv[1:])
