"""A trial of which one fine-tuning diverges: the others are run, their scores count, and what has none is listed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.multiprocessing as processes
from test_failures import WORKER_DIED, actor_died
from test_trial import SPEC, paths_in, plan_of, pretrained_of

from analysis.input import join_runs
from analysis.input.run_points import read_run
from analysis.verify.command import verify
from ray_robust.launch.failures.failure_classes import classify
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.declared import declare
from ray_robust.run.run_folder import RunFolder
from ray_robust.status.progress import read_status
from ray_robust.train.context import Context
from ray_robust.trial.failure import of_finetunings
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial

OVERRIDES = ("finetune.lr={grid: [1e9, 1e-3, 3e-3]}", "finetune.optimizer=sgd")


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, Plan, RunPaths]:
    """A run of a trial with a rate that diverges and two that do not, and a baseline that has failed likewise."""
    folder = tmp_path_factory.mktemp("diverging")
    plan, paths = plan_of(folder, *OVERRIDES), paths_in(folder, "d")
    run = RunFolder(paths.run)
    run.write_plan(plan.rows())
    run.write("spec.yaml", (folder / "small.yaml").read_text())
    declare(run, run.spec(), 0.0)
    for trial in plan:
        run_trial(trial, paths, Context())
    run.write_results()
    return folder, plan, paths


def diverging(trial: Trial) -> str:
    (name,) = [one.id for one in trial.finetunings if one.settings.lr == 1e9]
    return name


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other)


def rates(run: RunFolder, trial: str) -> set[float]:
    table = run.results()
    return set(table.loc[(table["trial"] == trial) & (table["status"] == "done"), "finetune_lr"])


@pytest.mark.slow
def test_the_others_are_run_and_counted_and_the_one_is_a_row_without_scores(ran):
    _, plan, paths = ran
    trial, run = pretrained_of(plan), RunFolder(paths.run)
    folder, table = run.trial(trial.id), run.results()
    assert run.states()[trial.id] == "failed"
    assert rates(run, trial.id) == {1e-3, 3e-3}
    own = table.loc[(table["trial"] == trial.id) & (table["status"] == "failed")]
    assert own["finetune"].tolist() == [diverging(trial)]
    assert own["id"].isna().all()
    assert own["num_images"].tolist() == [800]
    failure = folder.failure()
    assert failure["reason"].startswith("1 of 3 fine-tunings failed: finetune: the loss became")
    assert failure["reason"].endswith("(learning rate 1e+09); the scores of the others count")
    assert "Traceback" in Path(failure["log"]).read_text()
    assert not folder.storage.exists("failures")
    status = read_status(run, 0.0)
    assert status.remaining.finetunings == (2, 6)  # one of each trial
    assert status.remaining.pretrainings == (0, 1)
    assert 0.5 < status.share_done < 1.0


@pytest.mark.slow
def test_the_analysis_counts_the_others_and_lists_the_one_with_its_reason(ran):
    _, plan, paths = ran
    table, _ = read_run(paths.run)
    assert set(table.points["trial"]) == {trial.id for trial in plan}
    assert len(table.points) == 2 * 2 * 2  # trials, rates, looks
    listed = table.left_out.set_index("trial")["reason"].to_dict()
    assert set(listed) == {trial.id for trial in plan}
    for trial in plan:
        assert listed[trial.id].startswith(f"fine-tuning {diverging(trial)}: finetune: the loss became")
    assert list(table.missing("camera-traps")) == ["trial", "group", "task", "reason"]


@pytest.mark.slow
def test_scores_of_the_others_are_verified(ran, tmp_path):
    _, plan, paths = ran
    made = verify(paths.run)
    assert made.problems == []
    assert any(line.startswith("scores of 8 points of 2 trials") for line in made.compared)
    run = Path(shutil.copytree(paths.run, tmp_path / "run"))
    trial = pretrained_of(plan)
    name = next(one.id for one in trial.finetunings if one.id != diverging(trial))
    file = run / "trials" / trial.id / "finetunings" / f"{name}.json"
    altered = json.loads(file.read_text())
    altered["rows"][0]["id"] = 0.5
    file.write_text(json.dumps(altered))
    assert [problem.where for problem in verify(str(run)).problems] == [str(file)]
    assert len(rates(RunFolder(run), trial.id)) == 1  # it does not count, is listed, and is run again
    listed = read_run(str(run))[0].left_out
    assert f"fine-tuning {name}: no scores" in set(listed["reason"])


@pytest.mark.slow
def test_a_plan_without_the_one_has_the_scores_of_the_others_before_it_is_run(ran, tmp_path):
    folder, _, paths = ran
    run = RunFolder(shutil.copytree(paths.run, tmp_path / "run"))
    fewer = plan_of(folder, "finetune.lr={grid: [1e-3, 3e-3]}", "finetune.optimizer=sgd")
    run.write_plan(fewer.rows())
    table = run.results()
    assert len(table) == 8
    assert table["id"].notna().all()


@pytest.mark.slow
def test_another_run_that_has_the_scores_fills_only_what_it_has(ran):
    folder, _, paths = ran
    other = paths_in(folder, "other")
    whole = plan_of(folder, "finetune.lr={grid: [1e-3, 3e-3]}", "finetune.optimizer=sgd")
    run = RunFolder(other.run)
    run.write_plan(whole.rows())
    run.write("spec.yaml", SPEC)
    for trial in whole:
        run_trial(trial, RunPaths(other.run, paths.checkpoints, paths.store), Context())
    joined, _ = join_runs.read_runs([paths.run, other.run])
    assert len(joined.points) == 8
    assert len(joined.left_out) == 2  # the scores of other rates do not make up for these
    assert joined.left_out["reason"].str.contains("the loss became").all()


@pytest.mark.slow
def test_the_same_command_tries_the_one_again_and_one_that_asks_for_the_others_alone_trains_nothing(ran, tmp_path):
    folder, plan, paths = ran
    trial = pretrained_of(plan)
    copy = RunPaths(shutil.copytree(paths.run, tmp_path / "run"), paths.checkpoints, paths.store)
    log = Path(copy.run) / "trials" / trial.id / "log.txt"
    before = log.read_text().count("fine-tunes ")
    run_trial(trial, copy, Context())
    assert log.read_text().count("fine-tunes ") == before + 1
    assert RunFolder(copy.run).states()[trial.id] == "failed"
    fewer = pretrained_of(plan_of(folder, "finetune.lr={grid: [1e-3, 3e-3]}", "finetune.optimizer=sgd"))
    assert fewer.key == trial.key
    run_trial(fewer, copy, Context())
    assert log.read_text().count("fine-tunes ") == before + 1
    assert RunFolder(copy.run).state_of(trial.id, [one.id for one in fewer.finetunings]) == "done"


@pytest.mark.slow
def test_the_scores_of_the_others_count_while_the_one_is_tried_again_and_where_that_fails_as_a_whole(ran, tmp_path):
    _, plan, paths = ran
    trial, run = pretrained_of(plan), RunFolder(shutil.copytree(paths.run, tmp_path / "run"))
    folder, before = run.trial(trial.id), run.results()
    assert folder.progress()["share"] > 0.9
    left = folder.progress()
    folder.begin()
    assert folder.failure() is None
    assert run.states()[trial.id] == "started"
    assert folder.progress_now() == {}
    assert_same(run.results(), before)
    folder.begin()  # its worker died at once
    assert_same(run.results(), before)
    folder.storage.write_json("progress.json", {**left, "share": 0.5, "time": left["time"] + 1})
    assert folder.progress_now()["share"] == 0.5
    made = verify(run.storage.address)
    assert made.problems == []
    assert made.compared[1].startswith("scores of 8 points of 2 trials")
    folder.fail("failed 4 times; quarantined until the next run: the worker died", quarantined=True)
    assert_same(run.results(), before)
    listed = read_run(run.storage.address)[0].left_out.set_index("trial")["reason"]
    assert listed[trial.id].startswith(f"fine-tuning {diverging(trial)}: finetune: the loss became")  # not: it died
    folder.begin()
    folder.storage.write("earlier.json", "[")  # damaged: what scored counts all the same
    assert len(run.results()) == len(before) - 1
    assert folder.progress_now()["share"] == 0.5
    folder.stop("a search stopped it", {})
    assert run.results().query("trial == @trial.id")["status"].tolist() == [*["done"] * 4, "stopped"]


@pytest.mark.slow
def test_a_trial_that_is_tried_again_advances_from_nothing_not_from_where_it_had_failed(ran, tmp_path):
    _, plan, paths = ran
    trial, run = pretrained_of(plan), RunFolder(shutil.copytree(paths.run, tmp_path / "run"))
    folder, recovery = run.trial(trial.id), Recovery({trial.id: trial}, run, retries=2)
    died, left = classify(actor_died(WORKER_DIED)), folder.progress()
    recovery.begin(trial)
    recovery.record_failure(trial.id, died)  # before it has told anything
    for i, share in enumerate((0.2, 0.4, 0.6, 0.8), 1):
        folder.storage.write_json("progress.json", {**left, "share": share, "time": left["time"] + i})
        recovery.record_failure(trial.id, died)
    assert recovery.counted(trial.id) == 1
    assert not recovery.settled(trial.id)


@pytest.mark.slow
def test_what_a_finished_trial_scored_counts_while_it_gets_more_fine_tunings(ran, tmp_path):
    plan_folder, plan, paths = ran
    few = plan_of(plan_folder, "finetune.lr={grid: [1e-3, 3e-3]}", "finetune.optimizer=sgd")
    copy = RunPaths(shutil.copytree(paths.run, tmp_path / "run"), paths.checkpoints, paths.store)
    run = RunFolder(copy.run)
    for trial in few:
        run_trial(trial, copy, Context())
    run.write_plan(few.rows())
    done = run.results()
    assert done["status"].eq("done").all()
    run.write_plan(plan.rows())  # with one rate more
    for trial in plan:
        run.trial(trial.id).begin()
    assert set(run.states().values()) == {"started"}
    assert_same(run.results(), done)  # and no row of what is not run yet


@pytest.mark.slow
def test_of_two_ranks_each_runs_its_share_to_the_end(ran, tmp_path):
    _, plan, paths = ran
    first, *others = (trial := next(one for one in plan if one.pretrain is None)).finetunings
    trial = replace(trial, finetunings=(others[0], first, *others[1:]))  # the second rank, which writes no log, has it
    two = RunPaths(str(tmp_path / "run"), paths.checkpoints, paths.store)
    processes.spawn(_rank, args=(trial, two, (tmp_path / "ranks").as_uri()), nprocs=2)
    run = RunFolder(two.run)
    run.write_plan([row for row in plan.rows() if row["trial"] == trial.id])
    assert rates(run, trial.id) == {1e-3, 3e-3}
    folder = run.trial(trial.id)
    assert list(folder.failure()["finetunings"]) == [diverging(trial)]
    assert folder.storage.recall("log.txt").decode().count("Traceback") == 1


def _rank(rank: int, trial: Trial, paths: RunPaths, address: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    run_trial(trial, paths, Context(rank=rank, world_size=2))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("reasons", "in_all", "line"), [
    ({"a": "nan"}, 1, "nan"),
    ({"a": "nan"}, 3, "1 of 3 fine-tunings failed: nan; the scores of the others count"),
    ({"a": "nan", "b": "nan"}, 2, "2 of 2 fine-tunings failed: nan"),
    ({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}, 9,
     "5 of 9 fine-tunings failed: 1; 2; 3; and 2 more; the scores of the others count"),
])  # fmt: skip
def test_the_reason_of_a_trial_names_those_of_its_finetunings(reasons, in_all, line):
    assert of_finetunings(reasons, in_all) == line
