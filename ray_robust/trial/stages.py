"""The stages of a trial in order: draw, pre-train, fine-tune and evaluate, finish. Each resumes what exists already."""

from __future__ import annotations

import platform
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_robust.data.opened import open_pool
from ray_robust.data.pool import Task
from ray_robust.files.storage import Storage
from ray_robust.plan.plan import Finetuning, Trial, hash_of
from ray_robust.run import checkpoint_paths
from ray_robust.run.learning_curve import LearningCurve
from ray_robust.run.run_folder import TrialFolder
from ray_robust.train.checkpoints import drop_state, read_checkpoint, save_checkpoint, state_facts, weights_in
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.features import FeatureCache
from ray_robust.train.finetune import Finetuned, FinetuneJob, finetune
from ray_robust.train.interleave import Steps, run_each, run_interleaved
from ray_robust.train.models import build_model
from ray_robust.train.points import points
from ray_robust.train.precision import CHANGED, keep_precision
from ray_robust.train.pretrain import Pretrained, PretrainJob, pretrain
from ray_robust.train.stack import StackedRunner
from ray_robust.trial.computed_on import computed_on, made_on_text, recorded_precision
from ray_robust.trial.datasets import Mixture, Shown, draw_mixture, task_splits
from ray_robust.trial.failure import of_finetunings
from ray_robust.trial.oom import largest_batch
from ray_robust.trial.outputs import write_predictions, write_subset
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.trial_log import TrialLog

Checkpoint = tuple[dict[str, torch.Tensor], dict[str, Any]]  # the tensors and facts of a file of weights


@dataclass(frozen=True, eq=False)
class TrialRun:
    """One attempt at a trial by one rank: what all of its stages use.

    warnings  of this attempt, for trial.json and the weights that it makes: what a reader of its scores must know
    """

    trial: Trial
    paths: RunPaths
    context: Context
    folder: TrialFolder
    log: TrialLog
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """What every fine-tuning of a trial starts from: the facts of the pre-training, and its weights by name."""

    facts: Pretrained
    state_dict: dict[str, torch.Tensor]


def run_stages(run: TrialRun) -> None:
    """Run what is missing of a trial and mark it done. All ranks call it together."""
    trial, log = run.trial, run.log
    log.write(f"starts on {platform.node()}, {run.context.device}, rank {run.context.rank} of {run.context.world_size}")
    weights = checkpoint_paths.weights_of(run.paths.checkpoints, trial.key)
    if run.context.first:
        weights.tidy()
    finished = None if trial.pretrain is None else read_checkpoint(weights, checkpoint_paths.FINAL)
    run = _with_precision(run, weights, finished)
    context = run.context
    facts = {**trial.columns(), "key": trial.key, **computed_on(context, trial.model, largest_batch(trial))}
    if run.warnings:
        facts["warnings"] = list(run.warnings)
    mixture = _draw(run, facts) if trial.draws else None
    initial = None if trial.pretrain is None else _pretrain(run, mixture, weights, finished, facts)
    if context.first:
        run.folder.storage.write_json("trial.json", facts)
    log.stage_done("pretrain", trial.pretrain_images)
    _finetune_all(run, initial, facts)
    context.wait_for_all()
    if context.first:
        _finish(run, mixture, facts)
    context.wait_for_all()


def _with_precision(run: TrialRun, weights: Storage, finished: Checkpoint | None) -> TrialRun:
    """Decide what `precision: auto` is: that of what exists of the trial, which trial.json tells from here on."""
    earlier = run.folder.storage.recall_json("trial.json") or {}
    recorded = None
    if run.context.first and run.trial.model.precision == "auto":
        recorded = recorded_precision(finished and finished[1].get("made_on"), weights, earlier)
    context, warning = keep_precision(run.context, run.trial.model.precision, recorded)
    if not warning and CHANGED in earlier.get("warnings", ()):  # as an earlier attempt has recorded what it changed to
        warning = CHANGED
    if warning:
        run.log.write(warning)
    return replace(run, context=context, warnings=(warning,) if warning else ())


def _draw(run: TrialRun, facts: dict[str, Any]) -> Mixture:
    """Draw the mixture, write down which images it has, and add to the trial's facts."""
    mixture = draw_mixture(run.trial, Path(run.paths.store), run.context.heartbeat)
    run.context.wait_for_all()  # whose nodes may have hours of images to decode: no collective waits for that
    facts |= mixture.facts()
    if run.context.first:
        write_subset(run.folder, mixture.subset, mixture.stores)
        run.folder.storage.write_json("trial.json", facts)
    return mixture


def _pretrain(
    run: TrialRun, mixture: Mixture | None, weights: Storage, checkpoint: Checkpoint | None, facts: dict[str, Any]
) -> InitialWeights:
    """Pre-train unless `weights`, a folder named by what is trained, has the result, which is `checkpoint`; add to the
    trial's facts."""
    if checkpoint is not None:
        earlier = Pretrained(**checkpoint[1])
        run.log.write(f"finds its pre-trained weights{made_on_text(earlier.made_on)}")
        for warning in earlier.warnings:
            run.log.write(warning)
    else:
        if checkpoint_paths.is_finished(weights):
            run.log.write("its pre-trained weights are damaged: they are made again")
        _train_initial(run, mixture, weights)
        run.context.wait_for_all()
        checkpoint = read_checkpoint(weights, checkpoint_paths.FINAL)
        if checkpoint is None:
            raise OSError(f"{weights.shown}: the pre-trained weights cannot be read back")
    if run.context.first:
        with suppress(OSError):  # it only says which weights were used last
            weights.write_json(checkpoint_paths.USED, {"time": time.time(), "trial": run.trial.id}, durable=False)
    tensors, saved = checkpoint
    done = Pretrained(**saved)
    facts |= {
        "pretrain_epochs": done.epochs,
        "pretrain_images_seen": done.images_seen,
        "upstream_accuracy": done.upstream_accuracy,
        "seconds_pretrain": round(done.seconds, 3),
    }
    if run.context.first and (curve := LearningCurve.read(done.curve)) is not None:
        run.folder.keep_curves("pretrain", [curve])
    if done.made_on is not None:
        facts["pretrained_on"] = done.made_on
    if warnings := dict.fromkeys((*done.warnings, *run.warnings)):
        facts["warnings"] = list(warnings)
    return InitialWeights(done, weights_in(tensors))


def _train_initial(run: TrialRun, mixture: Mixture | None, weights: Storage) -> None:
    """Pre-train, and write the weights and their facts."""
    trial, log = run.trial, run.log
    assert trial.pretrain is not None
    images, labels = None, ""
    if mixture is not None:
        subset = mixture.subset
        size = f"{len(subset)} images of {subset.leaf_classes} classes, {len(subset.classes)} labels"
        log.write(f"pre-trains on {size}, method {trial.pretrain.method}")
        images = mixture.images(run.context.device, captioned=trial.pretrain.method == "clip")
        labels = hash_of(images.labels) if len(mixture.stores) > 1 else ""  # of one source there is one order
        _drop_state_of_other_labels(run, weights, labels)
    curves: list[LearningCurve] = []
    context = replace(run.context, report=log.reporter("pretrain"), record=curves.append)
    job = PretrainJob(trial.model, trial.pretrain, trial.seed, trial.key, context, weights, images, trial.weights,
                      labels)  # fmt: skip
    model, done = pretrain(job)
    if trial.draws:  # ready-made weights were not computed here
        largest_part = -(-trial.pretrain.batch_size // context.world_size)
        done = replace(done, made_on=computed_on(context, trial.model, largest_part),
                       warnings=tuple(dict.fromkeys((*done.warnings, *run.warnings))))  # fmt: skip
    done = replace(done, curve=curves[0].as_json() if curves else None)
    if context.first:
        save_checkpoint(weights, checkpoint_paths.FINAL, model, asdict(done))
        drop_state(weights, "pretrain")
    for note in (*done.notes, *done.warnings):
        log.write(note)
    upstream = "" if done.upstream_accuracy is None else f", upstream accuracy {done.upstream_accuracy:.4f}"
    log.write(f"pre-trained in {done.seconds:.1f} s{upstream}")


def _drop_state_of_other_labels(run: TrialRun, weights: Storage, labels: str) -> None:
    """Begin again where the state of an interrupted pre-training has other numbers for the labels: that of a spec which
    names the same sources in another order, and so means the same. So of several sources where the state does not say:
    it is an earlier version's."""
    if run.context.first:
        facts = state_facts(weights, "pretrain")
        if facts is not None and facts.get("labels", "") != labels:
            run.log.write("begins its pre-training again: what there is of it has its sources in another order, or it "
                          "cannot be told in which")  # fmt: skip
            drop_state(weights, "pretrain")
    run.context.wait_for_all()


def _finetune_all(run: TrialRun, initial: InitialWeights | None, facts: dict[str, Any]) -> None:
    """Run this rank's share of the fine-tunings that are missing."""
    context, features = run.context, FeatureCache()
    alone = replace(run, context=replace(context, rank=0, world_size=1))
    missing = []
    for finetuning in run.trial.finetunings[context.rank :: context.world_size]:
        if run.folder.finetuning(finetuning.id) is None:
            missing.append(partial(_finetune_or_note, alone, finetuning, initial, facts, features))
        else:
            run.log.stage_done(finetuning.id, finetuning.images)
    runner = StackedRunner(context.device) if context.stacked else run_each
    run_interleaved(missing, context.finetunings_at_once, context.device, runner)


def _finetune_or_note(run: TrialRun, finetuning: Finetuning, *inputs: Any) -> Steps[None]:
    """Run one fine-tuning; where its training cannot go on (the loss diverges) note why, and let the others run."""
    try:
        yield from _finetune(run, finetuning, *inputs)
    except TrainingFailed as error:
        text = traceback.format_exc()
        run.log.write(f"{finetuning.id} failed\n{text}")
        run.folder.fail_finetuning(finetuning.id, str(error), text)
        run.log.stage_done(finetuning.id, finetuning.images)


def _finetune(
    run: TrialRun,
    finetuning: Finetuning,
    initial: InitialWeights | None,
    facts: dict[str, Any],
    features: FeatureCache,
) -> Steps[None]:
    """Run one fine-tuning and write its predictions and its rows of the results."""
    trial, folder, log = run.trial, run.folder, run.log
    task = open_pool("task", finetuning.task.name, finetuning.task)
    assert isinstance(task, Task)
    shown = Shown.to(trial.model)
    splits = task_splits(task, finetuning.settings, trial.seed, Path(run.paths.store), shown, run.context)
    classes = len(task.catalog.classes)
    model = build_model(trial.model, initial.facts.num_labels if initial else classes, trial.seed)
    if initial is not None:
        model.load_state_dict(initial.state_dict)
    log.write(f"fine-tunes {finetuning.id} on {_training_set(splits['train'], finetuning)}")
    curves: list[LearningCurve] = []
    context = replace(
        run.context, report=log.reporter(finetuning.id), log=lambda text: log.write(f"{finetuning.id}: {text}"),
        record=curves.append,
    )  # fmt: skip
    job = FinetuneJob(
        trial.model,
        finetuning.settings,
        splits,
        classes,
        f"{trial.key}/{finetuning.training}",
        task.metric,
        context,
        folder.storage / checkpoint_paths.finetuning_state(finetuning.id),
        features,
    )
    done = yield from finetune.steps(model, job)
    write_predictions(folder, finetuning.id, done, splits, task)
    rows = _rows(finetuning, done, splits, task.metric, {key: facts.get(key) for key in trial.columns()})
    folder.keep_curves(finetuning.id, curves)
    folder.keep_finetuning(finetuning.id, rows)
    folder.storage.delete(checkpoint_paths.finetuning_state(finetuning.id))
    log.stage_done(finetuning.id, finetuning.images)
    last = next(row for row in reversed(rows) if row["wise_alpha"] is None)
    ood = "without labels" if last["ood"] is None else f"{last['ood']:.4f}"
    log.write(f"fine-tuned {finetuning.id} in {done.seconds:.1f} s: id {last['id']:.4f}, ood {ood}")


def _rows(
    finetuning: Finetuning, done: Finetuned, splits: dict[str, Split], metric: str, of_trial: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of the results: the trial's columns, those of the fine-tuning, and those of each point."""
    columns = {
        **of_trial,
        "status": "done",
        "finetune": finetuning.id,
        "finetune_method": finetuning.settings.method,
        "finetune_lr": finetuning.settings.lr,
        "finetune_weight_decay": finetuning.settings.weight_decay,
        "finetune_images": len(splits["train"].labels),
        "seconds_finetune": round(done.seconds, 3),
        "task": finetuning.task_label,
    }
    return [{**columns, **point} for point in points(done, splits, metric)]


def _training_set(train: Split, finetuning: Finetuning) -> str:
    """What a fine-tuning trains on, for the log."""
    counts, per_class = np.unique(train.labels, return_counts=True)[1], finetuning.settings.per_class or 0
    short = f", {(counts < per_class).sum()} of them hold fewer than {per_class}" if (counts < per_class).any() else ""
    return f"{len(train.labels)} images of {len(counts)} classes of {finetuning.task_label}{short}"


def _finish(run: TrialRun, mixture: Mixture | None, facts: dict[str, Any]) -> None:
    """Gather the rows of all ranks and mark the trial done, or failed for the fine-tunings that did. Raises OSError
    where a file has gone since."""
    folder = run.folder
    finished = [(f.id, folder.finetuning(f.id)) for f in run.trial.finetunings]
    lacking = [name for name, rows in finished if rows is None]
    failed = folder.finetuning_failures(lacking)
    if gone := [name for name in lacking if name not in failed]:
        raise OSError(f"{folder.storage.shown}: {', '.join(gone)} was removed or altered while the trial ran")
    if folder.storage.stamp("trial.json") is None:  # removed since
        folder.storage.write_json("trial.json", facts)
    if mixture is not None and folder.storage.stamp("subset.parquet") is None:
        write_subset(folder, mixture.subset, mixture.stores)
    if failed:
        for i, finetuning in enumerate(run.trial.finetunings):
            if i % run.context.world_size and (failure := failed.get(finetuning.id)):  # of a rank that writes no log
                run.log.write(f"{finetuning.id} failed\n{failure['traceback']}")
        reasons = {name: failure["reason"] for name, failure in failed.items()}
        folder.fail(of_finetunings(reasons, len(finished)), finetunings=reasons)
        return
    rows = [row for _, own in finished for row in own or ()]
    run.log.write("done")  # before the marker, which holds the checksum of the log
    folder.finish(rows, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
