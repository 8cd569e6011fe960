"""The run folder: when a trial is done, what the results table holds, and what an edited spec keeps."""

from __future__ import annotations

import io
import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ray_robust.errors import UserError
from ray_robust.plan.plan import Plan, PoolFacts, Trial, make_plan
from ray_robust.run import results_schema
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

DOCUMENT = Path(__file__).parents[1] / "docs/results.md"
GOOD = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1}, num_images: {grid: [1000, 4000]}, epochs: 1}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
"""
CONTRACT = [
    "trial",
    "group",
    "status",
    "model",
    "seed",
    "subset_seed",
    "num_images",
    "num_classes",
    "images_per_class",
    "granularity",
    "semantics",
    "sources",
    "pretrain_method",
    "pretrain_epochs",
    "pretrain_images_seen",
    "upstream_accuracy",
    "seconds_pretrain",
    "finetune",
    "finetune_method",
    "finetune_lr",
    "finetune_weight_decay",
    "finetune_images",
    "seconds_finetune",
    "task",
    "epoch",
    "step",
    "metric",
    "id_val",
    "ood_val",
    "id",
    "ood",
    "id_accuracy",
    "ood_accuracy",
    "id_groups",
    "ood_groups",
]


class Pools(dict):
    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 50_000, {"train": 100, "id_val": 10, "id_test": 10, "ood_val": 10, "ood_test": 10})


def plan(folder: Path, *overrides: str, name: str = "x") -> Plan:
    (folder / f"{name}.yaml").write_text(textwrap.dedent(GOOD))
    return make_plan(load_spec(folder / f"{name}.yaml", overrides), Pools(), Pools())


def row(trial: Trial, finetune: str, epoch: int, **more: Any) -> dict[str, Any]:
    point = dict.fromkeys(("id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy"), 0.5)
    return {
        **trial.columns(),
        "status": "done",
        "finetune": finetune,
        "finetune_lr": 0.1,
        "task": "as it was called then",
        "epoch": epoch,
        "step": 7 * epoch,
        "metric": "macro_f1",
        **point,
        "id_groups": 4,
        **more,
    }


def finish(run: RunFolder, trial: Trial) -> None:
    rows = [row(trial, f.id, epoch) for f in trial.finetunings for epoch in (1, 2)]
    folder = run.trial(trial.id)
    folder.storage.write("checkpoints/x", "state")
    folder.finish(rows, {"finished": "now"})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_the_columns_are_the_contracts_in_its_order():
    assert list(results_schema.names()[: len(CONTRACT)]) == CONTRACT


def test_the_documents_have_the_schemas_table():
    wanted = results_schema.markdown()
    assert wanted in DOCUMENT.read_text("utf-8"), f"put this into {DOCUMENT.name}:\n{wanted}"


def test_rows_that_the_results_cannot_hold_are_refused(run, tmp_path):
    trial = plan(tmp_path).trials[0]
    name, folder = trial.finetunings[0].id, run.trial(trial.id)
    wrong = row(trial, name, 1, id_acuracy=0.5, ood="much", id_groups=4.0, step=True, sources=None, group=3)
    for write in (lambda: folder.finish([wrong], {}), lambda: folder.keep_finetuning(name, [wrong])):
        with pytest.raises(results_schema.SchemaError) as caught:
            write()
        assert str(caught.value).split("; ") == [
            "column group: must be text, not 3", "column step: must be a whole number, not True",
            "column ood: must be a number, not 'much'", "column id_groups: must be a whole number, not 4.0",
            "column id_acuracy: not in ray_robust.run.results_schema",
        ]  # fmt: skip
    assert not folder.storage.exists("rows.jsonl")


def test_rows_of_another_version_are_not_dropped_in_silence(run, tmp_path, monkeypatch):
    trial = plan(tmp_path).trials[0]
    run.write_plan([next(iter(plan(tmp_path).rows()))])
    with monkeypatch.context() as later:
        later.setattr(results_schema, "check", lambda rows: None)
        rows = [row(trial, f.id, 1, calories=7) for f in trial.finetunings]
        run.trial(trial.id).finish(rows, {})
    with pytest.raises(UserError, match="do not fit this version's results: column calories: not in"):
        run.results()
    monkeypatch.setattr(results_schema, "_LAST", (*results_schema._LAST, results_schema.Column(
        "calories", int, results_schema.EVALUATION, "eaten")))  # fmt: skip
    assert set(run.write_results()["calories"]) == {7}
    assert set(pd.read_csv(io.BytesIO(run.read_bytes("results.csv")))["calories"]) == {7}


def test_columns_that_an_older_run_lacks_are_empty(run, tmp_path):
    trial = plan(tmp_path).trials[0]
    run.write_plan([next(iter(plan(tmp_path).rows()))])
    finish(run, trial)
    table = run.results()
    assert table[["id_ece", "ood_worst_group", "id_images", "wise_alpha", "finetune_method"]].isna().all(axis=None)


def test_nothing_is_done_until_its_marker_is_there(run, tmp_path):
    trial = plan(tmp_path).trials[0]
    folder = run.trial(trial.id)
    wanted = [f.id for f in trial.finetunings]
    folder.storage.write("rows.jsonl", json.dumps(row(trial, wanted[0], 1)) + "\n")
    folder.storage.write_json(f"finetunings/{wanted[0]}.json", [row(trial, wanted[0], 1)])
    assert folder.finished() is None
    assert not folder.is_done(wanted)
    assert folder.finetuning(wanted[0])
    finish(run, trial)
    assert folder.is_done(wanted)
    assert folder.is_done(wanted[:1])
    assert not folder.is_done([*wanted, "another"])
    assert not folder.storage.exists("checkpoints")  # only resuming needed them


def test_states_of_trials(run, tmp_path):
    found = plan(tmp_path)
    run.write_plan(found.rows())
    done, failed, started = (trial.id for trial in found)
    assert set(run.states().values()) == {"planned"}
    finish(run, found.trials[0])
    run.trial(failed).fail("the loss\nis nan")
    run.trial(started).storage.write_json("trial.json", {"trial": started})
    assert run.states() == {done: "done", failed: "failed", started: "started"}
    assert run.trial(failed).failure() == {
        "reason": "the loss is nan",
        "log": run.trial(failed).storage.shown + "/log.txt",
        "quarantined": False,
    }
    assert [t["trial"] for t in run.trials()] == [started]
    finish(run, found.trials[1])  # ran again, and well
    assert run.states()[failed] == "done"
    assert run.trial(failed).failure() is None


def test_a_point_is_a_row_and_a_failed_trial_is_one_too(run, tmp_path):
    found = plan(tmp_path)
    run.write_plan(found.rows())
    scratch = next(trial for trial in found if trial.pretrain is None)
    finish(run, scratch)
    broken = next(trial for trial in found if trial.group == "num_images=4000")
    run.trial(broken.id).fail("why")
    table = run.write_results()
    assert list(table.columns) == list(results_schema.names())
    assert table["status"].tolist() == ["done"] * 4 + ["failed"]
    failed = table.iloc[-1]
    assert (failed["trial"], failed["group"], failed["num_images"], failed["seed"]) == (
        broken.id,
        "num_images=4000",
        4000,
        1,
    )
    assert failed[["id", "ood", "finetune", "epoch"]].isna().all()
    assert json.loads(failed["sources"]) == {"species": 1.0}
    written = pd.read_csv(io.BytesIO(run.read_bytes("results.csv")))
    assert written["epoch"].tolist()[:4] == [1, 2, 1, 2]
    assert written["num_images"].tolist() == [0, 0, 0, 0, 4000]  # whole numbers stay whole beside empty cells
    pd.testing.assert_frame_equal(
        pd.read_parquet(io.BytesIO(run.read_bytes("results.parquet"))), table, check_dtype=False
    )


def test_an_empty_run_is_an_empty_table(run):
    assert len(run.results()) == 0
    assert run.plan().empty
    assert run.states() == {}
    assert run.spec() == {}
    assert run.data() == {}
    assert len(run.write_results()) == 0


def test_an_edited_spec_keeps_what_it_still_asks_for(run, tmp_path):
    before = plan(tmp_path)
    for trial in before:
        finish(run, trial)
    after = plan(tmp_path, "pretrain.num_images={grid: [1000, 2000]}", "finetune.lr={grid: [3e-3]}")
    run.write_plan(after.rows())
    done = {trial.group for trial in after if run.trial(trial.id).is_done([f.id for f in trial.finetunings])}
    assert done == {"scratch", "num_images=1000"}
    table = run.results()
    assert set(table["finetune"]) == {after.trials[0].finetunings[0].id}  # the other fine-tuning is not asked for now
    assert set(table["group"]) == {"scratch", "num_images=1000"}


def test_a_trial_that_another_spec_named_is_found_and_shown_under_its_new_name(run, tmp_path):
    for trial in plan(tmp_path):
        finish(run, trial)
    renamed = plan(tmp_path, "task.shift={grid: [1.0]}", name="renamed")
    assert all(trial.id.startswith("renamed-") for trial in renamed)
    fresh = RunFolder(run.storage)
    fresh.write_plan(renamed.rows())
    assert set(fresh.states().values()) == {"done"}
    table = fresh.results()
    assert set(table["trial"]) == {trial.id for trial in renamed}
    assert set(table["task"]) == {"camera-traps[shift=1]"}
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "run/trials").iterdir()) == ["x", "x", "x"]


def test_rows_are_in_an_order_that_does_not_depend_on_which_trial_ended_first(run, tmp_path):
    found = plan(tmp_path)
    run.write_plan(found.rows())
    tables = []
    for order in (found.trials, found.trials[::-1]):
        for trial in order:
            run.trial(trial.id).storage.delete("done")
        for trial in order:
            finish(run, trial)
        tables.append(RunFolder(run.storage).results())
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["group"].drop_duplicates().tolist() == ["scratch", "num_images=1000", "num_images=4000"]


def test_a_trial_that_is_done_with_more_is_read_again(run, tmp_path):
    found = plan(tmp_path)
    run.write_plan(found.rows())
    trial = found.trials[0]
    few = replace(trial, finetunings=trial.finetunings[:1])
    finish(run, few)
    assert run.has_rows(trial.id, [f.id for f in few.finetunings])
    finish(run, trial)
    assert run.has_rows(trial.id, [f.id for f in trial.finetunings])
    of_trial = run.results().query("trial == @trial.id and status == 'done'")
    assert set(of_trial["finetune"]) == {f.id for f in trial.finetunings}
    assert len(trial.finetunings) > 1


def test_a_plan_has_whole_numbers_where_a_trial_has_none_of_them_too(run, tmp_path):
    run.write_plan(plan(tmp_path).rows())
    seeds = set(run.plan()["subset_seed"])
    assert "" in seeds
    assert all(seed.isdigit() for seed in seeds - {""})
