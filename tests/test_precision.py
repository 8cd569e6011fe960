"""`precision: auto` is decided once in a trial, recorded, kept on other machines, and told where it could not be."""

import json
from dataclasses import replace

import pytest
import torch

from analysis.input.run_points import read_run
from ray_robust.files.storage import Storage
from ray_robust.plan.plan import Trial
from ray_robust.run import checkpoint_paths
from ray_robust.run.run_folder import RunFolder
from ray_robust.train import context as contexts
from ray_robust.train import precision
from ray_robust.train.checkpoints import MODEL, _write, read_checkpoint, state_facts
from ray_robust.train.context import Context
from ray_robust.train.evaluate import EVERY_CLASS, predict_from
from ray_robust.train.exceptions import Preempted
from ray_robust.train.precision import CHANGED, keep_precision
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests.fake_run import run_folder, sweep
from tests.test_trial import paths_in, plan_of, pretrained_of, scores_of


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine one that computes in bf16, or emulates it, or has none at all."""

    def become(computes: bool, emulates: bool = True) -> None:
        for module in (contexts, precision):
            monkeypatch.setattr(module, "computes_in_bf16", lambda device: computes)
        monkeypatch.setattr(precision, "emulates_bf16", lambda device: emulates)

    return become


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A folder and a trial that takes a second."""
    folder = tmp_path_factory.mktemp("precision")
    return folder, pretrained_of(plan_of(folder, "pretrain.images_seen=1280", "finetune.epochs=1", "baseline=none"))


def facts_of(paths: RunPaths, trial: Trial) -> dict:
    return RunFolder(paths.run).trial(trial.id).storage.read_json("trial.json")


def log_of(paths: RunPaths, trial: Trial) -> str:
    return RunFolder(paths.run).trial(trial.id).storage.read("log.txt").decode()


def weights_of(paths: RunPaths, trial: Trial) -> Storage:
    return checkpoint_paths.weights_of(paths.checkpoints, trial.key)


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["bf16", "float32"])
@pytest.mark.parametrize("steps", [6, 12])
def test_a_trial_keeps_the_precision_that_it_began_with(brief, machine, begun, steps):
    """Cut off in its pre-training or in a fine-tuning, and continued on a machine of the other kind."""
    folder, trial = brief
    whole, moved = paths_in(folder, f"{begun}{steps}"), paths_in(folder, f"{begun}{steps}moved")
    machine(computes=begun == "bf16")
    run_trial(trial, whole, Context())
    taken = []
    with pytest.raises(Preempted):
        run_trial(trial, moved, Context(preemption=lambda: taken.append(1) or ("soon" if len(taken) == steps else "")))
    if steps == 6:
        assert state_facts(weights_of(moved, trial), "pretrain")["precision"] == begun
    machine(computes=begun != "bf16")
    run_trial(trial, moved, Context())
    assert scores_of(moved, trial) == scores_of(whole, trial)
    facts = facts_of(moved, trial)
    assert (facts["precision"], facts["pretrained_on"]["precision"], "warnings" in facts) == (begun, begun, False)
    assert f"continues in {begun}, in which it began" in log_of(moved, trial)
    assert "continues in" not in log_of(whole, trial)


@pytest.mark.slow
def test_weights_used_again_say_how_they_were_made(brief, machine):
    folder, trial = brief
    first = paths_in(folder, "parts")
    machine(computes=True)
    RunFolder(first.run).trial(trial.id).set_grad_accum_steps(64, "out of memory")
    run_trial(trial, first, Context())
    made_on = {"device": "cpu, 1 threads", "workers": 1, "precision": "bf16", "batch_parts": 64, "micro_batch": 2}
    assert facts_of(first, trial)["pretrained_on"] == made_on
    machine(computes=False)
    again = replace(first, run=paths_in(folder, "again").run)
    run_trial(trial, again, Context())
    facts = facts_of(again, trial)
    assert (facts["pretrained_on"], facts["precision"], "batch_parts" in facts) == (made_on, "bf16", False)
    said = "finds its pre-trained weights (made on cpu, 1 threads; 1 worker; bf16; batches in 64 parts of 2 images)"
    assert said in log_of(again, trial)

    machine(computes=False, emulates=False)  # where bf16 cannot be kept
    without = replace(first, run=paths_in(folder, "without").run)
    run_trial(trial, without, Context())
    facts = facts_of(without, trial)
    assert (facts["precision"], facts["warnings"]) == ("float32", [CHANGED])
    assert CHANGED in log_of(without, trial)

    tensors, saved = read_checkpoint(weights_of(first, trial), checkpoint_paths.FINAL)
    earlier = paths_in(folder, "earlier")  # weights as an earlier version left them
    bare = json.dumps({key: value for key, value in saved.items() if key != "made_on"})
    assert all(name.startswith(MODEL) for name in tensors)
    _write(weights_of(earlier, trial), checkpoint_paths.FINAL, tensors, {"facts": bare}, durable=True)
    run_trial(trial, earlier, Context())
    facts = facts_of(earlier, trial)
    assert (facts["precision"], "pretrained_on" in facts, "warnings" in facts) == ("float32", False, False)
    assert "finds its pre-trained weights\n" in log_of(earlier, trial)


def test_what_is_asked_for_and_what_was_recorded_hold(machine):
    machine(computes=True)
    assert keep_precision(Context(), "float32", "bf16") == (Context(), "")
    assert keep_precision(Context(), "auto", None)[0].auto_precision == "bf16"
    assert keep_precision(Context(), "auto", "of another version")[0].precision("auto") == "bf16"
    assert keep_precision(Context(), "auto", "float32")[0].precision("auto") == "float32"
    machine(computes=False, emulates=False)
    context, warning = keep_precision(Context(), "auto", "bf16")
    assert (context.precision("auto"), context.precision("bf16"), warning) == ("float32", "bf16", CHANGED)


def test_the_report_says_that_trials_were_computed_in_two_precisions(tmp_path):
    run = run_folder(tmp_path / "run", sweep({"num_images=1000": 1.0}, trials=2))
    first, second, *others = run.plan()["trial"]

    def computed(name: str, **facts: object) -> None:
        folder = run.trial(name)
        rows = folder.rows()
        folder.storage.write_json("trial.json", {"trial": name, **facts})
        folder.finish(rows, {})

    def told() -> list[str]:
        warnings = read_run(str(tmp_path / "run"))[0].warnings
        assert not [text for text in warnings if "left out" in text]
        return [text for text in warnings if " in bf16" in text]

    for name in (first, *others):  # the second is as an earlier version left it
        computed(name, precision="bf16")
    assert told() == []
    computed(first, precision="float32", warnings=[CHANGED])
    several = f"test_resnet: {len(others)} trials in bf16, 1 trial in float32: machines that differ; "
    assert told() == [f"1 trial: {CHANGED}", several + "model.precision: float32 computes all of them alike"]
    assert second not in others


def test_a_probe_is_scored_as_it_was_trained():
    """In float32, however its body was computed: in bf16 scores are equal more often, and the first class wins."""
    torch.manual_seed(1)
    head, features = torch.nn.Linear(32, 200), torch.randn(300, 32)
    context = Context(auto_precision="bf16")
    (predicted,) = predict_from(head, features, context, EVERY_CLASS)
    with torch.no_grad():
        confidence, classes = head(features).softmax(1).max(1)
    assert torch.equal(torch.from_numpy(predicted.classes).long(), classes)
    assert torch.allclose(torch.from_numpy(predicted.confidence), confidence, atol=1e-6)
