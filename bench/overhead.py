"""What the sweep costs over the training in it: `python -m bench.overhead [SPEC] [--set KEY=VALUE] [--parts ...]`.

Runs the trials of a sweep three ways on one machine: as bare PyTorch loops (one single-thread process per core, their
clock starting when all images are in memory; half of those that pre-train before the sweep and the others after it,
since the speed of a shared machine varies, the baseline's as its pilot chose them; their wall time is that of the list
in the plan's order, each process taking the next trial when it is free), through the sweep (a fresh process, everything
counted: Ray's start, rendering, analysis, report), and as a plain Ray user writes them (one Tune trial with a nested
trainer per fine-tuning, pre-training repeated, ImageFolder and DataLoader). The last is run for a sample of the
fine-tunings, `--sample` of every cost in images, and scaled to their number.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import command_of, show, write_table
from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import open_pool, open_store
from ray_robust.data.pool import SPLITS
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.plan.plan import Finetuning, Trial
from ray_robust.prepare import baseline_spread
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec


def main(argv: list[str]) -> None:
    """Run the parts asked for and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="sweeps/quantity.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--parts", nargs="+", choices=("bare", "sweep", "ray"), default=["bare", "sweep", "ray"])
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--sample", type=int, default=1, help="fine-tunings of each cost that plain Ray runs")
    args = parser.parse_args(argv)
    sweep = open_sweep(load_spec(args.spec, tuple(args.set)))
    rows: list[tuple[str, float, str]] = []
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ["RAY_ROBUST_STORE"] = f"{folder}/store"
        data = prepare(sweep, Path(folder, "store")) if {"bare", "ray"} & set(args.parts) else {}
        bare: dict[str, float] = {}
        if "bare" in args.parts:
            bare |= time_bare([trial for trial in sweep.plan if trial.pretrain is not None][::2], data)
        if "sweep" in args.parts:
            seconds["sweep"] = time_sweep(args.spec, args.set, Path(folder))
            rows.append(("sweep", seconds["sweep"], "everything counted, nothing kept from before"))
            sweep = as_run(sweep, RunFolder(f"{folder}/sweep/run"))
        if "bare" in args.parts:
            bare |= time_bare([trial for trial in sweep.plan if trial.id not in bare], data)
            seconds["bare"] = makespan([bare[trial.id] for trial in sweep.plan], os.cpu_count() or 1)
            rows.append(
                ("bare loops", seconds["bare"], "images in memory, imports not counted; half before, half after")
            )
        finetunings = sum(len(trial.finetunings) for trial in sweep.plan)
        if "ray" in args.parts:
            sampled = sample(sweep, args.sample)
            seconds["ray"] = time_plain_ray(sweep, sampled, data, Path(folder))
            ran = f"{sum(len(runs) for runs, _ in sampled)} of {finetunings} fine-tunings run"
            rows.append(("plain Ray", seconds["ray"], f"{ran}, scaled by what they cost"))
    summary: dict[str, Any] = {"trials": len(sweep.plan), "finetunings": finetunings, "cores": os.cpu_count()}
    summary |= {f"{name}_s": round(value, 1) for name, value in seconds.items()}
    for name in sorted({"bare", "ray"} & set(seconds)) if "sweep" in seconds else ():
        summary[f"{name}_over_sweep"] = round(seconds[name] / seconds["sweep"], 3)
    header = ("way", "seconds", "over the sweep", "what is counted")
    table = [(name, f"{value:.0f}", f"{value / seconds['sweep']:.2f}" if "sweep" in seconds else "", note)
             for name, value, note in rows]  # fmt: skip
    if args.write:
        write_table(args.write, "overhead", [header, *table], command_of("bench.overhead", argv))
    show(header, table, summary)


# --- the images, ready for all ways


def prepare(sweep: Sweep, root: Path) -> dict[str, ImageStore]:
    """Every pool's store, filled with what the sweep looks at, by pool_key."""
    jobs = decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))
    stores = ingest([(pool, size, rows) for _, pool, size, rows in jobs], root)
    return {key: store for (key, *_), store in zip(jobs, stores, strict=True)}


def arrays_of(trial: Trial, root: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple]]:
    """({"train", "held_out": (images, labels)} of the mixture, {split: (images, labels)} of the task), in memory."""
    from ray_robust.data.mixtures.mixture import draw

    mixture: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    size = trial.model.image_size
    if trial.pretrain is not None:
        stores = {n: open_store(root, open_pool("source", n, s), size) for n, s in trial.pretrain.sources.items()}
        catalogs = {name: store.pool.catalog for name, store in stores.items()}
        subset = draw(trial.pretrain, catalogs, dict.fromkeys(stores), trial.subset_seed)
        for part, rows, labels in (("train", "rows", "labels"), ("held_out", "held_out_rows", "held_out_labels")):
            images = [stores[share.source].take(getattr(share, rows)) for share in subset.shares]
            mixture[part] = np.concatenate(images), np.concatenate([getattr(share, labels) for share in subset.shares])
    section = trial.finetunings[0].task
    store = open_store(root, open_pool("task", section.name, section), size)
    catalog = store.pool.catalog
    task = {split: (store.take(catalog.rows(split)), catalog.labels[catalog.rows(split)]) for split in SPLITS}
    return mixture, task


# --- bare loops


def makespan(durations: Sequence[float], processes: int) -> float:
    """Seconds until the last is done, when each process takes the next of the list as soon as it is free."""
    free = [0.0] * processes
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def time_bare(trials: Sequence[Trial], stores: dict[str, ImageStore]) -> dict[str, float]:
    """Seconds of each of these trials by its id, with one process per core at work.

    The clocks run only once every process has its images and torch.
    """
    root = next(iter(stores.values())).folder.parent
    context = multiprocessing.get_context("spawn")
    work, results = context.Queue(), context.Queue()
    go = context.Event()
    for trial in trials:
        work.put(trial)
    count = min(os.cpu_count() or 1, len(trials))
    for _ in range(count):
        work.put(None)  # the end, once for every process
    workers = [context.Process(target=_bare_worker, args=(work, results, go, root, list(trials))) for _ in range(count)]
    for worker in workers:
        worker.start()
    for _ in workers:
        results.get()
    go.set()
    seconds = dict(results.get() for _ in trials)
    for worker in workers:
        worker.join()
    return seconds


def _bare_worker(work: Any, results: Any, go: Any, root: Path, trials: list[Trial]) -> None:
    import torch

    torch.set_num_threads(1)
    loaded = {trial.id: arrays_of(trial, root) for trial in trials}
    bare_fit(trials[0], *loaded[trials[0].id], trials[0].finetunings[0], steps=3)  # the first steps choose kernels
    results.put(None)  # ready
    go.wait()
    while True:
        trial = work.get()
        if trial is None:
            return
        begun = time.monotonic()
        bare_trial(trial, *loaded[trial.id])
        results.put((trial.id, time.monotonic() - begun))


def bare_trial(trial: Trial, mixture: dict, task: dict) -> list[float]:
    """Pre-train once and run every fine-tuning with its evaluations: what a careful script would do, and no more."""
    weights = bare_fit(trial, mixture, task, None) if trial.pretrain is not None else None
    return [bare_fit(trial, mixture, task, finetuning, weights=weights) for finetuning in trial.finetunings]


def bare_fit(
    trial: Trial,
    mixture: dict,
    task: dict,
    finetuning: Finetuning | None,
    weights: Any = None,
    steps: int | None = None,
) -> Any:
    """One training, written plainly. Returns the weights of a pre-training, the last OOD score of a fine-tuning."""
    import timm
    import torch
    import torch.nn.functional as F
    from sklearn.metrics import f1_score

    from ray_robust.train.augmentation import augment

    settings = finetuning.settings if finetuning else trial.pretrain
    images, labels = (torch.from_numpy(a) for a in (task["train"] if finetuning else mixture["train"]))
    labels, classes = labels.long(), int(labels.max()) + 1
    if finetuning and finetuning.settings.num_images:
        images, labels = images[: finetuning.settings.num_images], labels[: finetuning.settings.num_images]
    if weights is None:
        model = timm.create_model(trial.model.name, num_classes=classes)
    else:
        model = timm.create_model(trial.model.name, num_classes=len(weights[next(reversed(weights))]))
        model.load_state_dict(weights)
        model.reset_classifier(classes)
    model = model.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) * 255 for key in ("mean", "std"))
    batch = min(settings.batch_size, len(images))
    per_epoch = len(images) // batch
    epochs = getattr(settings, "epochs", None)
    steps = steps or (epochs * per_epoch if epochs else round(settings.images_seen / batch))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=max(2, steps), pct_start=0.05)
    score = 0.0

    def ready(x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 3, 1, 2).float() - mean) / std

    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(images))
        picked = order[step % per_epoch * batch :][:batch]
        model.train()
        with precise(trial):
            scores = model(ready(augment(images[picked], settings.augment)))
        loss = F.cross_entropy(scores.float(), labels[picked], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (finetuning and (step + 1) % (per_epoch * settings.evaluate_every) == 0) or step + 1 == steps:
            tests = [task[s] for s in SPLITS[1:]] if finetuning else [mixture["held_out"]]
            model.eval()
            for test, truth in tests:
                with torch.inference_mode(), precise(trial):
                    x = torch.from_numpy(test)
                    guess = torch.cat([model(ready(x[i : i + 512])).argmax(1) for i in range(0, len(x), 512)])
                score = f1_score(truth, guess.numpy(), average="macro", labels=np.unique(truth))
    return score if finetuning else model.state_dict()


def precise(trial: Trial) -> Any:
    """The precision that the sweep's own trainings have: bf16 where this processor computes in it, else float32."""
    import torch

    from ray_robust.train.context import Context

    return Context(torch.device("cpu")).autocast(trial.model.precision)


# --- through the sweep


def as_run(sweep: Sweep, run: RunFolder) -> Sweep:
    """The sweep as it was run there: with the baseline's fine-tunings that its pilot chose."""
    choice = baseline_spread.recorded(sweep, run)
    assert choice.decided or not baseline_spread.wanted(sweep.spec)
    return baseline_spread.with_choice(sweep, choice, None) if choice.decided else sweep


def time_sweep(spec: str, overrides: list[str], folder: Path) -> float:
    """Seconds of the whole command in empty folders."""
    home = Path(folder, "sweep")
    environment = {**os.environ, "RAY_ROBUST_STORE": str(home / "store"), "RAY_ROBUST_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "ray_robust.sweep", spec, "--out", str(home / "run")]
    command += [word for override in overrides for word in ("--set", override)]
    begun, both = time.monotonic(), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env=environment, text=True, check=False, **both)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"the sweep ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return seconds


# --- as a plain Ray user writes it


def sample(sweep: Sweep, count: int) -> list[tuple[list[tuple[Trial, Finetuning]], int]]:
    """The fine-tunings by what they cost (images processed), for each cost: those to run, and how many there are."""
    kinds: dict[tuple[int, int], list[tuple[Trial, Finetuning]]] = {}
    for trial in sweep.plan:
        for finetuning in trial.finetunings:
            kinds.setdefault((trial.pretrain_images, finetuning.images), []).append((trial, finetuning))
    return [(runs[:count], len(runs)) for runs in kinds.values()]


def time_plain_ray(sweep: Sweep, sampled: list, stores: dict[str, ImageStore], folder: Path) -> float:
    """Seconds for all fine-tunings: those sampled are run, as many at a time as there are cores, and scaled. The images
    lie as PNG files in class folders before the clock starts."""
    import ray
    from ray import tune

    root = next(iter(stores.values())).folder.parent
    slots = max(1, os.cpu_count() or 1)
    total, trees = 0.0, dict[tuple[str, str], Path]()
    for runs, _ in sampled:
        for trial, finetuning in runs:
            trees[trial.id, finetuning.id] = write_tree(trial, root, folder / "trees" / trial.id)
    for name in ("RAY_AUTH_MODE", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"):
        os.environ.setdefault(name, {"RAY_AUTH_MODE": "disabled"}.get(name, "0.1"))
    begun = time.monotonic()
    ray.init(address="local", log_to_driver=False, logging_level="ERROR")
    start = time.monotonic() - begun
    for runs, count in sampled:
        jobs = [(trial, finetuning, trees[trial.id, finetuning.id]) for trial, finetuning in runs]
        jobs = (jobs * slots)[: max(slots, len(jobs))]  # both cores busy, as in a whole sweep
        trainable = tune.with_parameters(_plain_driver, jobs=jobs)
        begun = time.monotonic()
        results = tune.Tuner(
            tune.with_resources(trainable, {"CPU": 0, "node:__internal_head__": 0.001}),
            param_space={"job": tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=slots),
            run_config=tune.RunConfig(name=f"plain-{len(trees)}", storage_path=str(folder / "plain"), verbose=0),
        ).fit()
        if results.errors:
            raise SystemExit(f"plain Ray failed: {results.errors[0]}")
        total += (time.monotonic() - begun) / len(jobs) * count
    ray.shutdown()
    return start + total


def _plain_driver(config: dict, jobs: list) -> None:
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trial, finetuning, tree = jobs[config["job"]]
    TorchTrainer(
        _plain_train,
        train_loop_config={"trial": trial, "finetuning": finetuning, "tree": str(tree)},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=f"job-{config['job']}-{time.time_ns()}", storage_path=str(Path(tree).parent)),
    ).fit()
    tune.report({"done": 1})


def _plain_train(config: dict) -> None:
    """Pre-train and fine-tune as a tutorial would: ImageFolder, DataLoader, transforms, prepare_model."""
    import timm
    import torch
    from ray.train.torch import prepare_model
    from sklearn.metrics import f1_score
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    trial, finetuning, tree = config["trial"], config["finetuning"], Path(config["tree"])
    size = trial.model.image_size
    ending = (transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3))
    shift = transforms.RandomCrop(size, padding=4, padding_mode="reflect")
    noisy, plain = transforms.Compose([shift, transforms.RandomHorizontalFlip(), *ending]), transforms.Compose(ending)

    def run(model: torch.nn.Module, folder: Path, settings: Any, seen: int, tests: list[Path]) -> None:
        data = datasets.ImageFolder(str(folder), noisy)
        loader = DataLoader(data, settings.batch_size, shuffle=True, drop_last=len(data) > settings.batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        done, epoch = 0, 0
        while done < seen:
            model.train()
            for x, y in loader:
                with precise(trial):
                    loss = torch.nn.functional.cross_entropy(model(x).float(), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += len(y)
                if done >= seen:
                    break
            epoch += 1
            if tests and (epoch % settings.evaluate_every == 0 or done >= seen):
                model.eval()
                for test in tests:
                    guesses, truths = [], []
                    with torch.inference_mode(), precise(trial):
                        for x, y in DataLoader(datasets.ImageFolder(str(test), plain), 512):
                            guesses.append(model(x).argmax(1))
                            truths.append(y)
                    f1_score(torch.cat(truths), torch.cat(guesses), average="macro")

    model = timm.create_model(trial.model.name, num_classes=1000)
    if trial.pretrain is not None:
        run(prepare_model(model), tree / "pretrain", trial.pretrain, trial.pretrain_images, [])
    model.reset_classifier(1000)
    tests = [tree / split for split in SPLITS[1:]]
    run(prepare_model(model), tree / "train", finetuning.settings, finetuning.images, tests)


def write_tree(trial: Trial, root: Path, folder: Path) -> Path:
    """A trial's images as PNG files in class folders: pretrain/<class>/ and <split>/<class>/."""
    from PIL import Image

    mixture, task = arrays_of(trial, root)
    parts = {**task, **({"pretrain": mixture["train"]} if mixture else {})}
    for name, (images, labels) in parts.items():
        for label in np.unique(labels):
            (folder / name / f"{label:04d}").mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / name / f"{label:04d}" / f"{i:06d}.png", compress_level=1)
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
