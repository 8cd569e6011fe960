"""Ready-made weights, published ones by their tag or any file of tensors: the body is loaded, the head dropped.

Nothing is trained. A file's names are matched to the body's whatever their prefix, so that checkpoints of DDP, MoCo,
DINO, SimCLR, CLIP and of this project's own pre-trainings load alike.
"""

from __future__ import annotations

import inspect
import pickle
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ray_robust.data.weights import find_weights
from ray_robust.errors import UserError
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.models import build_model, create_model, seeded
from ray_robust.train.pretrain import Pretrained, PretrainJob

MIN_SHARE = 0.9  # of the body's values that a file must have
PREFERRED = ("ema", "teacher", "encoder_q", "base_encoder")  # of several copies of a body in one file
SHOWN = 3  # names in a message
PLAIN = (  # what training programs save beside the weights: data, of which nothing is needed
    "argparse.Namespace", "types.SimpleNamespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.dtype", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "typing.Any",
    *(f"numpy.dtypes.{name}DType" for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
)  # fmt: skip


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Load the body that `settings.weights` names. Raises TrainingFailed when it is not there or does not fit."""
    begun = time.monotonic()
    try:
        weights = find_weights(job.settings.weights or "")
    except UserError as error:  # it was there when the sweep was planned
        raise TrainingFailed(str(error)) from None
    if weights.kind == "hub":
        model, note, warning = _published(job, weights.name), f"loaded the weights {weights.name}", ""
    else:
        model = build_model(job.section, 0, job.seed)
        note, warning = load_body(model, read_tensors(Path(weights.name)), weights.name, job.section.name)
    warnings = (warning,) if warning else ()
    return model, Pretrained(0, 0.0, 0, None, time.monotonic() - begun, (note,), warnings)


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


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a file by its name, nested names joined by dots. Only tensors and plain data are
    unpickled, most of the latter as `_Data`. Raises TrainingFailed, in one line, for a file without tensors."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([(_Data, name) for name in PLAIN]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
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
    held = f" ({_some(names)})" if names else ""
    return f"holds more than tensors{held}, which could run code when read; save its state_dict alone"


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(prefix, tree)]
    if not isinstance(tree, Mapping):
        return []
    return [leaf for key, value in tree.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


@dataclass(frozen=True)
class _Match:
    """How a file's tensors fit a body.

    tensors  those that fit, under the body's names, `values` numbers in all
    unused   the names of the others
    shapes   of those that have a name of the body's but another shape
    """

    tensors: dict[str, torch.Tensor]
    values: int
    unused: tuple[str, ...]
    shapes: dict[str, torch.Size]


def load_body(model: nn.Module, tensors: Mapping[str, torch.Tensor], name: str, model_name: str) -> tuple[str, str]:
    """Load the tensors that fit into a model without a head.

    Return a sentence on what was loaded and what was not, and one on what stays random, for the report ("" if nothing
    does). Raises TrainingFailed when less than `MIN_SHARE` of the body's values fit, or some are not finite.
    """
    body = model.state_dict()
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)  # timm's own, for other layouts
    matches = [_match(body, tensors)]
    if convert is not None and matches[0].values < sum(value.numel() for value in body.values()):
        for candidate in (tensors, _stripped(body, tensors)):
            try:
                matches.append(_match(body, convert(dict(candidate), model)))
            except Exception:  # it was written for other files
                continue
    best = max(matches, key=lambda match: match.values)
    missing = [key for key in body if key not in best.tensors and not key.endswith("num_batches_tracked")]
    share = best.values / max(1, sum(value.numel() for value in body.values()))
    if share < MIN_SHARE:
        raise TrainingFailed(
            f"{name}: only {len(best.tensors)} of {len(body)} tensors ({share:.0%} of the values) fit the body of "
            f"{model_name} ({_some(missing)} missing, the file has {_some(list(tensors))}); name in model.name the "
            f"model that they are of"
        )
    learned = {*dict(model.named_parameters()), *(key for key in body if key.endswith(("running_mean", "running_var")))}
    broken = [key for key, value in best.tensors.items() if key in learned and not value.isfinite().all()]
    if broken:
        raise TrainingFailed(f"{name}: holds nan or infinite values in {len(broken)} of {len(best.tensors)} tensors "
                             f"({_some(broken)}); the training that wrote it had broken down")  # fmt: skip
    model.load_state_dict(best.tensors, strict=False)
    left = [f"left as they were: {_some(missing)}"] if missing else []
    left += [f"not used: {_some(best.unused)}"] if best.unused else []
    note = "; ".join([f"loaded {len(best.tensors)} of {len(body)} tensors of {name}", *left])
    return note, _random(missing, body, best, name) if missing else ""


def _random(missing: list[str], body: Mapping[str, torch.Tensor], match: _Match, name: str) -> str:
    """A sentence on the tensors of a body that a file of weights leaves at their random initialisation."""
    names = list(missing)
    for i, key in enumerate(missing):
        if key in match.shapes:
            names[i] += f" ({list(match.shapes[key])} in the file, {list(body[key].shape)} in the model)"
    where = f"{len(missing)} of {len(body)} tensors of the body are not in {Path(name).name}"
    return f"{where} and stay random: {_some(names)}"


def _match(body: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> _Match:
    stripped = _stripped(body, tensors)
    fitting = {key: value for key, value in stripped.items() if key in body and value.shape == body[key].shape}
    unused = tuple(key for key in stripped if key not in fitting)
    shapes = {key: stripped[key].shape for key in unused if key in body}
    return _Match(fitting, sum(v.numel() for v in fitting.values()), unused, shapes)


def _stripped(body: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors below the prefix (`module.encoder_q.`, `visual.`, none) after which most names are the body's."""
    counts: dict[str, int] = {}
    for key in tensors:
        for start in (0, *(i + 1 for i, sign in enumerate(key) if sign in "./")):
            if key[start:] in body:
                counts[key[:start]] = counts.get(key[:start], 0) + 1
    if not counts:
        return dict(tensors)
    best = max(counts, key=lambda prefix: (counts[prefix], any(word in prefix for word in PREFERRED)))
    return {key.removeprefix(best): value for key, value in tensors.items() if key.startswith(best)}


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown or "nothing"
