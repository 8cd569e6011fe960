"""A relative path in any key of a spec is relative to the working directory of the command, wherever it is read later.

Workers have other working directories, so that every path must be absolute once a spec is read; no trial's identity
hangs on it.
"""

from __future__ import annotations

import os
import typing
from pathlib import Path

import pytest
import torch
from annotated_types import MinLen
from pydantic import BaseModel

from ray_robust import registry
from ray_robust.data.weights import find_weights
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.keys import SECTIONS
from ray_robust.spec.load import load_spec

TASK = "task: {name: camera-traps}\n"
WNID_SETS = ("tiny-imagenet", "mini-imagenet", "imagenette", "imagewoof")
LENGTHS = "  num_images: 10\n  epochs: 1\n"

# every key of a spec that may name a file or a folder -> the lines that hold REL, which stands for a relative path
KEYS = {
    "pretrain.weights": TASK + "pretrain: {method: weights, weights: REL}\n",
    "pretrain.classes": TASK + "pretrain:\n  sources: {species: 1}\n  classes: REL.csv\n" + LENGTHS,
    "pretrain.granularity": TASK + "pretrain:\n  sources: {species: 1}\n  granularity: map:REL.csv\n" + LENGTHS,
    **{
        f"pretrain.sources.{kind}.{key}": f"{TASK}pretrain:\n  sources: {{x: {{kind: {kind}, {more}{key}: REL}}}}\n"
        + LENGTHS
        for kind, key, more in (
            ("folder", "path", ""),
            ("folder", "images", "path: /a, "),
            ("folder", "hierarchy", "path: /a, "),
            ("imagenet", "root", ""),
            ("imagenet", "hierarchy", "root: /a, "),
            ("inaturalist", "root", ""),
            *((name, "root", "") for name in (*WNID_SETS, "cifar-10", "cifar-100")),
            *((name, "hierarchy", "root: /a, ") for name in WNID_SETS),
            ("parquet", "path", ""),
            ("parquet", "classes", "path: /a, "),
            ("webdataset", "path", ""),
            ("webdataset", "classes", "path: /a, "),
            ("diffusion", "root", "model: a/b, classes: [a, b], "),
            ("diffusion", "model", "root: /a, classes: [a, b], "),
            ("diffusion", "classes", "root: /a, model: a/b, "),
        )
    },
    "pretrain.sources.diffusion.classes.path": (
        f"{TASK}pretrain:\n  sources: {{x: {{kind: diffusion, root: /a, model: a/b, classes: "
        f"{{source: folder, path: REL}}}}}}\n{LENGTHS}"
    ),
    **{
        f"task.{kind}.{key}": f"task: {{name: x, kind: {kind}, {more}{key}: REL}}\npretrain: none\n"
        for kind, key, more in (
            ("folder", "path", ""),
            ("folder", "images", "path: /a, "),
            ("domains", "root", "train: [a], "),
            ("domainnet", "root", "train: [real], "),
            ("pacs", "root", "train: [photo], "),
        )
    },
    "task.subpopulation.source.path": (
        "task: {name: subpopulation, source: {name: folder, path: REL}, labels: kind}\npretrain: none\n"
    ),
    **{
        f"task.{kind.partition(':')[0]}.{key}": (
            f"task: {{name: x, kind: '{kind}', {more}{key}: {{v2: REL}}}}\npretrain: none\n"
        )
        for key in ("shifts", "id_sets")
        for kind, more in (
            ("folder", "path: /a, "),
            ("domains", "root: /a, train: [a], "),
            ("domainnet", "root: /a, train: [real], "),
            ("pacs", "root: /a, train: [photo], "),
            ("subpopulation", "source: {name: folder, path: /a}, labels: kind, "),
            ("wilds:iwildcam", "root: /a, "),
        )
    },
    "task.wilds.root": "task: {name: 'wilds:iwildcam', root: REL}\npretrain: none\n",
}

# text of a spec that names no file: whoever adds a key of text decides here, or in KEYS, what it is
NO_PATHS = {
    "task": {"kind", "name"},
    "model": {"name", "precision", "compile"},
    "pretrain": {"method", "num_images", "num_classes", "label_space", "balance", "templates", "optimizer", "augment"},
    "finetune": {"method", "optimizer", "augment"},
    "baseline": {"name", "spread"},
    "search": {"method", "objective", "mode", "where"},
    "resources": set(),
    "analysis": {"look", "scale"},
    "folder": {"fit", "broken", "label", "labels", "parents", "group", "unseen", "metric"},
    "imagenet": {"fit", "broken", "absent"},
    "inaturalist": {"fit", "broken", "absent", "version"},
    **{name: {"fit", "broken", "absent", "split"} for name in (*WNID_SETS, "cifar-10", "cifar-100")},
    "parquet": {"fit", "broken", "label", "image", "caption", "licence"},
    "webdataset": {"fit", "broken", "label", "image", "caption", "licence"},
    "diffusion": {"prompts", "format", "fit"},
    "camera-traps": {"metric"},
    "subpopulation": {"labels", "metric", "under"},
    "wilds": {"fit", "broken", "metric"},
    **{
        name: {"fit", "broken", "metric", "train", "ood", "ood_val", "unseen"}
        for name in ("domains", "domainnet", "pacs")
    },
}


def strings(value) -> list[str]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", serialize_as_any=True)
    if isinstance(value, dict):
        return [text for part in value.values() for text in strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def takes_text(annotation) -> bool:
    parts = typing.get_args(annotation)
    return annotation in (str, typing.Any) or any(
        takes_text(part) if not isinstance(part, str) else True for part in parts if not isinstance(part, MinLen)
    )


@pytest.mark.parametrize("key", KEYS)
def test_a_relative_path_is_absolute_once_the_spec_is_read(key, tmp_path, monkeypatch):
    home, beside = tmp_path / "home", tmp_path / "beside"
    (home / "here/is").mkdir(parents=True)
    beside.mkdir()
    monkeypatch.chdir(home)
    (home / "here/is/it").mkdir()
    (beside / "x.yaml").write_text(KEYS[key].replace("REL", "here/is/it"))
    spec = load_spec(beside / "x.yaml")
    sections = [level.section for part in (spec.tasks, spec.pretrains) for level in part]
    named = [text for section in sections for text in strings(section) if "here/is/it" in text]
    assert len(named) == 1
    assert named[0].removeprefix("map:").removesuffix(".csv") == f"{home}/here/is/it"
    assert f"{home}/here/is/it" in spec.resolved  # the run folder's spec.yaml reads from anywhere as well
    monkeypatch.chdir("/")
    (tmp_path / "again.yaml").write_text(spec.resolved)
    again = load_spec(tmp_path / "again.yaml")
    assert [strings(level.section) for level in again.pretrains] == [strings(level.section) for level in spec.pretrains]
    assert [strings(level.section) for level in again.tasks] == [strings(level.section) for level in spec.tasks]


def test_every_key_of_text_has_been_decided_on():
    """A new key that may hold a path is in KEYS, one that holds none in NO_PATHS."""
    models = dict(SECTIONS)
    models |= {name: registry.find("source", name).Options for name in registry.SOURCES}
    tasks = {name: registry.find("task", name).Options for name in registry.TASKS}
    compound = {"options", "sources", "finetune", "budget", "stop"}  # what is in them has been looked at by itself
    for name, model in [*models.items(), *tasks.items()]:
        texts = {key for key, field in model.model_fields.items() if takes_text(field.annotation)} - compound
        paths = {key.rpartition(".")[2] for key in KEYS if key.rpartition(".")[0].rpartition(".")[2] == name}
        assert texts <= paths | NO_PATHS.get(name, set()), name


def test_weights_are_the_same_trial_by_any_path(tmp_path, monkeypatch):
    import timm

    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_byobnet").state_dict(), "w.pth")
    monkeypatch.setenv("HERE", str(tmp_path))
    ids = set()
    for number, path in enumerate(("w.pth", "./w.pth", str(tmp_path / "w.pth"), "$HERE/w.pth")):
        Path("x.yaml").write_text(
            f"{TASK}model: {{name: test_byobnet}}\npretrain: {{method: weights, weights: {path}}}\n"
        )
        spec = load_spec("x.yaml")
        (level,) = spec.pretrains
        assert level.section.weights == str(tmp_path / "w.pth"), number
        ids.add(tuple(sorted(trial.id for trial in open_sweep(spec, plan_only=True).plan)))
        monkeypatch.chdir("/")
        assert find_weights(level.section.weights).name == str(tmp_path / "w.pth")
        monkeypatch.chdir(tmp_path)
    assert len(ids) == 1


def test_a_tag_stays_a_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(f"{TASK}pretrain: {{method: weights, weights: resnet50.a1_in1k}}\n")
    assert load_spec("x.yaml").pretrains[0].section.weights == "resnet50.a1_in1k"


def test_folders_that_the_environment_names_are_absolute_for_workers(tmp_path, monkeypatch):
    from ray_robust.errors import UserError
    from ray_robust.launch.cluster import connect

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ROBUST_STORE", "store")
    monkeypatch.setenv("RAY_ROBUST_CACHE", "cache")
    with pytest.raises(UserError), connect.connect("garbage"):
        pass
    assert os.environ["RAY_ROBUST_STORE"] == str(tmp_path / "store")
    assert os.environ["RAY_ROBUST_CACHE"] == str(tmp_path / "cache")
