"""Where checkpoints lie: the only module that knows.

runs/checkpoints/<key>/           beside the runs, shared by all of them: `final` weights of the pre-training with that
                                  key, `used.json` when a trial last wanted them, states of a pre-training under way
runs/x/trials/<id>/checkpoints/   states of the trial's fine-tunings under way, <fine-tuning>/
"""

from __future__ import annotations

from ray_robust.files.storage import Storage

FINAL = "final"  # the checkpoint of weights that are finished
USED = "used.json"  # {"time": seconds since the epoch, "trial": id}
TRIAL_STATES = "checkpoints"  # the folder within a trial's
SHARED_WEIGHTS = "checkpoints"  # the folder beside the runs
SUFFIX = ".safetensors"  # of the files that `ray_robust.train.checkpoints` writes


def shared_weights(run: Storage) -> Storage:
    """Return where the pre-trained weights of a run lie, those of all keys: the runs beside it share them."""
    return run.parent / SHARED_WEIGHTS


def weights_of(shared: str | Storage, key: str) -> Storage:
    """Return the folder of the weights with this key below `shared_weights`."""
    return (shared if isinstance(shared, Storage) else Storage(shared)) / key


def is_finished(weights: Storage) -> bool:
    """Return whether the folder of a key has finished weights, sound or not."""
    return weights.exists(f"{FINAL}{SUFFIX}")


def finetuning_state(finetuning: str) -> str:
    """Return the folder, within a trial's, of the state of a fine-tuning under way."""
    return f"{TRIAL_STATES}/{finetuning}"
