"""Ready-made weights: every layout gives exactly its body, nothing but tensors is read, and what is no file of weights
is called what it is."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from ray_robust.data.weights import find_weights, weights_facts
from ray_robust.errors import UserError
from ray_robust.files.storage import Storage
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection, Pretrain
from ray_robust.train.checkpoints import save_checkpoint
from ray_robust.train.context import Context
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.methods.placement import load_body
from ray_robust.train.methods.weights import read_tensors
from ray_robust.train.models import build_model
from ray_robust.train.pretrain import PretrainJob, pretrain
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests.make_weights import prefixed, same, state_of, write

RESNET = ModelSection(name="test_resnet")
TASK = """task: {name: camera-traps, train_images: 300, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
"""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def job(method: str, model: ModelSection = RESNET, **settings) -> PretrainJob:
    return PretrainJob(model, Pretrain(method=method, **settings), 1, f"some {method}", Context())


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_vit"])
@pytest.mark.parametrize("layout", ["plain", "ddp", "clip", "moco", "dino", "lightly"])
def test_weights_of_a_file_give_exactly_its_body(tmp_path, layout, name):
    section = ModelSection(name=name)
    trained, other = state_of(build_model(section, 10, 7)), state_of(build_model(section, 0, 8))
    tree: dict = {
        "plain": trained,
        "ddp": {"epoch": 3, "state_dict": prefixed("module.", trained)},
        "clip": {**prefixed("visual.", trained), "logit_scale": torch.ones(())},
        "moco": {"state_dict": {**prefixed("module.encoder_k.", other), **prefixed("module.encoder_q.", trained)}},
        "dino": {"student": prefixed("module.backbone.", other), "teacher": prefixed("backbone.", trained)},
        "lightly": {"state_dict": {**prefixed("backbone.", trained), "projection_head.weight": torch.ones(2)}},
    }[layout]
    file = write(tmp_path / ("w.safetensors" if layout in ("plain", "clip") else "w.pth"), tree)
    model, done = pretrain(job("weights", section, weights=file))
    body = state_of(build_model(section, 0, 1))
    assert same(state_of(model), {key: trained[key] for key in body})
    assert (done.num_labels, done.images_seen, done.upstream_accuracy) == (0, 0, None)
    assert done.notes[0].startswith(f"loaded {len(body)} of {len(body)} tensors of {file}")


def test_weights_of_this_projects_own_checkpoints_and_of_a_folder(tmp_path):
    trained = build_model(RESNET, 10, 7)
    save_checkpoint(Storage(tmp_path), "final", trained, {})
    for named in (tmp_path, tmp_path / "final.safetensors"):
        model, _ = pretrain(job("weights", weights=str(named)))
        assert same(state_of(model), {key: value for key, value in state_of(trained).items() if "fc" not in key})


def test_a_folder_of_timm_says_which_model_its_weights_are_of(tmp_path):
    write(tmp_path / "model.safetensors", state_of(build_model(RESNET, 10, 7)))
    config = '{"architecture": "test_resnet", "pretrained_cfg": {"tag": "r160_in1k"}}'
    (tmp_path / "config.json").write_text(config)
    told = weights_facts(str(tmp_path))
    assert told.model == "test_resnet.r160_in1k"
    assert told.meaning == weights_facts(str(tmp_path / "model.safetensors")).meaning
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "model.safetensors").rename(elsewhere / "other.safetensors")
    assert weights_facts(str(elsewhere)).meaning == told.meaning  # known by its bytes, not by its path
    assert weights_facts("resnet50.a1_in1k").model == "resnet50.a1_in1k"
    assert weights_facts("ViT-B-32/openai").model == "open_clip:ViT-B-32/openai"


def test_what_did_not_match_is_said(tmp_path):
    trained = {key: v for key, v in state_of(build_model(RESNET, 10, 7)).items() if key != "bn1.weight"}
    loaded = load_body(build_model(RESNET, 0, 1), trained, "here/w.pth", "test_resnet")
    (note,), (warning,) = loaded.notes, loaded.warnings
    assert warning == f"1 of {len(trained) - 1} tensors of the body are not in w.pth and stay random: bn1.weight"
    assert note.endswith("tensors of here/w.pth; left as they were: bn1.weight; not used: fc.weight, fc.bias")


def failure(weights: str, model: ModelSection = RESNET) -> str:
    with pytest.raises(TrainingFailed) as failed:
        pretrain(job("weights", model, weights=weights))
    assert "\n" not in str(failed.value)
    return str(failed.value)


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path):
    file = write(tmp_path / "last.pth", state_of(build_model(RESNET, 0, 7)))
    planned = replace(job("weights", weights=file), weights=weights_facts(file).meaning)
    pretrain(planned)
    write(tmp_path / "last.pth", state_of(build_model(RESNET, 0, 8)))
    with pytest.raises(TrainingFailed, match="was changed since this trial was planned: the same command"):
        pretrain(planned)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: (127 * value).to(torch.int8), "holds whole numbers (int8: "),
        (torch.zeros_like, "every layer has one number in the place of all its weights; nothing was learned"),
    ],
)
def test_numbers_that_no_training_left_are_no_weights(tmp_path, change, why):
    body = {key: change(value) for key, value in state_of(build_model(RESNET, 0, 7)).items()}
    assert why in failure(write(tmp_path / "w.pth", body))


def test_weights_that_cannot_be_used_say_why_in_a_line(tmp_path):
    vit = write(tmp_path / "vit.safetensors", state_of(build_model(ModelSection(name="test_vit"), 10, 7)))
    assert failure(vit).startswith(f"{vit}: only 0 of ")
    assert failure(vit).endswith("name in model.name the model that they are of")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(Path(vit).read_bytes()[:500])
    assert failure(str(torn)).startswith(f"{torn}: is no readable file of weights (")
    short = tmp_path / "short.pth"
    write(tmp_path / "whole.pth", state_of(build_model(RESNET, 10, 7)))
    short.write_bytes((tmp_path / "whole.pth").read_bytes()[:4000])
    assert failure(str(short)) == f"{short}: is cut short or damaged: a download or copy broke off"
    torch.save(build_model(RESNET, 10, 7), tmp_path / "model.pth")
    held = r"\(timm\S+, timm\S+, timm\S+ and \d+ more\), which could run code when read; save its state_dict alone$"
    assert re.search(rf"model.pth: holds more than tensors {held}", failure(str(tmp_path / "model.pth")))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    assert failure(str(tmp_path / "list.pth")).endswith("holds no tensors with names, but a list; save a state_dict")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    said = failure(str(tmp_path / "script.pt"))
    assert said.endswith("is a TorchScript program, which is code; save its state_dict alone")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_damaged_anywhere_is_read_or_named(tmp_path, name, zipped):
    """Never another error: some damage lies where nothing is read, the rest is said in a line."""
    tensors = {f"a.{i}": torch.arange(6.0) for i in range(3)}
    whole = tmp_path / name
    if name.endswith("pth"):
        torch.save(tensors, whole, _use_new_zipfile_serialization=zipped)
    else:
        write(whole, tensors)
    data, rng = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        at, new = int(rng.integers(len(data))), bytes(rng.integers(0, 256, 8, dtype=np.uint8))
        whole.write_bytes(data[:at] + new + data[at + 8 :] if rng.random() < 0.5 else data[:at])
        with contextlib.suppress(TrainingFailed):
            read_tensors(whole)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", ["timm", "dino", "numpy", "paths"])
def test_checkpoints_with_the_options_of_their_program_are_read_and_the_options_are_not(tmp_path, layout, zipped):
    """As timm's train.py and DINO leave them: the Namespace of their options is data beside the weights."""
    trained, other = state_of(build_model(RESNET, 10, 7)), state_of(build_model(RESNET, 0, 8))
    options = argparse.Namespace(lr=0.1, model="test_resnet", nested=argparse.Namespace(betas=(0.9, 0.95)))
    tree: dict = {
        "timm": {"epoch": 9, "arch": "test_resnet", "state_dict": other, "args": options, "version": 2,
                 "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
                 "state_dict_ema": trained, "metric": 71.2},
        "dino": {"student": prefixed("module.backbone.", other), "teacher": prefixed("backbone.", trained),
                 "args": options, "epoch": 3, "dino_loss": {"center": torch.zeros(1, 8)}},
        "numpy": {"state_dict": trained, "best_acc1": np.float64(71.2), "epoch": np.int64(3), "top": np.float32(1)},
        "paths": {"model": trained, "args": argparse.Namespace(output_dir=Path("runs/x"))},
    }[layout]  # fmt: skip
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(tree, file, _use_new_zipfile_serialization=zipped)
    model, done = pretrain(job("weights", RESNET, weights=str(file)))
    body = state_of(build_model(RESNET, 0, 1))
    assert same(state_of(model), {key: trained[key] for key in body})
    assert done.warnings == ()


class Runs:
    """Pickled, it runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, zipped):
    trained, trace = state_of(build_model(RESNET, 10, 7)), tmp_path / "trace"
    for args in (Runs(trace), argparse.Namespace(lr=Runs(trace))):
        torch.save({"state_dict": trained, "args": args}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        said = failure(str(tmp_path / "x.pth"))
        assert re.search(
            r"x.pth: holds more than tensors( \(posix.system\))?, which could run code when read; save ", said
        )
        assert not trace.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["conv1.0.weight", "conv1.1.running_var"])
def test_weights_that_are_no_finite_numbers_are_named_before_training(tmp_path, key, value):
    trained = state_of(build_model(RESNET, 10, 7))
    trained[key] = torch.cat([trained[key].flatten()[1:], torch.tensor([value])]).reshape(trained[key].shape)
    file, whole = write(tmp_path / "w.pth", trained), len(state_of(build_model(RESNET, 0, 1)))
    what = f"holds nan or infinite values in 1 of {whole} tensors ({key}); the training that wrote it had broken down"
    assert failure(file) == f"{file}: {what}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n",
            "is a Git LFS pointer to a file of 12,345 bytes, not the file; fetch it with git lfs pull"),
        (b"/annex/objects/SHA256E-s12--ab.pth\n", "is a git-annex pointer, not the file; fetch it with git annex get"),
        (b"\n  <!DOCTYPE html><html><body>404</body></html>",
            "is a web page, not weights: its download was answered with a page (a login, a notice, an error)"),
        (b"<html>not found</html>",
            "is a web page, not weights: its download was answered with a page (a login, a notice, an error)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            "is a web page, not weights: its download was answered with a page (a login, a notice, an error)"),
        (b'{"error": "Repository not found"}', "is a JSON text, not weights: an index of files, or a server's answer"),
        (b"", "is empty: the download or copy broke off"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_folder", [False, True])
def test_what_stands_in_the_place_of_weights_is_called_what_it_is(tmp_path, data, said, in_folder):
    file = tmp_path / "w.pth"
    file.write_bytes(data)
    with pytest.raises(UserError) as refused:
        find_weights(str(tmp_path if in_folder else file))
    assert str(refused.value) == f"pretrain.weights: {file} {said}"


@pytest.mark.slow
def test_a_stem_that_stays_random_is_said_in_the_report(tmp_path, monkeypatch):
    """Weights of a model for grey images fit but for their first layer: training goes on, and every reader is told."""
    from analysis.__main__ import Request, report_on

    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_byobnet", in_chans=1).state_dict(), "gray.pth")
    text = TASK + "model: {name: test_byobnet, image_size: 32}\n"
    text += "pretrain: {method: weights, weights: gray.pth}\nfinetune: {epochs: 1, evaluate_every: 1}\nseeds: 2\n"
    Path("x.yaml").write_text(text)
    plan = open_sweep(load_spec("x.yaml")).plan
    paths = RunPaths("run", "checkpoints", "store")
    for trial in plan:
        run_trial(trial, paths, Context())
    run = RunFolder("run")
    run.write_plan(plan.rows())
    run.write_results()
    report_on(Request(("run",)), quiet=True)
    warning = ("2 trials: 1 of 100 tensors of the body are not in gray.pth and stay random: stem.conv.weight "
               "([24, 1, 3, 3] in the file, [24, 3, 3, 3] in the model)")  # fmt: skip
    assert warning in json.loads(Path("run/report/verdict.json").read_text())["warnings"]
    assert "stem.conv.weight ([24, 1, 3, 3] in the file" in Path("run/report/index.html").read_text()


def test_a_download_that_fails_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    named = ModelSection(name="test_resnet.r160_in1k")
    said = failure("test_resnet.r160_in1k", named)
    assert said.startswith("weights test_resnet.r160_in1k are not on this machine and cannot be downloaded (")
    assert said.endswith("fetch them elsewhere and name the file in pretrain.weights")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet50.a1_in2k", "timm has no weights 'resnet50.a1_in2k'; did you mean resnet50.a1_in1k?"),
        ("missing/body.pth", "there is no file or folder missing/body.pth"),
        ("$UNSET/resnet18", "there is no file or folder $UNSET/resnet18; is the variable set?"),
        ("open_clip:ViT-B-3/x", "'open_clip:ViT-B-3/x' must read open_clip:MODEL/TAG; did you mean ViT-B-32?"),
        ("resnet_50", "'resnet_50' is no tag of timm (resnet50.a1_in1k) or open_clip (ViT-B-32/openai), and no file "),
    ],
)  # fmt: skip
def test_weights_that_are_nowhere(text, said):
    with pytest.raises(UserError) as error:
        find_weights(text)
    assert str(error.value).startswith(f"pretrain.weights: {said}")


def test_folders_that_hold_no_weights_or_several(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        find_weights(str(tmp_path))
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds 2 files of weights \(a.pth, b.pth\); name one"):
        find_weights(str(tmp_path))


def test_nothing_is_read_but_tensors(tmp_path):
    nested = {"model": {"a": torch.ones(2)}, "args": {"lr": 0.1}, "step": 3}
    assert list(read_tensors(Path(write(tmp_path / "x.pth", nested)))) == ["model.a"]
