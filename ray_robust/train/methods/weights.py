"""Ready-made weights, published ones by their tag or any file of tensors: the body is loaded, the head dropped.

Nothing is trained and no image is seen. A file's names are matched to the body's whatever stands before them, so that
checkpoints of DDP, MoCo, DINO, SimCLR, CLIP and of this project's own pre-trainings load alike.
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
from ray_robust.train.models import build_model, made, seeded
from ray_robust.train.pretrain import Pretrained, PretrainJob

ENOUGH = 0.9  # share of the body's values that must be found in a file
PREFERRED = ("ema", "teacher", "encoder_q", "base_encoder")  # of several copies of a body in one file
SHOWN = 3  # names in a message
PLAIN = (  # what training programs put beside the weights: data, of which nothing is needed
    "argparse.Namespace", "types.SimpleNamespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.dtype", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "typing.Any",
    *(f"numpy.dtypes.{name}DType" for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
)  # fmt: skip


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """The body that `settings.weights` names. Raises TrainingFailed when it cannot be had or does not fit the model."""
    begun = time.monotonic()
    wanted = job.settings.weights or ""
    try:
        found = find_weights(wanted)
    except UserError as error:  # it was there when the sweep was planned
        raise TrainingFailed(str(error)) from None
    if found.kind == "hub":
        model, note, warning = _published(job, found.name), f"loaded the weights {found.name}", ""
    else:
        model = build_model(job.section, 0, job.seed)
        note, warning = load_body(model, read_tensors(Path(found.name)), found.name, job.section.name)
    warnings = (warning,) if warning else ()
    return model, Pretrained(0, 0.0, 0, None, time.monotonic() - begun, (note,), warnings)


def _published(job: PretrainJob, name: str) -> nn.Module:
    """A model with its published weights, from the local cache or the network."""
    build_model(job.section, 0, job.seed)  # what is wrong with the model itself is said as ever
    try:
        with seeded("init", job.section.name, job.seed):  # what the weights leave out, if anything
            return made(job.section, 0, pretrained=True)
    except Exception as error:  # each hub client has errors of its own
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingFailed(
            f"weights {name} are not on this machine and cannot be downloaded ({said}); without a network, fetch them "
            f"elsewhere and name the file in pretrain.weights"
        ) from None


class _Data:
    """Stands for a plain object in a checkpoint, such as the options of the program that wrote it: nothing of its own
    class is imported or run, and what it holds is not looked at."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file by its name, names of what is nested joined by dots; nothing is unpickled but tensors and
    plain data, for most of which `_Data` stands. Raises TrainingFailed, in one line, for a file that holds none."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([(_Data, name) for name in PLAIN]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingFailed(f"{file}: {_refused(file, str(error))}") from None
    except Exception as error:  # bytes that are none break the readers in many ways
        said = " ".join(str(error).split())
        what = f"is no readable file of weights ({said[:120]})"
        if "TorchScript" in said:
            what = "is a TorchScript program, which is code; save its state_dict alone"
        elif "central directory" in said:
            what = "is cut short or damaged: a download or copy broke off"
        raise TrainingFailed(f"{file}: {what}") from None
    tensors = dict(_flat(loaded))
    if not tensors:
        what = "a list" if isinstance(loaded, list | tuple) else type(loaded).__name__
        raise TrainingFailed(f"{file}: holds no tensors with names, but {what}; save a state_dict")
    return tensors


def _refused(file: Path, said: str) -> str:
    """What is wrong with a file that torch does not unpickle."""
    try:
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file))) - set(PLAIN))
    except Exception:  # the older format cannot be taken apart: torch's own words name the first
        names = re.findall(r"GLOBAL ([\w.]+)", said)[:1]
    if not names and "Unsupported" not in said and "blocked" not in said:
        return f"is no readable file of weights ({' '.join(said.split())[:120]})"
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
    """Tensors of a file that fit a body, under the body's names; the names that the file has besides; and the shapes of
    those that have a name of the body's and not its shape."""

    tensors: dict[str, torch.Tensor]
    values: int
    over: tuple[str, ...]
    shapes: dict[str, torch.Size]


def load_body(model: nn.Module, tensors: Mapping[str, torch.Tensor], name: str, model_name: str) -> tuple[str, str]:
    """Load what fits into a model without a head. Return what was loaded and what was not, in a sentence, and one on
    what stays random, for the report ("" where nothing does).

    Raises TrainingFailed when less than `ENOUGH` of the body's values fit, or some are no finite numbers.
    """
    body = model.state_dict()
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)  # timm's own, for other layouts
    matches = [_match(body, tensors)]
    if convert is not None and matches[0].values < sum(value.numel() for value in body.values()):
        for candidate in (tensors, _stripped(body, tensors)):
            try:
                matches.append(_match(body, convert(dict(candidate), model)))
            except Exception:  # it was written for other files than this one
                continue
    best = max(matches, key=lambda match: match.values)
    missing = [key for key in body if key not in best.tensors and not key.endswith("num_batches_tracked")]
    share = best.values / max(1, sum(value.numel() for value in body.values()))
    if share < ENOUGH:
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
    left += [f"not used: {_some(best.over)}"] if best.over else []
    note = "; ".join([f"loaded {len(best.tensors)} of {len(body)} tensors of {name}", *left])
    return note, _random(missing, body, best, name) if missing else ""


def _random(missing: list[str], body: Mapping[str, torch.Tensor], match: _Match, name: str) -> str:
    """A sentence on the part of a body that a file of weights leaves as it was drawn."""
    told = list(missing)
    for i, key in enumerate(missing):
        if key in match.shapes:
            told[i] += f" ({list(match.shapes[key])} in the file, {list(body[key].shape)} in the model)"
    where = f"{len(missing)} of {len(body)} tensors of the body are not in {Path(name).name}"
    return f"{where} and stay random: {_some(told)}"


def _match(body: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> _Match:
    stripped = _stripped(body, tensors)
    found = {key: value for key, value in stripped.items() if key in body and value.shape == body[key].shape}
    over = tuple(key for key in stripped if key not in found)
    shapes = {key: stripped[key].shape for key in over if key in body}
    return _Match(found, sum(v.numel() for v in found.values()), over, shapes)


def _stripped(body: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors below that beginning (`module.encoder_q.`, `visual.`, none) after which most names are the body's."""
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
