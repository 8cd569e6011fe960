"""Which tensor of a file of weights goes where in a model.

Names are matched to the model's whatever their prefix, so that checkpoints of DDP, MoCo, DINO, SimCLR, CLIP and of this
project's own pre-trainings load alike; else by timm's own conversion; else by the table of a family of names, of which
every tensor must then be placed. Never by shape alone: the four tensors of a batch normalisation have one shape, and
order would be the only thing that tells them apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ray_robust.text.percent import percent
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.methods.weight_families import FAMILIES, Family, differences, families_of
from ray_robust.train.models import input_scale

MIN_SHARE = 0.9  # of the body's values that a file with the body's names must have
PREFERRED = ("ema", "teacher", "encoder_q", "base_encoder")  # of several copies of a body in one file
HEADS = ("head", "heads", "head_dist", "classifier", "fc", "_fc")
SHOWN = 3  # names in a message

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Loaded:
    """What was loaded: sentences for the log, and those that a reader of the scores needs."""

    notes: tuple[str, ...]
    warnings: tuple[str, ...]


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

    def missing(self, body: Tensors) -> list[str]:
        """Return the body's names that no tensor has; counters of batches are no weights."""
        return [key for key in body if key not in self.tensors and not key.endswith("num_batches_tracked")]


def load_body(model: nn.Module, tensors: Tensors, name: str, model_name: str) -> Loaded:
    """Load the tensors of a file that fit into a model, with a head or without.

    Raises TrainingFailed, in one line, when less than `MIN_SHARE` of the model's values fit under its own names and not
    all under those of a family, when that is ambiguous, or when some values are not finite, are whole numbers, or are
    the same in every layer's weights.
    """
    match, loaded = place(model, tensors, name, model_name)
    body = model.state_dict()
    learned = {*dict(model.named_parameters()), *(key for key in body if key.endswith(("running_mean", "running_var")))}
    broken = [key for key, value in match.tensors.items() if key in learned and not value.isfinite().all()]
    if broken:
        raise TrainingFailed(f"{name}: holds nan or infinite values in {len(broken)} of {len(match.tensors)} tensors "
                             f"({first_names(broken)}); the training that wrote it had broken down")  # fmt: skip
    if whole := [key for key, value in match.tensors.items() if key in learned and not value.is_floating_point()]:
        kind = str(match.tensors[whole[0]].dtype).removeprefix("torch.")
        raise TrainingFailed(f"{name}: holds whole numbers ({kind}: {first_names(whole)}), as a quantised model does; "
                             "wanted: its weights as float")  # fmt: skip
    matrices = [value for key, value in match.tensors.items() if key in learned and value.ndim > 1]
    if matrices and all(bool((value == value.flatten()[0]).all()) for value in matrices):
        raise TrainingFailed(f"{name}: every layer has one number in the place of all its weights; nothing was learned")
    model.load_state_dict(match.tensors, strict=False)
    return loaded


def place(model: nn.Module, tensors: Tensors, name: str, model_name: str) -> tuple[_Match, Loaded]:
    """Return what `load_body` would load into a model, which may be on the device `meta`. Raises as it does, but for
    values that are not finite: it reads none."""
    body = model.state_dict()
    whole = sum(value.numel() for value in body.values())
    candidates = [_match(body, tensors)]
    if candidates[0].values < whole:
        candidates += _converted(model, tensors) + _converted(model, _stripped(body, tensors))
    best = max(candidates, key=lambda match: match.values)
    if best.values < MIN_SHARE * whole and (recognised := families_of(tensors)):
        return _by_family(model, tensors, recognised, name, model_name)
    missing = best.missing(body)
    if best.values < MIN_SHARE * whole:
        lacking = f"{first_names(missing)} missing, the file has {first_names(list(tensors))}"
        raise TrainingFailed(
            f"{name}: only {len(best.tensors)} of {len(body)} tensors ({percent(best.values / max(1, whole), 0)} of "
            f"the values) fit the body of {model_name} ({lacking})"
            f"{_same_shapes(body, tensors)}; name in model.name the model that they are of"
        )
    left = [f"left as they were: {first_names(missing)}"] if missing else []
    left += [f"not used: {first_names(best.unused)}"] if best.unused else []
    note = "; ".join([f"loaded {len(best.tensors)} of {len(body)} tensors of {name}", *left])
    warnings = [_random(missing, body, best, name)] if missing else []
    if copies := _copies(body, tensors):
        warnings.append(f"{Path(name).name} {copies}")
    if beyond := _of_layers(best.unused, body):
        warnings.append(f"{len(beyond)} tensors of {Path(name).name} are of layers that {model_name} does not have "
                        f"({first_names(beyond)}): they may be of another model")  # fmt: skip
    return best, Loaded((note,), tuple(warnings))


def _by_family(
    model: nn.Module, tensors: Tensors, recognised: list[tuple[Family, str]], name: str, model_name: str
) -> tuple[_Match, Loaded]:
    """Place every tensor of a body by the names of the family that a file has. Raises TrainingFailed where one is
    missing, one of the body's layers is left over, or copies of a model cannot be told apart."""
    family, prefix = _one_of(recognised, name)
    body = model.state_dict()
    below = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    renamed = family.rename(below, list(body))
    own = {key: value for key, (_, value) in renamed.items()}
    matches = [_match(body, own), *_converted(model, own)]
    best = max(matches, key=lambda match: match.values)
    placed = {theirs for key, (theirs, _) in renamed.items() if key in best.tensors}
    left = [key for key in below if key not in placed]
    extra = [key for key in left if key.partition(".")[0] not in HEADS and not key.endswith("num_batches_tracked")]
    missing = best.missing(body)
    if missing or extra:
        shapes = [f"{key} is {_shapes(best, body, key)}" for key in missing if key in best.shapes]
        what = shapes[:1] or ([f"{first_names(missing)} missing"] if missing else [])
        what += [f"{first_names(extra)} left over"] if extra else []
        raise TrainingFailed(
            f"{name}: has the names of {family.name}, but fits {model_name} in {len(best.tensors)} of {len(body)} "
            f"tensors ({'; '.join(what)}); name in model.name the model that they are of"
        )
    mean, std = ([round(value / 255, 3) for value in values] for values in input_scale(model))
    note = (f"{Path(name).name} has the names of {family.name}: {len(best.tensors)} of {len(body)} tensors of "
            f"{model_name} placed by timm's names, left out: {first_names(left)}; images are scaled by mean {mean}, "
            f"std {std}")  # fmt: skip
    warnings = [note]
    if clauses := differences(family, below, model, model_name):
        warnings.append(f"{model_name} is not quite the model that {Path(name).name} is of: it {clauses}")
    return best, Loaded((), tuple(warnings))


def _one_of(recognised: list[tuple[Family, str]], name: str) -> tuple[Family, str]:
    """Return the family and the prefix of the copy that is used. Raises TrainingFailed where nothing says which."""
    if len(recognised) > 1:
        preferred = [one for one in recognised if any(word in one[1] for word in PREFERRED)]
        if len(preferred) != 1:
            copies = [f"{family.name} below {prefix or 'no prefix'!r}" for family, prefix in preferred or recognised]
            raise TrainingFailed(
                f"{name}: holds {len(copies)} copies of a model ({first_names(copies)}), and nothing says which is "
                "meant; save one alone"
            )
        return preferred[0]
    return recognised[0]


def _converted(model: nn.Module, tensors: Tensors) -> list[_Match]:
    """What timm's own conversion of other layouts makes of them, if it has one for this model and for these."""
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is None:
        return []
    try:
        return [_match(model.state_dict(), convert(dict(tensors), model))]
    except Exception:  # it was written for other files
        return []


def _same_shapes(body: Tensors, tensors: Tensors) -> str:
    """Why tensors under unknown names are not placed by their order and shapes, where these are the body's."""
    theirs, wanted = (
        [value.shape for key, value in held.items() if not key.endswith("num_batches_tracked")]
        for held in (tensors, body)
    )
    if theirs[: len(wanted)] != wanted:
        return ""
    again = len(wanted) - len({shape for shape in wanted if wanted.count(shape) == 1})
    families = ", ".join(family.name for family in FAMILIES)
    return (f"; its shapes are the model's in order, but {again} of them occur more than once, so that order alone "
            f"could mistake one for another: save them under timm's names, or those of {families}")  # fmt: skip


def _of_layers(unused: tuple[str, ...], body: Tensors) -> list[str]:
    """Of the names that were not used, those of a layer of the body's kind: `blocks.11.` of which it has ten."""
    tops = {key.partition(".")[0] for key in body} - set(HEADS)
    layers = {layer for key in body for layer in _numbered(key)}
    return [key for key in unused if key.partition(".")[0] in tops and not layers.issuperset(_numbered(key))]


def _numbered(key: str) -> list[str]:
    """`layers.0`, `layers.0.blocks.1` of `layers.0.blocks.1.attn.bias`."""
    parts = key.split(".")
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()]


def _random(missing: list[str], body: Tensors, match: _Match, name: str) -> str:
    """A sentence on the tensors of a body that a file of weights leaves at their random initialisation."""
    names = [f"{key} ({_shapes(match, body, key)})" if key in match.shapes else key for key in missing]
    where = f"{len(missing)} of {len(body)} tensors of the body are not in {Path(name).name}"
    return f"{where} and stay random: {first_names(names)}"


def _shapes(match: _Match, body: Tensors, key: str) -> str:
    return f"{list(match.shapes[key])} in the file, {list(body[key].shape)} in the model"


def _match(body: Tensors, tensors: Tensors) -> _Match:
    stripped = _stripped(body, tensors)
    fitting = {key: value for key, value in stripped.items() if key in body and value.shape == body[key].shape}
    unused = tuple(key for key in stripped if key not in fitting)
    shapes = {key: stripped[key].shape for key in unused if key in body}
    return _Match(fitting, sum(v.numel() for v in fitting.values()), unused, shapes)


def _prefixes(body: Tensors, tensors: Tensors) -> list[str]:
    """The prefixes (`module.encoder_q.`, `visual.`, none) after which most names are the body's, the preferred first:
    several where a file holds several copies of the body."""
    counts: dict[str, int] = {}
    for key in tensors:
        for start in (0, *(i + 1 for i, sign in enumerate(key) if sign in "./")):
            if key[start:] in body:
                counts[key[:start]] = counts.get(key[:start], 0) + 1
    most = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    return sorted(most, key=lambda prefix: not any(word in prefix for word in PREFERRED))


def _stripped(body: Tensors, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The tensors below the first of these prefixes, without it; all of them where no name is the body's."""
    prefix = next(iter(_prefixes(body, tensors)), "")
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _copies(body: Tensors, tensors: Tensors) -> str:
    """A sentence where a file holds several copies of a body and nothing says which is meant, else ""."""
    prefixes = _prefixes(body, tensors)
    preferred = [prefix for prefix in prefixes if any(word in prefix for word in PREFERRED)]
    if len(prefixes) < 2 or len(preferred) == 1:
        return ""
    shown = [prefix or "no prefix" for prefix in prefixes]
    return f"holds {len(shown)} copies of the body, below {first_names(shown)}: the first is used"


def first_names(names: Sequence[str]) -> str:
    """Return names in a message, the first `SHOWN` of them, and how many more there are."""
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown or "nothing"
