"""The trials of a sweep as bare PyTorch loops, one single-thread process per core."""

from __future__ import annotations

import heapq
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.overhead.images import arrays_of, precise
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.plan.plan import Finetuning, Trial


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
