"""The fine-tunings of a sweep as a plain Ray user writes them: a Tune trial with a nested trainer for each."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.overhead.images import arrays_of, precise
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.plan.plan import Finetuning, Trial
from ray_robust.prepare.open_sweep import Sweep


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
            trees[trial.id, finetuning.id] = write_tree(trial, finetuning, root, folder / "trees")
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


def write_tree(trial: Trial, finetuning: Finetuning, root: Path, folder: Path) -> Path:
    """The images of a fine-tuning and its trial as PNG files in class folders: pretrain/<class>/ and <split>/<class>/.
    Fine-tunings on as many images share them."""
    from PIL import Image

    few = finetuning.settings.num_images
    tree = folder / trial.id / str(few or "all")
    if tree.exists():
        return tree
    mixture, task = arrays_of(trial, root)
    parts = {**task, "train": tuple(array[:few] for array in task["train"])}
    if mixture:
        parts["pretrain"] = mixture["train"]
    for name, (images, labels) in parts.items():
        for label in np.unique(labels):
            (tree / name / f"{label:04d}").mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(tree / name / f"{label:04d}" / f"{i:06d}.png", compress_level=1)
    return tree
