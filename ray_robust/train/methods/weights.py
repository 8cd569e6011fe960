"""Ready-made weights, published ones by their tag or any file of tensors: the body is loaded, the head dropped.

Nothing is trained. `placement` decides which tensor of a file goes where.
"""

from __future__ import annotations

import pickle
import re
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ray_robust.data.weights import find_weights, weights_facts
from ray_robust.errors import UserError
from ray_robust.spec.sections import ModelSection
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.methods.placement import Loaded, first_names, load_body, place
from ray_robust.train.models import build_model, create_model, seeded
from ray_robust.train.pretrain import Pretrained, PretrainJob

PLAIN = (  # what training programs save beside the weights: data, of which nothing is needed
    "argparse.Namespace", "types.SimpleNamespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.dtype", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "typing.Any",
    *(f"numpy.dtypes.{name}DType" for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
)  # fmt: skip


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Load the body that `settings.weights` names. Raises TrainingFailed when it is not there, does not fit, or is not
    what it was when the trial was planned."""
    begun = time.monotonic()
    try:
        weights = find_weights(job.settings.weights or "")
    except UserError as error:  # it was there when the sweep was planned
        raise TrainingFailed(str(error)) from None
    if weights.kind == "hub":
        model, loaded = _published(job, weights.name), Loaded((f"loaded the weights {weights.name}",), ())
    else:
        model = build_model(job.section, 0, job.seed)
        loaded = load_body(model, read_tensors(Path(weights.name)), weights.name, job.section.name)
        if job.weights and weights_facts(job.settings.weights or "").meaning != job.weights:
            raise TrainingFailed(
                f"{weights.name} was changed since this trial was planned: the same command again takes it as it is"
            )
    return model, Pretrained(0, 0.0, 0, None, time.monotonic() - begun, loaded.notes, loaded.warnings)


def preview(section: ModelSection, file: str) -> Loaded | None:
    """Return what loading a file into a model would say, from names and shapes alone; None for a model that cannot be
    tried without memory. Raises TrainingFailed where it would be refused."""
    try:
        with torch.device("meta"):
            model = create_model(section, 0)
    except Exception:  # whatever is wrong with a model is reported where it is built
        return None
    return place(model, read_tensors(Path(file), mapped=True), file, section.name)[1]


def _published(job: PretrainJob, name: str) -> nn.Module:
    """A model with its published weights, from the local cache or the network."""
    build_model(job.section, 0, job.seed)  # an error of the model itself is reported as usual
    try:
        with seeded("init", job.section.name, job.seed):  # what the weights leave out, if anything
            return create_model(job.section, 0, pretrained=True)
    except Exception as error:  # each hub client has errors of its own
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingFailed(
            f"weights {name} are not on this machine and cannot be downloaded ({message}); without a network, fetch "
            f"them elsewhere and name the file in pretrain.weights"
        ) from None


class _Data:
    """Replaces a plain object in a checkpoint, such as the options of the program that wrote it: its own class is
    neither imported nor run, and its content is ignored."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_tensors(file: Path, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Return every tensor of a file by its name, nested names joined by dots. Only tensors and plain data are
    unpickled, most of the latter as `_Data`; `mapped`, values are read from the disk when they are used. Raises
    TrainingFailed, in one line, for a file without tensors."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([(_Data, name) for name in PLAIN]):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise TrainingFailed(f"{file}: {_refused(file, str(error))}") from None
    except Exception as error:  # other files break the readers in many ways
        message = " ".join(str(error).split())
        what = f"is no readable file of weights ({message[:120]})"
        if "TorchScript" in message:
            what = "is a TorchScript program, which is code; save its state_dict alone"
        elif "central directory" in message:
            what = "is cut short or damaged: a download or copy broke off"
        raise TrainingFailed(f"{file}: {what}") from None
    tensors = dict(_flat(loaded))
    if not tensors:
        what = "a list" if isinstance(loaded, list | tuple) else type(loaded).__name__
        raise TrainingFailed(f"{file}: holds no tensors with names, but {what}; save a state_dict")
    return tensors


def _refused(file: Path, message: str) -> str:
    """Why torch does not unpickle a file, from its message."""
    try:
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file))) - set(PLAIN))
    except Exception:  # the older format cannot be taken apart: torch's own words name the first
        names = re.findall(r"GLOBAL ([\w.]+)", message)[:1]
    if not names and "Unsupported" not in message and "blocked" not in message:
        return f"is no readable file of weights ({' '.join(message.split())[:120]})"
    held = f" ({first_names(names)})" if names else ""
    return f"holds more than tensors{held}, which could run code when read; save its state_dict alone"


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(prefix, tree)]
    if not isinstance(tree, Mapping):
        return []
    return [leaf for key, value in tree.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
