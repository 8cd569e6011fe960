"""Every small file of a run, damaged in every way: status and analysis end with a line or with the right result, never
with a traceback; nothing wrong passes in silence, and a trial that is run again uses what is whole of it.

The files of a store are damaged in `test_store`, those of a training's states in `test_train`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from fake_run import run_folder, sweep
from make_damage import DAMAGES, make_damage
from test_storage import Remote

from analysis.input.run_points import read_run
from analysis.report import run_facts
from ray_robust.errors import UserError
from ray_robust.files.storage import Storage
from ray_robust.prepare import provenance
from ray_robust.run import results_schema
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.status import __main__ as status

PROVED = ("done", "rows.jsonl", "trial.json", "subset.parquet", "predictions", "groups")
REPORTED = ("spec.yaml", "plan.csv", "data.json", "run.json", "checksums.json", "results.csv", "results.parquet")
OTHERS = ("progress.json", "log.txt", "attempts.json", "parts.json", "worker.json", "failed.json", "stopped.json",
          "samples", "finetunings")  # fmt: skip
PROGRESS = {"stage": "finetune", "epoch": 1.0, "epochs": 2.0, "images": 64, "images_per_second": 10.0, "share": 0.5,
            "worked": 64, "seconds": 5.0, "time": 1.0}  # fmt: skip
KINDS = (*PROVED, *REPORTED, *OTHERS)


def table(rows: int) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"image": [f"{row:06d}" for row in range(rows)], "label": 1}).to_parquet(buffer)
    return buffer.getvalue()


def train(folder: TrialFolder, points: pd.DataFrame) -> list[str]:
    """What `trial.run_trial` does of a trial, with these points in the place of training; returns what it "trained"."""
    trained: list[str] = []
    if folder.is_done(list(points["finetune"].unique())):
        return trained
    folder.begin()
    if folder.storage.stamp("subset.parquet") is None:
        folder.storage.write("subset.parquet", table(40))
    folder.storage.write_json("trial.json", {"trial": points["trial"].iloc[0], "group": points["group"].iloc[0],
                                             "composition": []})  # fmt: skip
    for name, own in points.groupby("finetune", sort=False):
        if folder.finetuning(name) is None:
            trained.append(name)
            for kind in ("predictions", "groups"):
                folder.storage.write(f"{kind}/{name}.parquet", table(60))
            folder.keep_finetuning(name, json.loads(own.to_json(orient="records")))
    rows = [row for name in points["finetune"].unique() for row in folder.finetuning(name) or ()]
    folder.finish(rows, {"finished": "2026-01-02T03:04:05+00:00"})
    return trained


@pytest.fixture(scope="module")
def points() -> pd.DataFrame:
    return sweep({"num_images=1000": 1.0}, trials=2, epochs=(6, 12))


def finished_run(path: Path, points: pd.DataFrame) -> None:
    """Write a finished run with every kind of file that a trial may leave."""
    names = list(points["trial"].unique())
    run = run_folder(path, points, unfinished=len(names))
    plan = run.plan().assign(cost_images="1000")
    run.write_plan(plan.to_dict("records"))
    for name in names:
        assert len(train(run.trial(name), points[points["trial"] == name])) == 3
    trial = run.trial(names[-1])
    trial.storage.write("log.txt", "2026-01-02 03:04:05 starts\n")
    trial.storage.write_json("progress.json", PROGRESS)
    trial.note_attempt({"time": 1.0, "host": "a", "kind": "died", "reason": "it died", "counts": True})
    trial.set_grad_accum_steps(2, "memory was short")
    for name in ("worker.json", "failed.json", "stopped.json"):
        trial.storage.write_json(name, {"host": "a", "kills": 0, "attempts": 0, "reason": "9 times too slow"})
    run.write_results()


@pytest.fixture(scope="module")
def whole(points, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        path = tmp_path_factory.mktemp("whole") / "run"
        finished_run(path, points)
    return path


@pytest.fixture
def run(whole, tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shutil.copytree(whole, tmp_path / "run")  # with the files' times
    return RunFolder(tmp_path / "run")


def file_of(run: RunFolder, kind: str) -> Path:
    """The damaged trial's file of a kind, else the run's."""
    trial = run.storage.local() / "trials" / run.plan()["trial"].iloc[-1]
    for base in (trial, run.storage.local()):
        if (base / kind).is_file():
            return base / kind
        if (base / kind).is_dir():
            return sorted((base / kind).iterdir())[0]
    raise AssertionError(kind)


def printed(run: RunFolder, capsys) -> str:
    """What status prints, and of the analysis all that is read of a run folder and its warnings; mistakes are lines."""
    said = []
    for look in (lambda: status.main([run.storage.address]), lambda: analysed(run.storage.address)):
        try:
            said.append(look())
        except UserError as error:
            said += [str(problem) for problem in error.problems]
    return "\n".join([capsys.readouterr().out, *map(str, said)])


def analysed(address: str) -> str:
    found, options = read_run(address)
    run_facts.samples(found.runs)
    run_facts.compositions(found.runs, ["scratch"])
    run_facts.provenance(found.runs)
    run_facts.duplicates(found.runs, "camera-traps", True)
    if found.counts is not None:
        found.counts(found.points)
    return "\n".join([*found.warnings, found.left_out.to_csv(), options.baseline])


def test_no_kind_of_file_is_forgotten(whole):
    left = [file.relative_to(whole).parts for file in whole.rglob("*") if file.is_file()]
    kinds = {parts[2] if parts[0] == "trials" else parts[0] for parts in left}
    assert kinds == set(KINDS)
    assert all(file_of(RunFolder(whole), kind).exists() for kind in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_costs_a_line_or_nothing(whole, points, run, kind, how, capsys):
    name = run.plan()["trial"].iloc[-1]
    own = points[points["trial"] == name]
    file = file_of(run, kind)
    make_damage(file, how)
    said = printed(run, capsys)
    assert "Traceback" not in said
    damaged = kind in PROVED and (kind, how) != ("done", "missing")  # a trial without `done` was never finished
    if damaged:
        relative = file.relative_to(run.storage.local() / "trials" / name)
        assert f"damaged {name}: {relative}" in said
        assert f"{name} is left out: {relative}" in said
        assert RunFolder(run.storage).states()[name] == "damaged"
    if kind in REPORTED and (kind, how) != ("checksums.json", "missing"):
        assert f"{kind}: " in said

    if kind in ("plan.csv", "spec.yaml"):  # the command writes both whenever it runs
        run.write(kind, (whole / kind).read_bytes())
    trained = train(RunFolder(run.storage).trial(name), own)
    lost = file.stem if kind in ("predictions", "groups") else None
    assert trained == ([lost] if lost else [])
    again = RunFolder(run.storage)
    assert again.states()[name] == "done"
    assert all(state == "done" for state in again.states().values())
    pd.testing.assert_frame_equal(again.write_results(), RunFolder(whole).results())
    provenance_of(again)
    assert again.altered() == [] or (kind in REPORTED and not kind.startswith("results."))


def provenance_of(run: RunFolder) -> None:
    """What the driver reads of its own at the end."""
    provenance.record_invocation(run, 0.0, 1.0, 1)
    assert json.loads(run.read_bytes("run.json"))["invocations"][-1]["trials_run"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["progress.json", "failed.json", "stopped.json", "attempts.json", "parts.json"])
def test_what_a_trial_that_broke_off_left_may_be_damaged(points, run, kind, how, capsys):
    name = run.plan()["trial"].iloc[-1]
    folder = run.trial(name)
    folder.storage.delete("done")
    if kind == "progress.json":
        folder.begin()
    make_damage(file_of(run, kind), how)
    assert "Traceback" not in printed(run, capsys)
    folder.note_attempt({"time": 2.0, "host": "a", "kind": "died", "reason": "it died", "counts": True})
    assert folder.attempts()[-1]["time"] == 2.0
    assert folder.grad_accum_steps() in (1, 2)
    assert train(folder, points[points["trial"] == name]) == []


@pytest.mark.parametrize("how", DAMAGES)
def test_a_finetuning_s_file_is_compared_when_it_is_used_again(points, run, how):
    """Of a trial that is done nothing relies on it: its rows are all in rows.jsonl."""
    name, file = run.plan()["trial"].iloc[-1], file_of(run, "finetunings")
    make_damage(file, how)
    folder = RunFolder(run.storage).trial(name)
    assert folder.damage() == ""
    folder.begin()  # it gets more of them
    assert folder.finetuning(file.stem) is None
    assert train(folder, points[points["trial"] == name]) == [file.stem]


def test_damage_to_several_files_is_named_at_once(run):
    name = run.plan()["trial"].iloc[-1]
    for kind in ("rows.jsonl", "predictions"):
        make_damage(file_of(run, kind), "empty")
    assert run.trial(name).damage() == "rows.jsonl is empty, predictions/lr0.0003.parquet is empty"


def test_times_that_changed_alone_are_no_damage(run):
    for file in run.storage.local().rglob("*"):
        os.utime(file, (1, 1))
    assert set(run.states().values()) == {"done"}


def test_a_digit_that_changed_without_a_trace_in_size_and_time_is_found_when_the_rows_are_read(points, run):
    name, file = run.plan()["trial"].iloc[-1], file_of(run, "rows.jsonl")
    before = file.stat()
    make_damage(file, "flipped")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, _ = read_run(run.storage.address)
    assert name not in set(found.points["trial"])
    assert name in set(found.left_out["trial"])
    own = points[points["trial"] == name]
    again, wanted = RunFolder(run.storage), list(own["finetune"].unique())
    assert not again.has_rows(name, wanted)  # so the command runs it again, and so does the worker that it is given to
    assert list(again.damaged([name])) == [
        f"damaged  {name}: rows.jsonl was altered: its checksum is another; it is run again, with what is whole of it"
    ]
    worker = RunFolder(run.storage)
    assert not worker.has_rows(name, wanted)
    assert train(worker.trial(name), own) == []
    assert again.has_rows(name, wanted)
    assert RunFolder(run.storage).states()[name] == "done"


@pytest.mark.parametrize("how", DAMAGES)
def test_rows_alone_are_made_again_from_the_finetunings_without_training(whole, run, how):
    name = run.plan()["trial"].iloc[-1]
    make_damage(file_of(run, "rows.jsonl"), how)
    again = RunFolder(run.storage)
    assert not again.has_rows(name, [])
    assert again.trial(name).mend()
    assert not again.trial(name).mend(), "there is nothing left to mend"
    assert RunFolder(run.storage).states()[name] == "done"
    pd.testing.assert_frame_equal(RunFolder(run.storage).results(), RunFolder(whole).results())
    before, after = (json.loads(file_of(of, "done").read_text()) for of in (RunFolder(whole), run))
    assert after["finished"] == before["finished"]
    assert {file: entry[3] for file, entry in after["files"].items()} == {
        file: entry[3] for file, entry in before["files"].items()
    }


def test_rows_whose_bits_turned_are_made_again(whole, run):
    """Size and time of the file are as they were."""
    name, file = run.plan()["trial"].iloc[-1], file_of(run, "rows.jsonl")
    stamp = file.stat()
    make_damage(file, "flipped")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = RunFolder(run.storage)
    assert not again.has_rows(name, [])
    assert again.trial(name).mend()
    assert again.has_rows(name, [])
    pd.testing.assert_frame_equal(RunFolder(run.storage).results(), RunFolder(whole).results())


def test_rows_of_another_version_are_not_made_again(run, monkeypatch):
    name = run.plan()["trial"].iloc[-1]
    make_damage(file_of(run, "rows.jsonl"), "cut")
    fewer = tuple(column for column in results_schema.columns() if column.name != "ood")
    monkeypatch.setattr(results_schema, "columns", lambda: fewer)
    assert not RunFolder(run.storage).trial(name).mend()


@pytest.mark.parametrize("kind", ["finetunings", "predictions", "subset.parquet", "trial.json"])
def test_more_than_rows_is_left_to_the_next_training(run, kind):
    name = run.plan()["trial"].iloc[-1]
    for damaged in ("rows.jsonl", kind):
        make_damage(file_of(run, damaged), "flipped")
    assert not RunFolder(run.storage).trial(name).mend()


def test_a_trial_that_gets_more_finetunings_is_not_taken_for_damaged_meanwhile(points, run):
    name = run.plan()["trial"].iloc[-1]
    folder = run.trial(name)
    assert folder.begin() == ""
    folder.storage.write_json("trial.json", {"trial": name, "device": "another"})  # and then it was killed
    assert RunFolder(run.storage).states()[name] != "damaged"
    assert train(RunFolder(run.storage).trial(name), points[points["trial"] == name]) == []


def test_rows_that_change_while_they_are_read_are_read_again(run, monkeypatch):
    name = run.plan()["trial"].iloc[-1]
    folder = run.trial(name)
    whole, read = folder.rows(), folder.storage.read
    monkeypatch.setattr(
        folder.storage, "read", lambda file: read(file) if file != "rows.jsonl" or old.pop() else b"before"
    )
    old = [True, False]
    assert folder.rows() == whole


def test_a_file_whose_name_reads_like_that_of_a_secret_keeps_its_checksum(tmp_path):
    run = RunFolder(tmp_path)
    run.write("duplicates/source-password-12345678.csv", "split,image\nid_test,a\n")
    assert run.altered() == []


def test_threads_that_write_at_once_keep_each_others_checksums(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run, names = RunFolder(tmp_path), [f"duplicates/{i}.csv" for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: run.write(name, f"image\n{name}\n"), names))
    assert set(json.loads((tmp_path / "checksums.json").read_text())) >= set(names)
    assert run.altered() == []


def test_an_earlier_file_that_is_put_back_is_altered(tmp_path, monkeypatch):
    """Not where the command was killed before it had written the later one: that file is as it was."""
    run, write = RunFolder(tmp_path), Storage.write
    run.write("run.json", "{}")
    run.write("run.json", '{"a": 1}')
    (tmp_path / "run.json").write_text("{}")
    assert len(run.altered()) == 1
    (tmp_path / "run.json").write_text('{"a": 1}')
    killed = lambda self, name, data: 1 / 0 if name == "run.json" else write(self, name, data)  # noqa: E731
    monkeypatch.setattr(Storage, "write", killed)
    with pytest.raises(ZeroDivisionError):
        run.write("run.json", '{"a": 2}')
    monkeypatch.undo()
    assert run.altered() == []
    run.write("run.json", '{"a": 2}')
    (tmp_path / "run.json").write_text('{"a": 1}')
    assert len(run.altered()) == 1


def test_a_word_of_progress_that_lacks_numbers_has_them_all(run):
    folder = run.trial(run.plan()["trial"].iloc[-1])
    for said in ({"stage": "finetune"}, {"time": 1.0}):
        folder.storage.write_json("progress.json", said)
        assert folder.progress() == {**dict.fromkeys(PROGRESS.keys() - {"stage"}, 0.0), **said}
    for said in ({"stage": ["finetune"]}, {"stage": "finetune", "epoch": "1"}, {}):
        folder.storage.write_json("progress.json", said)
        assert folder.progress() == {}


def test_a_remote_run_is_checked_alike(run):
    name = run.plan()["trial"].iloc[-1]
    folder = Remote(f"memory://{run.storage.address}")
    before = RunFolder(folder)
    assert set(before.states().values()) == {"done"}
    make_damage(file_of(run, "rows.jsonl"), "flipped")
    make_damage(file_of(run, "predictions"), "cut")
    damage = RunFolder(folder).trial(name).damage()
    assert damage.startswith("rows.jsonl was altered: its checksum is another, predictions/lr0.0003.parquet has ")
    table = before.results().set_index("trial")  # by who had looked before
    assert table.loc[name, "status"] == "damaged"


def test_the_files_of_a_remote_run_are_listed_at_once_whatever_its_address(run, monkeypatch):
    folder = Remote(f"memory://{run.storage.address}?endpoint_override=here")
    monkeypatch.setattr(Remote, "stamp", lambda *_: pytest.fail("a request for one file"))
    assert set(RunFolder(folder).states().values()) == {"done"}


def test_a_folder_with_something_in_it_is_never_removed(points, run):
    name = run.plan()["trial"].iloc[-1]
    file = file_of(run, "rows.jsonl")
    make_damage(file, "folder")
    (file / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"rows.jsonl: is a folder, where a file belongs; move it away, then run the"):
        train(run.trial(name), points[points["trial"] == name])
    assert (file / "mine.txt").read_text() == "mine"


def test_a_run_of_before_counts_as_done_and_is_checked_by_its_rows(run, capsys):
    (run.storage.local() / "checksums.json").unlink()
    for done in run.storage.local().glob("trials/*/done"):
        kept = json.loads(done.read_bytes())
        done.write_text(json.dumps({"finetunings": kept["finetunings"], "finished": kept["finished"]}))
    for marker in run.storage.local().glob("trials/*/finetunings/*.json"):
        marker.write_text(json.dumps(json.loads(marker.read_bytes())["rows"]))
    assert set(RunFolder(run.storage).states().values()) == {"done"}
    assert "altered" not in printed(run, capsys)
    make_damage(file_of(run, "rows.jsonl"), "cut")
    assert "rows.jsonl is damaged: it is not a table of points any more" in printed(run, capsys)
