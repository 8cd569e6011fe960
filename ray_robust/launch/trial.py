"""One trial from beginning to end: draw, pre-train, fine-tune, evaluate, write - resuming whatever is there already.

Knows nothing of Ray: it runs inside a reused Tune actor, as one rank of a Ray Train group, or in a test. Everything it
makes goes to the trial's own folder, and the pre-trained weights to the checkpoints' folder under the trial's key.
"""

from __future__ import annotations

import io
import platform
import time
import traceback
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ray_robust.data.index import fingerprint
from ray_robust.data.mixture import Subset, draw
from ray_robust.data.opened import images_of, open_pool, open_store, usable
from ray_robust.data.pool import SPLITS, Pool, Source, Task
from ray_robust.data.store import ImageStore
from ray_robust.data.tasks.training_set import training_rows
from ray_robust.errors import UserError
from ray_robust.launch.places import Places
from ray_robust.plan import Finetuning, Trial
from ray_robust.results import RunFolder, TrialFolder
from ray_robust.sections import Finetune
from ray_robust.storage import Storage
from ray_robust.train.checkpoints import checkpoint_facts, load_checkpoint, save_checkpoint
from ray_robust.train.context import Context, Progress, TrainingFailed
from ray_robust.train.evaluate import Split
from ray_robust.train.finetune import Finetuned, finetune
from ray_robust.train.images import ImageBank
from ray_robust.train.models import build_model
from ray_robust.train.points import counts, points
from ray_robust.train.pretrain import Images, Job, Pretrained, pretrain


class TrialLog:
    """log.txt and progress.json of a trial; only the first rank writes them."""

    def __init__(self, trial: Trial, folder: TrialFolder, context: Context) -> None:
        self.folder, self.writes = folder, context.first
        self.lines = (folder.storage.read("log.txt") or b"").decode().splitlines() if self.writes else []
        self.total = trial.pretrain_images + sum(f.images for f in trial.finetunings)
        self.before = 0  # training images of the stages that are over
        self.scores: dict[str, float] = {}

    def say(self, line: str) -> None:
        """A line with its time."""
        if self.writes:
            self.lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}")
            self.folder.storage.write("log.txt", "\n".join(self.lines) + "\n", durable=False)

    def progress(self, progress: Progress) -> None:
        """What the live view, the metrics and the status command read."""
        self.scores |= {k: v for k, v in (("id", progress.id), ("ood", progress.ood)) if v is not None}
        if self.writes:
            now = {**asdict(progress), **self.scores, "time": time.time()}
            share = min(1.0, (self.before + progress.images) / max(1, self.total))
            self.folder.storage.write_json("progress.json", {**now, "share": share}, durable=False)


def run_trial(trial: Trial, places: Places, context: Context) -> None:
    """Run what is missing of a trial and mark it done; what goes wrong is left in its folder as the reason.

    Several ranks call it together: they pre-train as one, then share out the fine-tunings.
    """
    folder = RunFolder(places.run).trial(trial.id)
    if folder.has([f.id for f in trial.finetunings]):
        return
    if context.first:
        folder.begin()
    log = TrialLog(trial, folder, context)
    context = replace(context, report=log.progress)
    try:
        _run(trial, places, context, folder, log)
    except Exception as error:
        log.say(traceback.format_exc())
        said = isinstance(error, TrainingFailed | UserError)
        folder.fail(str(error) if said else f"{type(error).__name__}: {error}")
        if context.world_size > 1:  # the other ranks would wait for this one for ever
            raise


def _run(trial: Trial, places: Places, context: Context, folder: TrialFolder, log: TrialLog) -> None:
    log.say(f"starts on {platform.node()}, {context.device}, rank {context.rank} of {context.world_size}")
    facts: dict[str, Any] = {**trial.columns(), "key": trial.key, "device": _device_name(context.device)}
    weights = Storage(places.checkpoints) / trial.key
    pretrained: Pretrained | None = None
    if trial.pretrain is not None:
        drawn = _draw(trial, places) if trial.draws else None
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
                _write_subset(folder, subset, stores)
                folder.storage.write_json("trial.json", facts)
        pretrained = _pretrain(trial, drawn, weights, context, log)
        facts |= {
            "pretrain_epochs": pretrained.epochs,
            "pretrain_images_seen": pretrained.images_seen,
            "upstream_accuracy": pretrained.upstream_accuracy,
            "seconds_pretrain": round(pretrained.seconds, 3),
        }
    if context.first:
        folder.storage.write_json("trial.json", facts)
    log.before = trial.pretrain_images
    alone = replace(context, rank=0, world_size=1)
    for finetuning in trial.finetunings[context.rank :: context.world_size]:
        if folder.finetuning(finetuning.id) is None:
            _finetune(trial, finetuning, pretrained, weights, places, alone, folder, log, facts)
        log.before += finetuning.images
    context.wait_for_all()
    if context.first:
        rows = [row for f in trial.finetunings for row in folder.finetuning(f.id) or ()]
        folder.finish(rows, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
        log.say("done")
    context.wait_for_all()


def _draw(trial: Trial, places: Places) -> tuple[Subset, dict[str, ImageStore]]:
    """The trial's images, and the store of every source on this node."""
    assert trial.pretrain is not None
    stores = {
        name: open_store(Path(places.store), open_pool("source", name, section), trial.model.image_size)
        for name, section in trial.pretrain.sources.items()
    }
    for store in stores.values():
        if not store.pool.rendered:
            store.fill(store.missing())
    catalogs = {name: store.pool.catalog for name, store in stores.items()}
    masks = {name: usable(store) for name, store in stores.items()}
    return draw(trial.pretrain, catalogs, masks, trial.subset_seed), stores


def _pretrain(
    trial: Trial, drawn: tuple[Subset, dict[str, ImageStore]] | None, weights: Storage, context: Context, log: TrialLog
) -> Pretrained:
    """Pre-train, or find it done: the weights are kept by what they mean."""
    known = checkpoint_facts(weights, "final")
    if known is None:
        assert trial.pretrain is not None
        images = None
        if drawn is not None:
            subset, stores = drawn
            told = f"{len(subset)} images of {subset.leaf_classes} classes, {len(subset.classes)} labels"
            log.say(f"pre-trains on {told}, method {trial.pretrain.method}")
            images = _images(subset, stores, context.device, captioned=trial.pretrain.method == "clip")
        job = Job(trial.model, trial.pretrain, trial.seed, trial.key, context, weights, images)
        model, done = pretrain(job)
        known = asdict(done)
        if context.first:
            save_checkpoint(weights, "final", model, known)
            weights.delete("pretrain.safetensors")
        for note in done.notes:
            log.say(note)
        log.say(f"pre-trained in {done.seconds:.1f} s, upstream accuracy {done.upstream_accuracy}")
        context.wait_for_all()
    else:
        log.say("finds its pre-trained weights")
    return Pretrained(**known)


def _images(subset: Subset, stores: dict[str, ImageStore], device: torch.device, captioned: bool) -> Images:
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
    return Images(split(False), split(True), subset.classes, captions)


def _finetune(
    trial: Trial,
    finetuning: Finetuning,
    pretrained: Pretrained | None,
    weights: Storage,
    places: Places,
    context: Context,
    folder: TrialFolder,
    log: TrialLog,
    facts: dict[str, Any],
) -> None:
    task = open_pool("task", finetuning.task.name, finetuning.task)
    assert isinstance(task, Task)
    store = Path(places.store)
    splits = _splits(task, finetuning.settings, trial.seed, store, trial.model.image_size, context.device)
    classes = len(task.catalog.classes)
    model = _start(trial, pretrained, weights, classes)
    resumed = folder.storage / f"checkpoints/{finetuning.id}"
    log.say(f"fine-tunes {finetuning.id} on {_told(splits['train'], finetuning)}")
    name = f"{trial.key}/{finetuning.id}"
    done = finetune(model, trial.model, finetuning.settings, splits, classes, name, task.metric, context, resumed)
    _write_predictions(folder, finetuning.id, done, splits, task)
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
    folder.storage.write_json(f"finetunings/{finetuning.id}.json", rows)
    folder.storage.delete(f"checkpoints/{finetuning.id}")
    last = next(row for row in reversed(rows) if row["wise_alpha"] is None)
    log.say(f"fine-tuned in {done.seconds:.1f} s: id {last['id']:.4f}, ood {last['ood']:.4f}")


def _told(train: Split, finetuning: Finetuning) -> str:
    """What a fine-tuning trains on, in words."""
    counts, wanted = np.unique(train.labels, return_counts=True)[1], finetuning.settings.per_class or 0
    short = f", {(counts < wanted).sum()} of them hold fewer than {wanted}" if (counts < wanted).any() else ""
    return f"{len(train.labels)} images of {len(counts)} classes of {finetuning.task_label}{short}"


def _start(trial: Trial, pretrained: Pretrained | None, weights: Storage, classes: int) -> nn.Module:
    """The model that a fine-tuning starts from."""
    if pretrained is None:
        return build_model(trial.model, classes, trial.seed)
    model = build_model(trial.model, pretrained.num_labels, trial.seed)
    if load_checkpoint(weights, "final", model) is None:
        raise TrainingFailed(f"{weights.shown}: the pre-trained weights vanished or were cut short; run again")
    return model


def _splits(task: Task, settings: Finetune, seed: int, root: Path, size: int, device: torch.device) -> dict[str, Split]:
    """The splits of a task as a fine-tuning sees them."""
    if settings.num_images is None and settings.per_class is None:
        return {name: _split(task, name, root, size, device) for name in SPLITS}
    tests = {name: _split(task, name, root, size, device) for name in SPLITS[1:]}
    store = _filled(task, root, size)
    return {"train": _split_of(store, training_rows(task.catalog, usable(store), settings, seed), device), **tests}


@lru_cache(maxsize=2 * len(SPLITS))
def _split(task: Task, name: str, root: Path, size: int, device: torch.device) -> Split:
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


def _write_subset(folder: TrialFolder, subset: Subset, stores: dict[str, ImageStore]) -> None:
    """subset.parquet: which images, by name, under which label."""
    if folder.storage.exists("subset.parquet"):
        return
    names = np.asarray(subset.classes, dtype=object)
    parts = [
        pd.DataFrame({
            "source": pd.Categorical([share.source] * len(share.rows)),
            "image": stores[share.source].pool.keys(share.rows),
            "label": pd.Categorical(names[share.labels]),
        })
        for share in subset.shares
    ]  # fmt: skip
    _write_parquet(folder, "subset.parquet", pd.concat(parts, ignore_index=True))


def _write_predictions(folder: TrialFolder, name: str, done: Finetuned, splits: dict[str, Split], task: Pool) -> None:
    """predictions/<id>.parquet: one row per test image, per evaluated epoch its class and how sure the model is.
    groups/<id>.parquet, where the task has groups: counts per epoch, split, group and class."""
    catalog = task.catalog
    classes, groups = np.asarray(catalog.classes, dtype=object), np.asarray(catalog.groups, dtype=object)
    parts = []
    for split in SPLITS[1:]:
        known = splits[split]
        part = {"split": split, "image": task.keys(known.rows), "label": classes[known.labels]}
        if known.groups is not None:
            part["group"] = groups[known.groups]
        for look, predicted in done.predictions.items():
            part[f"epoch_{look.name}"] = classes[predicted[split].classes]
            part[f"confidence_{look.name}"] = predicted[split].confidence.astype(np.float16)
        parts.append(pd.DataFrame(part))
    _write_parquet(folder, f"predictions/{name}.parquet", _named(pd.concat(parts, ignore_index=True)))
    counted = counts(done, splits)
    if counted is not None:
        named = counted.assign(group=groups[counted["group"]], **{"class": classes[counted["class"]]})
        _write_parquet(folder, f"groups/{name}.parquet", _named(named))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as categories, except those of images: each of them comes once."""
    names = table.select_dtypes(exclude="number").columns.drop("image", errors="ignore")
    return table.astype(dict.fromkeys(names, "category"))


def _write_parquet(folder: TrialFolder, name: str, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    folder.storage.write(name, buffer.getvalue())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
