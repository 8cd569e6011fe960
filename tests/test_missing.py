"""What is missing of a run, in pre-trainings and fine-tunings, as the plan, the sweep and the status count it."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from ray_robust import sweep
from ray_robust.errors import DONE
from ray_robust.plan.plan import Trial
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.work import finished_trials, open_work, remaining_of, stopped_trials
from ray_robust.run.checkpoint_paths import shared_weights, weights_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.status import __main__ as status
from ray_robust.status.progress import read_status
from tests.make_remote import Remote

SPEC = """\
# Question: What is missing?
task: {name: camera-traps}
model: {name: test_resnet, image_size: 32}
pretrain: {sources: {species: 1.0}, num_images: {grid: [200, 400]}, images_seen: 400}
finetune: {epochs: 3, lr: {grid: [1e-3, 3e-3]}}
seeds: 2
"""
ONE_RATE_MORE = SPEC.replace("1e-3, 3e-3", "1e-3, 3e-3, 1e-2")
ONE_SEED_MORE = SPEC.replace("seeds: 2", "seeds: 3")
OTHER_SOURCE = SPEC.replace("species: 1.0", "fractals: 1.0")


def table_of(value: str) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"image": [value]}).to_parquet(buffer)
    return buffer.getvalue()


class Folder:
    """A run folder as a real run leaves it, without any training."""

    def __init__(self, root) -> None:
        self.root, self.run = root, RunFolder(root / "runs" / "how")

    def plan(self, text: str = SPEC):
        self.file = self.root / "how.yaml"
        self.file.write_text(text)
        spec = load_spec(self.file)
        plan = open_sweep(spec).plan
        self.run.write("spec.yaml", spec.resolved)
        self.run.write_plan(plan.rows())
        return plan

    def pretrain(self, trial: Trial) -> None:
        weights_of(shared_weights(self.run.storage), trial.key).write("final.safetensors", b"weights")

    def finetune(self, trial: Trial, count: int) -> None:
        folder = self.run.trial(trial.id)
        folder.storage.write_json("trial.json", {"trial": trial.id})
        for finetuning in trial.finetunings[:count]:
            folder.storage.write(f"predictions/{finetuning.id}.parquet", table_of(finetuning.id))
            folder.keep_finetuning(finetuning.id, [{"finetune": finetuning.id, "epoch": 3}])

    def finish(self, trial: Trial) -> None:
        if trial.draws:
            self.pretrain(trial)
        self.finetune(trial, len(trial.finetunings))
        self.run.trial(trial.id).finish([{"finetune": f.id, "epoch": 3} for f in trial.finetunings], {})

    def counted(self, plan):
        run = RunFolder(self.run.storage.address)
        left = remaining_of(run, plan, finished_trials(run, plan))
        assert read_status(run, 0.0).remaining == left  # from plan.csv alone
        return left


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def test_nothing_is_there(folder):
    left = folder.counted(folder.plan())
    assert left.untouched
    assert left.counts() == "4 of 4 pre-trainings, 12 of 12 fine-tunings"
    assert list(left.lines()) == []


def test_a_finished_run_lacks_nothing(folder):
    plan = folder.plan()
    for trial in plan:
        folder.finish(trial)
    left = folder.counted(plan)
    assert left.missing == {}
    assert left.done_counts() == "6 of 6 trials, 4 of 4 pre-trainings, 12 of 12 fine-tunings"


def test_a_half_finished_run(folder):
    plan = folder.plan()
    first, second, third, fourth, *_ = [trial for trial in plan if trial.draws]
    folder.finish(first)
    folder.pretrain(second)  # interrupted after its pre-training
    folder.pretrain(third)
    folder.finetune(third, 1)  # interrupted in its second fine-tuning
    left = folder.counted(plan)
    assert left.counts() == "1 of 4 pre-trainings, 9 of 12 fine-tunings"
    assert set(left.lines()) == {
        "1 trial needs its pre-training and 2 fine-tunings",
        "1 trial needs 2 fine-tunings; its pre-training is found",
        "1 trial needs one more fine-tuning; its pre-training is found",
        "2 trials need 2 fine-tunings each",
    }
    assert [left.text_of(trial.id) for trial in (first, second, third, fourth)] == [
        "done", "2 fine-tunings", "1 fine-tuning", "all"
    ]  # fmt: skip
    work = {one.trial.id: one for one in open_work(plan, left)}
    assert first.id not in work
    assert (work[second.id].pretrained, work[fourth.id].pretrained) == (0, 400)
    assert work[third.id].finetuned == third.finetunings[1].images
    assert work[third.id].evaluated == third.finetunings[1].evaluated


def test_a_rate_more_is_one_more_fine_tuning_each(folder):
    for trial in folder.plan():
        folder.finish(trial)
    left = folder.counted(folder.plan(ONE_RATE_MORE))
    assert left.counts() == "no pre-trainings, 6 of 18 fine-tunings"
    assert list(left.lines()) == [
        "4 trials need one more fine-tuning; their pre-trainings are found",
        "2 trials need one more fine-tuning",
    ]


def test_progress_of_before_an_edit_is_not_that_of_now(folder):
    for trial in folder.plan():
        folder.finish(trial)
        said = {"stage": "finetune", "epoch": 3.0, "epochs": 3.0, "images": 9, "images_per_second": 1.0, "share": 0.99}
        folder.run.trial(trial.id).storage.write_json("progress.json", said)
    folder.plan(ONE_RATE_MORE)
    assert read_status(folder.run, 0.0).share_done == pytest.approx(2 / 3, abs=0.01)


def test_a_seed_more_and_another_source_are_new_trials(folder):
    for trial in folder.plan():
        folder.finish(trial)
    seed = folder.counted(folder.plan(ONE_SEED_MORE))
    assert seed.counts() == "2 of 6 pre-trainings, 6 of 18 fine-tunings"
    assert set(seed.lines()) == {
        "2 trials need their pre-trainings and 2 fine-tunings each",
        "1 trial needs 2 fine-tunings",
    }
    source = folder.counted(folder.plan(OTHER_SOURCE))
    assert source.counts() == "4 of 4 pre-trainings, 8 of 12 fine-tunings"


def test_weights_of_another_run_are_found_and_lost_ones_are_made_again(folder):
    plan = folder.plan()
    first, second, *_ = [trial for trial in plan if trial.draws]
    folder.pretrain(first)  # by a run beside this one
    assert folder.counted(plan).pretrainings == (3, 4)
    folder.finetune(second, 1)  # whose weights were deleted to save disk
    assert "1 trial needs one more fine-tuning, and its pre-training again: the weights are no longer there" in list(
        folder.counted(plan).lines()
    )


def test_damage_costs_what_is_damaged(folder):
    plan = folder.plan()
    for trial in plan:
        folder.finish(trial)
    scratch, *_ = [trial for trial in plan if not trial.draws]
    folder.run.trial(scratch.id).storage.write(f"predictions/{scratch.finetunings[0].id}.parquet", table_of("other"))
    left = folder.counted(plan)
    assert left.missing.keys() == {scratch.id}
    assert left.missing[scratch.id].finetunings == (scratch.finetunings[0].id,)


def test_failed_trials_are_missing_and_stopped_ones_are_not(folder):
    plan = folder.plan()
    first, second, *_ = plan
    folder.run.trial(first.id).fail("the loss became nan")
    folder.run.trial(second.id).stop("behind at a milestone", {})
    missing = read_status(folder.run, 0.0).remaining.missing
    assert first.id in missing
    assert second.id not in missing


def test_a_limit_counts_its_own_trials(folder):
    plan = folder.plan()
    folder.finish(plan.trials[0])
    spec = load_spec(folder.file)
    few = open_sweep(spec, 1).plan
    left = remaining_of(folder.run, few, finished_trials(folder.run, few))
    assert left.trials[1] == 1


def test_a_remote_run_is_listed_at_once(folder):
    plan = folder.plan()
    for trial in plan.trials[:3]:
        folder.finish(trial)
    folder.pretrain(plan.trials[3])

    run = RunFolder(Remote(folder.run.storage.address))
    here = remaining_of(folder.run, plan, finished_trials(folder.run, plan))
    assert remaining_of(run, plan, [trial.id for trial in plan.trials[:3]]) == here


def test_the_plan_and_the_status_print_what_is_missing(folder, capsys):
    for trial in folder.plan():
        folder.finish(trial)
    folder.plan(ONE_RATE_MORE)
    assert sweep.main([str(folder.file), "--plan"]) == DONE  # by default of runs/<spec name>
    said = capsys.readouterr().out
    assert "done  0 of 6 trials, 4 of 4 pre-trainings, 12 of 18 fine-tunings, in runs/how\n" in said
    assert "to do no pre-trainings, 6 of 18 fine-tunings\n" in said
    assert "      4 trials need one more fine-tuning; their pre-trainings are found\n" in said
    assert "images to process: 0 in pre-training," in said
    assert status.main(["runs/how"]) == DONE
    assert "      4 trials need one more fine-tuning; their pre-trainings are found\n" in capsys.readouterr().out
    assert sweep.main([str(folder.file), "--plan", "--out", "elsewhere"]) == DONE
    assert "to do" not in capsys.readouterr().out


def test_the_plan_of_a_finished_run_has_nothing_to_do(folder, capsys):
    for trial in folder.plan():
        folder.finish(trial)
    assert sweep.main([str(folder.file), "--plan"]) == DONE
    said = capsys.readouterr().out
    assert "to do nothing\n" in said
    assert "time  " not in said


def test_a_plan_alters_no_file_of_a_run(folder, capsys):
    for trial in folder.plan():
        folder.finish(trial)
    folder.run.write_results()

    def held():
        root = folder.root / "runs"
        return {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}

    before = held()
    folder.file.write_text(OTHER_SOURCE)
    assert sweep.main([str(folder.file), "--plan", "--out", "runs/how"]) == DONE
    kept = "plan  not written: runs/how has a run, which goes by its own plan.csv; give another --out\n"
    assert capsys.readouterr().out.endswith(kept)
    assert held() == before
    for _ in range(2):  # a folder with nothing but a plan gets the newest
        assert sweep.main([str(folder.file), "--plan", "--out", "plans/how"]) == DONE
        assert capsys.readouterr().out.endswith("plan  plans/how/plan.csv\n")
        folder.file.write_text(SPEC)
    assert "fractals" not in (folder.root / "plans" / "how" / "plan.csv").read_text()


SEARCH = SPEC.replace("num_images: {grid: [200, 400]}", "num_images: {loguniform: [200, 400]}")


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_the_plan_of_a_search_counts_what_it_has_ended(folder, capsys, method):
    text = f"{SEARCH}search: {{method: {method}, trials: 2}}\n"
    baseline = folder.plan(text)
    folder.finish(baseline.trials[0])
    command = [str(folder.file), "--plan"]
    assert sweep.main(command) == DONE
    said = capsys.readouterr().out
    if method == "random":  # its draws are those that it will run
        assert "done  1 of 6 trials, 0 of 4 pre-trainings, 2 of 12 fine-tunings, in runs/how\n" in said
        assert "to do 4 of 4 pre-trainings, 10 of 12 fine-tunings\n" in said
    else:
        assert (
            "done  1 trial of this search, in runs/how: it continues from there; the cost above is of the whole" in said
        )
        assert "to do" not in said


def test_what_a_search_stopped_is_not_run_again(folder):
    plan = folder.plan()
    folder.run.trial(plan.trials[0].id).stop("behind at a milestone", {})
    assert stopped_trials(folder.run, plan) == {plan.trials[0].id}
