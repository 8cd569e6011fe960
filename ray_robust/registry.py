"""Names that a spec may use, and the class or function behind each, imported only when asked for.

A new source, task, pre-training method or search method is one file and one entry here, a new log one class and one
entry.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ray_robust.errors import UserError, did_you_mean

SOURCES = {
    "species": "ray_robust.data.sources.species:Species",
    "fractals": "ray_robust.data.sources.fractals:Fractals",
    "folder": "ray_robust.data.sources.folder:FolderSource",
    "diffusion": "ray_robust.data.sources.diffusion:Diffusion",
    "imagenet": "ray_robust.data.sources.imagenet:ImageNet",
    "inaturalist": "ray_robust.data.sources.inaturalist:INaturalist",
    "tiny-imagenet": "ray_robust.data.sources.wnid_folders:TinyImageNet",
    "mini-imagenet": "ray_robust.data.sources.wnid_folders:MiniImageNet",
    "imagenette": "ray_robust.data.sources.wnid_folders:Imagenette",
    "imagewoof": "ray_robust.data.sources.wnid_folders:Imagewoof",
    "cifar-10": "ray_robust.data.sources.cifar:Cifar10",
    "cifar-100": "ray_robust.data.sources.cifar:Cifar100",
    "parquet": "ray_robust.data.sources.shards:ParquetShards",
    "webdataset": "ray_robust.data.sources.shards:WebDataset",
}
TASKS = {
    "camera-traps": "ray_robust.data.tasks.camera_traps:CameraTraps",
    "folder": "ray_robust.data.tasks.folder:FolderTask",
    "wilds": "ray_robust.data.tasks.wilds:WildsTask",  # written `wilds:<name>`, e.g. wilds:iwildcam
    "domains": "ray_robust.data.tasks.domains:DomainTask",
    "domainnet": "ray_robust.data.tasks.domains:DomainNet",
    "pacs": "ray_robust.data.tasks.domains:Pacs",
    "subpopulation": "ray_robust.data.tasks.subpopulation:Subpopulation",
}
METHODS = {
    "supervised": "ray_robust.train.methods.supervised:pretrain",
    "simclr": "ray_robust.train.methods.simclr:pretrain",
    "clip": "ray_robust.train.methods.clip:pretrain",
    "weights": "ray_robust.train.methods.weights:pretrain",
}
LOGS = {
    "csv": "ray_robust.launch.monitor.loggers:Csv",
    "tensorboard": "ray_robust.launch.monitor.loggers:TensorBoard",
    "mlflow": "ray_robust.launch.monitor.loggers:Mlflow",
    "wandb": "ray_robust.launch.monitor.loggers:Wandb",
}


@dataclass(frozen=True)
class SearchMethod:
    """A value of `search.method`.

    how      how it comes by configurations, for the printed plan; may name `{startup}`
    draws    whether values left open in the spec are drawn; False for a grid
    sampler  the `launch.search.sampler.Sampler` that proposes values and learns from results; "" where every
             configuration is a draw from the prior
    """

    how: str
    draws: bool = True
    sampler: str = ""

    @property
    def learns(self) -> bool:
        """Whether results of earlier configurations decide what is run next."""
        return bool(self.sampler)


SEARCHES = {
    "grid": SearchMethod("all that are written", draws=False),
    "random": SearchMethod("drawn at random"),
    "optuna": SearchMethod(
        "the first {startup:,} drawn at random, then proposed by optuna: those below stand for them",
        sampler="ray_robust.launch.search.optuna_sampler:OptunaSampler",
    ),
}
OPEN_CLIP = "open_clip:"  # how a model's or its weights' name begins that is open_clip's and not timm's
KINDS = {"source": SOURCES, "task": TASKS, "method": METHODS, "log": LOGS}


def find(kind: str, name: str) -> Any:
    """Return what is registered as `kind`, one of `KINDS`, under `name`; what follows a colon is the class's own.

    Raises UserError with the nearest registered name.
    """
    table = KINDS[kind]
    head = name.partition(":")[0]
    if head not in table:
        raise UserError(f"{name!r} is no known {kind}{did_you_mean(name, table)}")
    return load(table[head])


def load(reference: str) -> Any:
    """Return the object that a reference "module:attribute" names, importing its module."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


@lru_cache(maxsize=1)
def timm_models() -> frozenset[str]:
    """Every model name that the installed timm registers, read from its files: importing timm costs seconds.

    Empty when timm is not installed, in which case no name can be checked here.
    """
    pattern = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    return frozenset(name for text in _files_of("timm", "models/*.py") for name in pattern.findall(text))


@lru_cache(maxsize=1)
def timm_weights() -> frozenset[str]:
    """Every `model.tag` of which timm has published weights, read likewise."""
    pattern = re.compile(r"['\"](\w+\.(?!untrained)\w[\w.]*)['\"] ?:")
    names = {name for text in _files_of("timm", "models/*.py") for name in pattern.findall(text)}
    return frozenset(name for name in names if name.partition(".")[0] in timm_models())


@lru_cache(maxsize=1)
def open_clip_models() -> frozenset[str]:
    """Every model name that the installed open_clip has, read likewise."""
    root = _root_of("open_clip")
    return frozenset(file.stem for file in root.glob("model_configs/*.json")) if root else frozenset()


@cache
def has_quick_gelu(name: str) -> bool:
    """Return whether a model `open_clip:MODEL/TAG` is built with QuickGELU for its tag, where MODEL alone has GELU.

    Asks open_clip, whose import takes seconds; every other name is answered without.
    """
    model, _, tag = name.removeprefix(OPEN_CLIP).partition("/")
    if not (name.startswith(OPEN_CLIP) and tag):
        return False
    if not load("open_clip:get_pretrained_cfg")(model, tag).get("quick_gelu", False):
        return False
    config = load("open_clip:get_model_config")(model)
    is_transformer = isinstance(config["vision_cfg"].get("layers"), int)  # the towers RN50 and alike have ReLU
    return is_transformer and not config.get("quick_gelu", False)


def _files_of(package: str, pattern: str) -> list[str]:
    root = _root_of(package)
    return [file.read_text("utf-8") for file in root.glob(pattern)] if root else []


def _root_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
