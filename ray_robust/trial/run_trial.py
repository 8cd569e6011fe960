"""One trial from beginning to end: draw, pre-train, fine-tune, evaluate, write - resuming whatever is there already.

Knows nothing of Ray: it runs inside a reused Tune actor, as one rank of a Ray Train group, or in a test. Everything it
makes goes to the trial's own folder, and the pre-trained weights to the checkpoints' folder under the trial's key. Owns
what becomes of an error: memory that was short is answered here, the rest is the trial's failure or the launcher's.
"""

from __future__ import annotations

import platform
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_robust.data.index import fingerprint
from ray_robust.data.mixture import Subset, draw
from ray_robust.data.opened import images_of, open_pool, open_store, usable
from ray_robust.data.pool import SPLITS, Source, Task
from ray_robust.data.store import ImageStore
from ray_robust.data.tasks.training_set import training_rows
from ray_robust.errors import Outage, UserError
from ray_robust.files.storage import Storage
from ray_robust.plan.plan import Finetuning, Trial
from ray_robust.run import checkpoint_paths
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.spec.sections import Finetune
from ray_robust.train.checkpoints import drop_state, read_checkpoint, save_checkpoint, weights_in
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split
from ray_robust.train.exceptions import Preempted, Stopped, TrainingFailed
from ray_robust.train.features import FeatureCache
from ray_robust.train.finetune import FinetuneJob, finetune
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import Steps, run_each, run_interleaved
from ray_robust.train.models import build_model
from ray_robust.train.points import points
from ray_robust.train.pretrain import MixtureImages, Pretrained, PretrainJob, pretrain
from ray_robust.train.stack import StackedRunner
from ray_robust.trial.failure import backoff, one_line, recurs
from ray_robust.trial.oom import free, is_out_of_memory, kills, largest_batch, more_parts
from ray_robust.trial.outputs import write_predictions, write_subset
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.trial_log import TrialLog


def run_trial(trial: Trial, paths: RunPaths, context: Context) -> None:
    """Run what is missing of a trial and mark it done; what is wrong with it for good is left in its folder.

    Several ranks call it together: they pre-train as one, then share out the fine-tunings. What may go better the next
    time (storage or a worker that went away, a machine to be left) is raised, for the launcher to try again.
    """
    run = RunFolder(paths.run)
    if run.has_rows(trial.id, [f.id for f in trial.finetunings]):
        return
    folder = run.trial(trial.id)
    log = TrialLog(trial, folder, context)
    if context.first:
        if damage := folder.begin():
            log.write(f"is run again, with what is whole of it: {damage}")
        _come_again(trial, folder, log)
    parts: int | None = folder.parts()
    while parts is not None:
        short = _attempt(
            trial, paths, replace(context, heartbeat=log.heartbeat, log=log.write, grad_accum_steps=parts), folder, log
        )
        if short is None:
            return
        parts = _divided(trial, parts, short, folder, log)
        if context.world_size > 1:  # the other ranks must begin again with it
            raise MemoryError(short)
        free()


def _come_again(trial: Trial, folder: TrialFolder, log: TrialLog) -> None:
    """Rest after a fault. A worker that the kernel killed for memory could not say so: the machine's count does.
    Whether it died since it began goes by the number of attempts: driver and worker have clocks of their own."""
    attempts = folder.attempts()
    if wait := backoff(attempts, time.time()):
        log.write(f"waits {wait:.0f} s before another attempt: {attempts[-1]['reason']}")
        time.sleep(wait)
    before = folder.storage.recall_json("worker.json")
    here = {"host": platform.node(), "kills": kills(), "attempts": len(attempts)}
    known = before if before and all(type(before.get(key)) is type(value) for key, value in here.items()) else None
    died = bool(known and len(attempts) > known["attempts"] and attempts[-1]["kind"] == "died")
    if died and known and known["host"] == here["host"] and known["kills"] < here["kills"]:
        _divided(trial, folder.parts(), "the kernel ended its worker for memory", folder, log)
    with suppress(OSError):
        folder.storage.write_json("worker.json", here, durable=False)


def _attempt(trial: Trial, paths: RunPaths, context: Context, folder: TrialFolder, log: TrialLog) -> str | None:
    """Run a trial; returns None when it is over, one way or the other, else what there was too little memory for."""
    try:
        _run(trial, paths, context, folder, log)
    except Preempted as told:
        log.write(str(told))
        raise
    except Stopped as told:
        log.write(str(told))
        if context.first:
            folder.stop(str(told), told.facts)
    except Exception as error:
        log.write(traceback.format_exc())
        if is_out_of_memory(error):
            return " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, TrainingFailed | UserError):
            folder.fail(str(error))
        elif not isinstance(error, Outage) and recurs(error, folder.attempts()):
            folder.fail(one_line(error))
        else:
            raise
        if context.world_size > 1:  # the other ranks would wait for this one for ever
            raise
    return None


def _divided(trial: Trial, parts: int, short: str, folder: TrialFolder, log: TrialLog) -> int | None:
    """Note that a trial needs batches in more parts; None, and the trial has failed, when they are single images."""
    more = more_parts(trial, parts)
    if more is None:
        folder.fail(f"out of memory with a single image at a time: {short}")
        return None
    log.write(f"out of memory: batches go through the model in {more} parts from now on")
    folder.divide(more, short)
    return more


def _run(trial: Trial, paths: RunPaths, context: Context, folder: TrialFolder, log: TrialLog) -> None:
    log.write(f"starts on {platform.node()}, {context.device}, rank {context.rank} of {context.world_size}")
    facts: dict[str, Any] = {**trial.columns(), "key": trial.key, "device": _device_name(context.device)}
    if context.grad_accum_steps > 1:
        facts |= {
            "batch_parts": context.grad_accum_steps,
            "micro_batch": -(-largest_batch(trial) // context.grad_accum_steps),
        }
    weights = checkpoint_paths.weights_of(paths.checkpoints, trial.key)
    if context.first:
        weights.tidy()
    start: Start | None = None
    drawn: tuple[Subset, dict[str, ImageStore]] | None = None
    if trial.pretrain is not None:
        drawn = _draw(trial, paths, context) if trial.draws else None
        if drawn is not None:
            subset, stores = drawn
            facts |= {
                "num_images": len(subset),
                "num_classes": subset.leaf_classes,
                "composition": list(subset.composition),
                "labels": subset.images_per_label(),
                "subset_fingerprint": fingerprint(subset, {n: s.pool.catalog for n, s in stores.items()}),
            }
            if context.first:
                write_subset(folder, subset, stores)
                folder.storage.write_json("trial.json", facts)
        start = _pretrain(trial, drawn, weights, context, log)
        facts |= {
            "pretrain_epochs": start.known.epochs,
            "pretrain_images_seen": start.known.images_seen,
            "upstream_accuracy": start.known.upstream_accuracy,
            "seconds_pretrain": round(start.known.seconds, 3),
        }
        if start.known.warnings:
            facts["warnings"] = list(start.known.warnings)
    if context.first:
        folder.storage.write_json("trial.json", facts)
    log.behind("pretrain", trial.pretrain_images)
    alone, features = replace(context, rank=0, world_size=1), FeatureCache()
    todo = []
    for finetuning in trial.finetunings[context.rank :: context.world_size]:
        if folder.finetuning(finetuning.id) is None:
            todo.append(partial(_finetune, trial, finetuning, start, paths, alone, folder, log, facts, features))
        else:
            log.behind(finetuning.id, finetuning.images)
    runner = StackedRunner(context.device) if context.stacked else run_each
    run_interleaved(todo, context.finetunings_at_once, context.device, runner)
    context.wait_for_all()
    if context.first:
        finished = [(f.id, folder.finetuning(f.id)) for f in trial.finetunings]
        if gone := [name for name, rows in finished if rows is None]:
            raise OSError(f"{folder.storage.shown}: {', '.join(gone)} was removed or altered while the trial ran")
        if folder.storage.stamp("trial.json") is None:  # removed since
            folder.storage.write_json("trial.json", facts)
        if drawn is not None and folder.storage.stamp("subset.parquet") is None:
            write_subset(folder, *drawn)
        rows = [row for _, own in finished for row in own or ()]
        folder.finish(rows, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
        log.write("done")
    context.wait_for_all()


def _draw(trial: Trial, paths: RunPaths, context: Context) -> tuple[Subset, dict[str, ImageStore]]:
    """The trial's images, and the store of every source on this node."""
    assert trial.pretrain is not None
    stores = {
        name: open_store(Path(paths.store), open_pool("source", name, section), trial.model.image_size)
        for name, section in trial.pretrain.sources.items()
    }
    for store in stores.values():
        if not store.pool.rendered:
            store.fill(store.missing(), lambda _: context.heartbeat())
    catalogs = {name: store.pool.catalog for name, store in stores.items()}
    masks = {name: usable(store) for name, store in stores.items()}
    return draw(trial.pretrain, catalogs, masks, trial.subset_seed), stores


@dataclass(frozen=True, eq=False)
class Start:
    """What every fine-tuning of a trial starts from: what is known of the pre-training, and its weights by name."""

    known: Pretrained
    weights: dict[str, torch.Tensor]


def _pretrain(
    trial: Trial, drawn: tuple[Subset, dict[str, ImageStore]] | None, weights: Storage, context: Context, log: TrialLog
) -> Start:
    """Pre-train, or find it done: the weights are kept by what they mean. Weights that are damaged are made again."""
    found = read_checkpoint(weights, checkpoint_paths.FINAL)
    if found is None:
        assert trial.pretrain is not None
        if checkpoint_paths.is_finished(weights):
            log.write("its pre-trained weights are damaged: they are made again")
        images = None
        if drawn is not None:
            subset, stores = drawn
            told = f"{len(subset)} images of {subset.leaf_classes} classes, {len(subset.classes)} labels"
            log.write(f"pre-trains on {told}, method {trial.pretrain.method}")
            images = _images(subset, stores, context.device, captioned=trial.pretrain.method == "clip")
        told_to = replace(context, report=log.of("pretrain"))
        job = PretrainJob(trial.model, trial.pretrain, trial.seed, trial.key, told_to, weights, images)
        model, done = pretrain(job)
        if context.first:
            save_checkpoint(weights, checkpoint_paths.FINAL, model, asdict(done))
            drop_state(weights, "pretrain")
        for note in (*done.notes, *done.warnings):
            log.write(note)
        upstream = "" if done.upstream_accuracy is None else f", upstream accuracy {done.upstream_accuracy:.4f}"
        log.write(f"pre-trained in {done.seconds:.1f} s{upstream}")
        context.wait_for_all()
        found = read_checkpoint(weights, checkpoint_paths.FINAL)
        if found is None:
            raise OSError(f"{weights.shown}: the pre-trained weights cannot be read back")
    else:
        log.write("finds its pre-trained weights")
    if context.first:
        with suppress(OSError):  # it only says which weights were wanted last
            weights.write_json(checkpoint_paths.USED, {"time": time.time(), "trial": trial.id}, durable=False)
    tensors, facts = found
    return Start(Pretrained(**facts), weights_in(tensors))


def _images(subset: Subset, stores: dict[str, ImageStore], device: torch.device, captioned: bool) -> MixtureImages:
    """The images of a mixture, and their captions where one of its sources has some."""

    def split(held_out: bool) -> Split:
        rows = {s.source: s.held_out_rows if held_out else s.rows for s in subset.shares}
        labels = [s.held_out_labels if held_out else s.labels for s in subset.shares]
        parts = [images_of(stores[name], wanted) for name, wanted in rows.items()]
        return Split(ImageBank(parts, device), np.concatenate(labels))

    captions: list[str | None] = []
    for share in subset.shares if captioned else ():
        pool = stores[share.source].pool
        texts = pool.captions(share.rows) if isinstance(pool, Source) else None
        captions += [None] * len(share.rows) if texts is None else texts
    return MixtureImages(split(False), split(True), subset.classes, captions)


def _finetune(
    trial: Trial,
    finetuning: Finetuning,
    start: Start | None,
    paths: RunPaths,
    context: Context,
    folder: TrialFolder,
    log: TrialLog,
    facts: dict[str, Any],
    features: FeatureCache,
) -> Steps[None]:
    task = open_pool("task", finetuning.task.name, finetuning.task)
    assert isinstance(task, Task)
    store = Path(paths.store)
    splits = _splits(task, finetuning.settings, trial.seed, store, trial.model.image_size, context.device)
    classes = len(task.catalog.classes)
    model = build_model(trial.model, start.known.num_labels if start else classes, trial.seed)
    if start is not None:
        model.load_state_dict(start.weights)
    resumed = folder.storage / checkpoint_paths.finetuning_state(finetuning.id)
    log.write(f"fine-tunes {finetuning.id} on {_told(splits['train'], finetuning)}")
    name = f"{trial.key}/{finetuning.id}"
    context = replace(context, report=log.of(finetuning.id), log=lambda text: log.write(f"{finetuning.id}: {text}"))
    job = FinetuneJob(trial.model, finetuning.settings, splits, classes, name, task.metric, context, resumed, features)
    done = yield from finetune.steps(model, job)
    write_predictions(folder, finetuning.id, done, splits, task)
    columns = {
        **{key: facts.get(key) for key in trial.columns()},
        "status": "done",
        "finetune": finetuning.id,
        "finetune_method": finetuning.settings.method,
        "finetune_lr": finetuning.settings.lr,
        "finetune_weight_decay": finetuning.settings.weight_decay,
        "finetune_images": len(splits["train"].labels),
        "seconds_finetune": round(done.seconds, 3),
        "task": finetuning.task_label,
    }
    rows = [{**columns, **point} for point in points(done, splits, task.metric)]
    folder.keep_finetuning(finetuning.id, rows)
    folder.storage.delete(checkpoint_paths.finetuning_state(finetuning.id))
    log.behind(finetuning.id, finetuning.images)
    last = next(row for row in reversed(rows) if row["wise_alpha"] is None)
    log.write(f"fine-tuned {finetuning.id} in {done.seconds:.1f} s: id {last['id']:.4f}, ood {last['ood']:.4f}")


def _told(train: Split, finetuning: Finetuning) -> str:
    """What a fine-tuning trains on, in words."""
    counts, wanted = np.unique(train.labels, return_counts=True)[1], finetuning.settings.per_class or 0
    short = f", {(counts < wanted).sum()} of them hold fewer than {wanted}" if (counts < wanted).any() else ""
    return f"{len(train.labels)} images of {len(counts)} classes of {finetuning.task_label}{short}"


def _splits(task: Task, settings: Finetune, seed: int, root: Path, size: int, device: torch.device) -> dict[str, Split]:
    """The splits of a task as a fine-tuning sees them."""
    if settings.num_images is None and settings.per_class is None:
        return {name: split(task, name, root, size, device) for name in SPLITS}
    tests = {name: split(task, name, root, size, device) for name in SPLITS[1:]}
    store = _filled(task, root, size)
    return {"train": _split_of(store, training_rows(task.catalog, usable(store), settings, seed), device), **tests}


@lru_cache(maxsize=2 * len(SPLITS))
def split(task: Task, name: str, root: Path, size: int, device: torch.device) -> Split:
    """A whole split of a task, shared by all fine-tunings of this process."""
    store = _filled(task, root, size)
    mask, rows = usable(store), task.catalog.rows(name)
    return _split_of(store, rows if mask is None else rows[mask[rows]], device)


def _split_of(store: ImageStore, rows: np.ndarray, device: torch.device) -> Split:
    task, catalog = store.pool, store.pool.catalog
    assert isinstance(task, Task)
    groups = None if catalog.group is None else catalog.group[rows]
    aside = tuple(i for i, group in enumerate(catalog.groups) if group in task.aside)
    bank = ImageBank([images_of(store, rows)], device)
    return Split(bank, catalog.labels[rows].astype(np.int64), groups, rows, aside)


def _filled(task: Task, root: Path, size: int) -> ImageStore:
    store = open_store(root, task, size)
    if not task.rendered:
        store.fill(store.missing())
    return store


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
