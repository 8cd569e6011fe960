"""`python -m analysis verify`: whatever digit of whatever file of a run is another, the file is named."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fake_run import run_folder, sweep
from make_damage import damaged
from test_trial import paths_in, plan_of

from analysis.__main__ import main
from analysis.advice.advice import Advice, Cost
from analysis.interface.request import Request, report_on
from analysis.verify import command, report
from ray_robust.files.storage import Storage
from ray_robust.run.checksums import checksum, seal, unseal
from ray_robust.run.declared import declare
from ray_robust.run.run_folder import RunFolder
from ray_robust.train.context import Context
from ray_robust.trial.run_trial import run_trial

pytestmark = pytest.mark.slow
GROUPS = "pretrain.num_images={grid: [400, 800]}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of three trials that is done, one more that failed, and its report."""
    folder = tmp_path_factory.mktemp("verify")
    plan, paths = plan_of(folder, GROUPS, "analysis.min_r2=0"), paths_in(folder, "v")
    run = RunFolder(paths.run)
    for trial in plan:
        run_trial(trial, paths, Context())
    failed = {**plan.rows()[0], "trial": "failed-0123456789"}
    run.write_plan([*plan.rows(), failed])
    run.trial("failed-0123456789").fail("its data were gone for 3 days")
    run.write("spec.yaml", (folder / "small.yaml").read_text())
    declare(run, run.spec(), 0.0)
    run.write("run.json", json.dumps({"invocations": [{"seconds": 12.5}]}))
    run.write("samples/a.png", b"\x89PNG 123")
    run.write("data.json", json.dumps({"pools": [{"name": "camera-traps", "kind": "task", "identity": "recipe"}]}))
    run.write_results()
    report_on(Request((paths.run,)), quiet=True)
    return Path(paths.run)


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    """A copy; the report is made again once for all tests: nothing below changes what it is made of."""
    made = made_again(finished)
    monkeypatch.setattr(command, "_made_again", lambda run, kept: made)
    return Path(shutil.copytree(finished, tmp_path / "run"))


MADE: dict[Path, dict[str, bytes]] = {}


def made_again(path: Path) -> dict[str, bytes]:
    if path not in MADE:
        MADE[path] = command._made_again(RunFolder(path), {"name": path.name, "title": ""}) or {}
    return MADE[path]


def named(run: Path) -> list[str]:
    return [Path(problem.where).resolve().relative_to(run).as_posix() for problem in command.verify(str(run)).problems]


def test_a_run_that_nobody_touched(finished, capsys):
    assert main(["verify", str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "verified: nothing differs" in printed
    assert re.search(r"scores of \d+ points of 3 trials with what their predictions give", printed)
    assert "not compared" not in printed


def test_what_is_not_there_is_not_called_compared(tmp_path):
    run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0}), unfinished=6)
    made = command.verify(str(tmp_path / "run"))
    assert not made.problems
    assert not any("results" in line for line in made.compared)
    assert [note.partition(",")[0] for note in made.notes[:2]] == ["results.csv", "results.parquet"]


def test_a_digit_of_any_file(run):
    """All of it: trials, tables, pages, figures, logs, and the files of checksums themselves; of many files of one kind
    in a folder one, and of trials that which is done first and that which failed."""
    trials = sorted(run.glob("trials/*"))
    of_trials = [path for folder in (trials[-1], next(one for one in trials if (one / "failed.json").exists()))
                 for path in folder.rglob("*")]  # fmt: skip
    paths = [path for path in sorted(run.rglob("*")) if run / "trials" not in path.parents] + of_trials
    export = {path.suffix: path for path in paths if path.parent.name == "export"}
    files = [path for path in paths if path.is_file() and path.parent.name != "export"] + list(export.values())
    assert {"rows.jsonl", "log.txt", "failed.json", "index.html", "trend.pdf", "a.png", "checksums.json", "done"} <= {
        path.name for path in files
    }
    for path in files:
        data = path.read_bytes()
        path.write_bytes(damaged(data, "flipped"))
        assert path.relative_to(run).as_posix() in named(run), path
        path.write_bytes(data)
    assert named(run) == []


def test_a_file_that_is_gone(run):
    for name in ("results.csv", "report/groups.csv", next(run.glob("trials/*/subset.parquet")).relative_to(run)):
        shutil.move(run / name, run / "elsewhere")
        assert str(name) in named(run)
        shutil.move(run / "elsewhere", run / name)


def test_scores_that_were_sealed_again_do_not_follow_from_the_predictions(run):
    """Somebody who knows the format changes a score, and every checksum with it."""
    folder = next(path.parent for path in run.glob("trials/*/rows.jsonl"))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    rows[0]["ood"] = round(rows[0]["ood"] + 0.01, 6)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done, _ = unseal((folder / "done").read_bytes())
    assert done is not None
    data = (folder / "rows.jsonl").read_bytes()
    done["files"]["rows.jsonl"][1:] = [len(data), (folder / "rows.jsonl").stat().st_mtime_ns, checksum(data)]
    (folder / "done").write_bytes(seal(done))
    problems = command.verify(str(run)).problems
    assert any(f"{folder.name}/rows.jsonl" in one.where and "predictions give" in one.what for one in problems)


def test_counts_that_are_not_those_of_the_predictions(run):
    from analysis.verify.scores import differences

    folder = RunFolder(run).trial(next(path.parent.name for path in run.glob("trials/*/rows.jsonl")))
    name = folder.storage.names("groups")[0]
    path = Path(folder.storage.address, "groups", name)
    counts = pd.read_parquet(path)
    counts.loc[0, "tp"] += 1
    counts.to_parquet(path, index=False)
    problems = list(differences(folder, folder.rows()))
    assert {file for file, _ in problems} == {f"groups/{name}"}


def test_a_report_that_was_sealed_again_says_other_than_the_trials(run):
    table, verdict = run / "report/groups.csv", run / "report/verdict.json"
    groups = pd.read_csv(table, dtype=str, keep_default_na=False)
    groups.loc[1, "n_points"] = "77"
    groups.to_csv(table, index=False)
    value = json.loads(verdict.read_text())
    value["findings"].append({"text": "Robust."})
    verdict.write_text(json.dumps(value))
    kept, _ = unseal((run / "report/provenance.json").read_bytes())
    assert kept is not None
    kept["files"] |= {file.name: checksum(file.read_bytes()) for file in (table, verdict)}
    (run / "report/provenance.json").write_bytes(seal(kept))
    problems = {Path(one.where).name: one.what for one in command.verify(str(run)).problems}
    assert problems["groups.csv"].startswith("line 3: n_points is 77; the trials give")
    assert problems["verdict.json"].startswith("findings is [")


def test_an_altered_number_of_the_report_is_named_with_its_line(run):
    table = run / "report/groups.csv"
    groups = pd.read_csv(table, dtype=str, keep_default_na=False)
    groups.loc[0, "n_points"] = "9"
    groups.to_csv(table, index=False)
    problem = next(one for one in command.verify(str(run)).problems if one.where.endswith("groups.csv"))
    assert problem.what.startswith("was altered since it was written: line 2: n_points is 9; the trials give")


def test_a_report_with_another_margin_is_made_again_with_it(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    report_on(Request((str(run),), margin=3.5, title="Ours"), quiet=True)
    assert command.verify(str(run)).problems == []


def test_what_is_no_run(tmp_path, capsys):
    with pytest.raises(Exception, match="no run folder"):
        main(["verify", str(tmp_path)])


def test_a_run_of_before_there_were_checksums(run):
    """What no checksum was kept of is said, and everything else is compared."""
    (run / "checksums.json").unlink()
    (run / "report/provenance.json").unlink()
    made = command.verify(str(run))
    assert made.problems == []
    assert any("no checksum was kept" in note and "results.csv" in note for note in made.notes)
    assert any("the report keeps no checksums" in note for note in made.notes)


def test_a_run_of_an_earlier_version_lacks_what_came_later(run):
    """Columns and fields that it did not write are said; every other cell is compared all the same."""
    folder, later = RunFolder(run), ["shift", "shift_classes", "select", "dedupe", "label_noise"]
    table = pd.read_csv(run / "results.csv", dtype=str, keep_default_na=False).drop(columns=later)
    folder.write("results.csv", table.to_csv(index=False))
    pd.read_parquet(run / "results.parquet").drop(columns=later).to_parquet(run / "results.parquet", index=False)
    folder.write("results.parquet", (run / "results.parquet").read_bytes())
    groups = pd.read_csv(run / "report/groups.csv", dtype=str, keep_default_na=False).drop(columns="n_used")
    groups.to_csv(run / "report/groups.csv", index=False)
    verdict = json.loads((run / "report/verdict.json").read_text())
    del verdict["selection"], verdict["groups"]["scratch"]["n_used"]
    (run / "report/verdict.json").write_text(json.dumps(verdict))
    (run / "report/provenance.json").unlink()
    made = command.verify(str(run))
    assert made.problems == []
    lacks = [note for note in made.notes if "an earlier version did not write" in note]
    assert lacks[0].startswith("results.csv: it lacks shift, shift_classes, select, dedupe and 1 more, which")
    assert [note.partition(":")[0] for note in lacks] == ["results.csv", "results.parquet", "report/groups.csv",
                                                          "report/verdict.json"]  # fmt: skip
    assert "groups.scratch.n_used" in lacks[-1]
    groups["n_points"] = "9"
    groups.to_csv(run / "report/groups.csv", index=False)
    del verdict["groups"]["scratch"]
    (run / "report/verdict.json").write_text(json.dumps(verdict))
    problems = {Path(one.where).name: one.what for one in command.verify(str(run)).problems}
    assert "n_points is 9" in problems["groups.csv"]
    assert problems["verdict.json"].startswith("groups.scratch is null")


def test_trials_that_changed_their_folders(run):
    """Each is whole; each would speak for the other group."""
    first, second = (path.parent for path in sorted(run.glob("trials/*/rows.jsonl"))[:2])
    shutil.move(first, run / "elsewhere")
    shutil.move(second, first)
    shutil.move(run / "elsewhere", second)
    problems = command.verify(str(run)).problems
    assert any(f"trials/{first.name}" in one.where and "is of trial" in one.what for one in problems)


def test_rows_of_further_shifts_are_made_again_too(run):
    """A shift of some of the classes: its scores are on its own test, and on the ID images of its classes."""
    from analysis.verify.scores import differences

    folder = RunFolder(run).trial(next(path.parent.name for path in run.glob("trials/*/rows.jsonl")))
    name = folder.storage.names("predictions")[0]
    path = Path(folder.storage.address, "predictions", name)
    table = pd.read_parquet(path)
    other = [table[table["split"] == one].assign(split=new) for one, new in
             (("ood_test", "shift:v2"), ("id_test", "id_test:v2"))]  # fmt: skip
    pd.concat([table.astype({"split": str}), *other], ignore_index=True).astype({"split": "category"}).to_parquet(path)
    own = [row for row in folder.rows() if row["finetune"] == name.removesuffix(".parquet")]
    again = [{**row, "shift": "v2", "shift_classes": 5} for row in own]
    problems = [what for _, what in differences(folder, [*own, *again])]
    assert not any("v2" in what or what.startswith(("id ", "ood ")) for what in problems)
    assert any("ood" in what for _, what in differences(folder, [{**again[0], "ood": 0.123}]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a,b\n1,2\n", ""),
        (b"a,b\n9,1,2\n", "is no CSV table"),  # the surplus cell is no name of the row
        (b"a,b\n1,2,9\n", "is no CSV table"),
        (b"a,b\n1\n", "is no CSV table"),
        (b'a,b\n"1,2\n', "is no CSV table"),
        (b"\xff\n", "is no CSV table"),
        (b"", "is no CSV table"),
        (b"a,a\n1,2\n", "has other columns than the trials give"),
        (b"a,b\n1,3\n", "line 2: b is 3; the trials give 2"),
    ],
)
def test_a_table_that_is_none_any_more_says_so(text, said):
    assert report.in_table(text, b"a,b\n1,2\n") == said
    assert report.lacking("groups.csv", text, b"a,b\n1,2\n") == (["b"] if b"a,a" in text else [])


def test_results_that_cannot_be_read_are_named(tmp_path):
    """Of a run whose checksums do not tell: of an earlier version, or sealed again."""
    run, made = run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0})), command.Verification()
    run.write_results()
    (tmp_path / "run/results.parquet").write_bytes((run.read_bytes("results.parquet") or b"")[:-9])
    (tmp_path / "run/results.csv").write_bytes(b"a,b\n1,2,3\n")
    command._verify_results(run, made)
    said = [f"{Path(one.where).name}: {one.what}" for one in made.problems]
    assert said == ["results.csv: is no CSV table", "results.parquet: is no Parquet table"]


@pytest.mark.parametrize("task", [False, True])
def test_the_time_that_an_advice_takes_is_the_machine_s(tmp_path, task):
    """Another machine, or one without its cache, has another rate; what is to be trained is compared all the same."""
    folder = Storage(tmp_path)

    def with_cost(*cost) -> bytes:
        made = {"advice": [Advice("few_seeds", "So.", "Do.", None, Cost(*cost)).plain(), {"cost": None}]}
        return json.dumps({"tasks": {"one": made}} if task else made).encode()

    def said(*cost) -> list[str]:
        return [what for _, what in report.differences(folder, {"verdict.json": with_cost(*cost)})]

    folder.write("verdict.json", with_cost(27, 0, 1000, 4000.0))
    assert said(27, 0, 1000, 90.0) == said(27, 0, 1000, None) == said(27, 0, 1000, 4000.0) == []
    (other,) = said(26, 0, 1000, 4000.0)
    assert "advice[0].cost.finetunings is 27; the trials give 26" in other
    folder.write("verdict.json", with_cost(27, 0, 1000, 4000.0).replace(b"27 new", b"7 new"))
    (other,) = said(27, 0, 1000, 90.0)
    assert "advice[0].cost.text is " in other
