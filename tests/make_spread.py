"""A small sweep whose baseline a pilot spreads, and what its trials leave."""

from __future__ import annotations

from scipy.special import ndtr

from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec

SPEC = """
task: {name: camera-traps, train_images: 3200, id_val_images: 50, id_test_images: 50, ood_val_images: 50,
       ood_test_images: 50}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 1000]}, images_seen: 1000}
finetune: {epochs: 4, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 2}
baseline: {name: scratch, spread: auto}
seeds: 2
"""


def opened(tmp_path, *overrides):
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file, overrides))


def sizes(trials):
    return {(f.settings.num_images, f.settings.epochs, f.settings.lr) for trial in trials for f in trial.finetunings}


def finish(run, trial):
    """The trial with scores that rise with what its fine-tunings see."""
    rows = [{"finetune": f.id, "task": f.task_label, "epoch": epoch, "wise_alpha": None,
             "id_val": float(ndtr(0.4 * (f.images / 12_800) ** 0.5 * epoch - 1.5))}
            for f in trial.finetunings for epoch in (1, 2)]  # fmt: skip
    run.trial(trial.id).finish(rows, {})
