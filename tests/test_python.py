"""The interface from Python: it gives what the command gives, in tables, and its mistakes are the command's lines."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
import yaml

import analysis
import ray_robust as rr
from analysis import __main__ as analysis_command
from analysis.__main__ import Request, report_on
from ray_robust import sweep
from ray_robust.errors import Unfinished
from ray_robust.interface import carry_out
from ray_robust.interface.run import why_unfinished
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.builtin import builtin_sweeps
from ray_robust.spec.load import load_spec
from ray_robust.spec.python_values import overrides_of
from tests.error_lines import problems
from tests.fake_run import run_folder
from tests.fake_run import sweep as simulated

ROOT = Path(__file__).parents[1]
PLANTED = {"num_images=1000": 0.5, "num_images=16000": 6.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "quantity"
    points = simulated(PLANTED)
    last = points["trial"].iloc[-1]
    made = run_folder(path, points, failed={last: "the loss became nan by step 3"})
    made.write_plan([{**row, "cost_images": 1000} for row in made.plan().to_dict("records")])
    return path


@pytest.fixture(scope="module")
def report(folder) -> Path:
    """The folder of the report that the command writes."""
    report_on(Request((str(folder),)), quiet=True)
    return folder / "report"


@pytest.fixture(scope="module")
def run(folder) -> rr.Run:
    return rr.Run(folder)


@pytest.fixture(scope="module")
def study(run) -> analysis.Study:
    return run.analyse()


# --- the packages


def test_every_name_that_is_promised_is_there():
    for module in (rr, analysis):
        assert set(module.__all__) <= set(dir(module))
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'analyze'"):
            _ = module.analyze


def test_sweep_is_one_object_that_is_a_module_and_can_be_called():
    assert rr.sweep is sweep
    assert callable(rr.sweep)
    assert callable(rr.sweep.main)
    assert inspect.signature(rr.sweep) == inspect.signature(rr.sweep.sweep)  # what a notebook shows of it
    assert rr.sweep.__call__.__doc__ == rr.sweep.sweep.__doc__


# --- a run


def test_a_run_has_its_plan_points_and_state(run, folder):
    assert run.plan["trial"].tolist() == RunFolder(folder).plan()["trial"].tolist()
    assert len(run.points) == (9 - 1) * 3 * 4
    assert run.points[["id", "ood"]].notna().all(axis=None)
    status = run.status()
    assert status["state"].value_counts().to_dict() == {"done": 8, "failed": 1}
    assert status.loc[status["state"] == "failed", "reason"].tolist() == ["the loss became nan by step 3"]
    assert status.loc[status["state"] == "done", "done"].eq(1).all()
    assert set(status.attrs) == {"share_done", "seconds_left"}
    assert run.spec["seeds"] == 3
    assert "8 done, 1 failed" in run._repr_html_()


def test_a_run_that_is_not_there_has_the_command_s_line(run, folder):
    absent = RunFolder(folder.parent / "quantty").storage.shown
    assert problems(lambda: rr.Run(folder.parent / "quantty")) == [
        f"{absent}: no such run folder; did you mean {run.path}?"
    ]
    with pytest.raises(TypeError, match="unexpected keyword argument 'margn'"):
        rr.Run(folder).analyse(margn=1)


def test_a_folder_that_is_no_run_is_refused(tmp_path, folder):
    """An empty table would be read as a run of which nothing is finished."""
    (line,) = problems(lambda: rr.Run(tmp_path))
    assert "no run folder: it has neither spec.yaml nor plan.csv" in line
    (tmp_path / "spec.yaml").write_bytes((folder / "spec.yaml").read_bytes())
    assert "nothing is planned there yet" in rr.Run(tmp_path)._repr_html_()
    (tmp_path / "results.csv").write_text("id\n")
    assert problems(lambda: rr.Run(tmp_path / "results.csv"))[0].endswith("is a file; wanted: a run folder")


def test_what_is_unfinished_is_one_line(folder, tmp_path):
    (line,) = {why_unfinished(RunFolder(folder))}
    assert line.endswith(": the loss became nan by step 3; the same call runs what is missing")
    assert ": 1 trial failed; " in line
    half = run_folder(tmp_path / "half", simulated(PLANTED), unfinished=2)
    assert why_unfinished(half).endswith(": 2 trials not run; the same call runs what is missing")
    again = pickle.loads(pickle.dumps(Unfinished(line, "runs/x")))
    assert (str(again), again.path) == (line, "runs/x")


# --- a study


@pytest.mark.slow
def test_a_study_has_the_numbers_of_the_report(study, report):
    for name, table in (("groups", study.groups), ("contrasts", study.contrasts), ("scores", study.scores),
                        ("robustness", study.points)):  # fmt: skip
        written = pd.read_csv(report / f"{name}.csv")
        assert table.columns.tolist() == written.columns.tolist()
        numbers = written.select_dtypes("number").columns
        here = table[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
        np.testing.assert_allclose(here, written[numbers].astype(float), rtol=1e-9)
    assert set(study.tables) == {file.stem for file in report.glob("*.csv")}


def test_findings_are_those_of_the_verdict(study):
    assert [finding.text for finding in study.findings] == [one["text"] for one in study.verdict["findings"]]
    assert str(study.findings) == "\n".join(finding.text for finding in study.findings)
    assert study.findings[0] == next(iter(study.findings))
    assert all(finding.text in str(study) for finding in study.findings)


@pytest.mark.slow
def test_a_study_writes_the_report(study, report, tmp_path, capsys):
    page = study.write(str(tmp_path / "out"))
    assert capsys.readouterr().out == ""
    assert Path(page).read_text().startswith("<!doctype html>")
    for name in ("groups.csv", "contrasts.csv", "verdict.json"):
        assert (tmp_path / "out" / name).read_bytes() == (report / name).read_bytes()


@pytest.mark.slow
def test_a_study_of_several_tasks_names_them(tmp_path):
    points = pd.concat([simulated(PLANTED), simulated(PLANTED, seed=1).assign(task="others")])
    points["finetune"] = points["finetune"] + points["task"]
    run_folder(tmp_path / "run", points)
    study = rr.Run(tmp_path / "run").analyse()
    assert study.tasks == ["camera-traps", "others"]
    assert set(study.groups["task"]) == set(study.tasks)
    assert problems(lambda: study.chart("trend")) == ["task: say which task: camera-traps, others"]
    assert problems(lambda: study.chart("trend", "other")) == [
        "task: 'other' is no task; there are camera-traps, others"
    ]
    assert study.chart("trend", "others") is not None
    assert str(study.findings).splitlines()[0] == "task camera-traps"


@pytest.mark.slow
def test_joined_runs_have_a_report_where_the_caller_wants_it(run, report, tmp_path):
    run_folder(tmp_path / "more", simulated({"num_images=64000": 8.0}, seed=4))
    before = (report / "groups.csv").read_bytes()
    study = run.analyse(tmp_path / "more", margin=1.0)
    assert {"num_images=16000", "num_images=64000"} < set(study.groups["group"])
    assert problems(lambda: study.write("")) == ["out: is empty; wanted: the path or URI of a folder, or no out"]
    assert problems(study.write) == ["several runs are joined: say with out= where their report goes"]
    assert Path(study.write(str(tmp_path / "joined"))).is_file()
    assert (report / "groups.csv").read_bytes() == before


# --- charts


@pytest.mark.slow
def test_every_chart_is_valid_and_complete(study):
    assert study.charts()[:2] == ["trend", "groups"]
    for name in study.charts():
        made = study.chart(name).to_dict()  # checked against Vega-Lite's schema
        assert made["config"].get("background") is None
    points = study.chart("trend").to_dict()["datasets"]["points"]
    assert len(points) == len(study.points)
    assert {"epoch", "seed"} <= {tip["title"] for layer in study.chart("trend").to_dict()["layer"]
                                 for tip in layer["encoding"].get("tooltip", ())}  # fmt: skip


@pytest.mark.slow
def test_a_chart_takes_the_reader_s_theme(study):
    with alt.theme.enable("dark"):
        made = study.chart("trend").to_dict()
    assert made["usermeta"]["embedOptions"]["theme"] == "dark"
    assert not {"background", "font"} & set(made["config"])  # which would hide the theme's
    larger = study.chart("trend").configure_axis(labelFontSize=20).to_dict()
    assert larger["config"]["axis"]["labelFontSize"] == 20


@pytest.mark.slow
def test_a_chart_is_saved(study, tmp_path):
    for ending, start in (("pdf", b"%PDF"), ("svg", b"<svg"), ("png", b"\x89PNG")):
        study.chart("groups").save(str(tmp_path / f"figure.{ending}"))
        assert (tmp_path / f"figure.{ending}").read_bytes().startswith(start)


def test_a_chart_that_is_not_there(study):
    (line,) = problems(lambda: study.chart("trnd"))
    assert line.startswith("chart: 'trnd' is no figure; did you mean trend?; there are trend, groups")
    with pytest.raises(KeyError, match="no table 'trendz'; did you mean trends"):
        study.tables["trendz"]


# --- specs


def test_a_dict_means_what_the_file_with_its_keys_means():
    file = builtin_sweeps()["quickstart"]
    from_file, tree = load_spec("quickstart"), yaml.safe_load(file.read_text())
    from_dict = load_spec(tree)
    ids = [[trial.key for trial in open_sweep(spec).plan] for spec in (from_file, from_dict, load_spec(from_dict))]
    assert ids[0] == ids[1] == ids[2]
    assert load_spec(from_dict, ("seeds=2",)).seeds == (1, 2)
    assert from_dict.seeds == (1, 2, 3)
    assert tree == yaml.safe_load(file.read_text())


@pytest.mark.parametrize(
    ("spec", "out", "again"),
    [
        ("quickstart", None, "quickstart --set seeds=3"),
        ("quickstart", "runs/a b", "quickstart --set seeds=3 --out 'runs/a b'"),
        (load_spec("quickstart", ("finetune.epochs=2",)), None,
         f"{builtin_sweeps()['quickstart']} --set finetune.epochs=2 --set seeds=3"),
        ({"task": {"name": "camera-traps"}, "pretrain": "none"}, "runs/x", "runs/x/spec.yaml --out runs/x"),
    ],
    ids=("name", "out", "spec", "dict"),
)  # fmt: skip
def test_the_command_that_continues_is_kept(spec, out, again, monkeypatch):
    asked = []
    monkeypatch.setattr(carry_out, "carry_out", lambda spec, asked_, out: asked.append(asked_) or (130, None))
    with pytest.raises(KeyboardInterrupt):
        rr.sweep(spec, set={"seeds": 3}, out=out)
    assert asked[0].command == f"{sys.orig_argv[0]} -m ray_robust.sweep {again}"


def test_the_spec_that_a_run_keeps_means_the_same(tmp_path):
    """It is what the recorded command reads, of a sweep that was given as a dict."""
    spec = load_spec("quickstart")
    (tmp_path / "spec.yaml").write_text(spec.resolved)
    again = load_spec(tmp_path / "spec.yaml")
    assert [trial.key for trial in open_sweep(again).plan] == [trial.key for trial in open_sweep(spec).plan]


def test_a_file_called_spec_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec").write_text("task: {name: camera-traps}\npretrain: none\nseeds: 0\n")
    (line,) = problems(lambda: rr.sweep("spec"))
    assert line.startswith("spec:3: seeds: must be how many")


def test_values_of_numpy_and_paths_are_those_of_the_file(tmp_path):
    texts = overrides_of({"seeds": np.int64(2), "pretrain.epochs": np.float32(2), "task.path": tmp_path,
                          "finetune.lr": {"grid": (1e-3, 3e-3)}, "task.metric": "no"})  # fmt: skip
    assert texts == ("seeds=2", "pretrain.epochs=2.0", f"task.path={tmp_path}", "finetune.lr={grid: [0.001, 0.003]}",
                     "task.metric='no'")  # fmt: skip
    assert load_spec("quickstart", texts[:1]).seeds == (1, 2)


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ({"task": {"name": "camera-traps"}, "pretain": "none"},
         ["spec: pretain: unknown key; did you mean pretrain?", "spec: pretrain: missing; a sweep needs it"]),
        ({"task": {"name": object()}, 3: 4}, ["spec: the key 3 must be text",
         "spec: task.name: object is no value of a spec; give text, a number, true or false, a list or a dict"]),
        ({"seeds": float("nan")}, ["spec: seeds: nan is no number"]),
    ],
    ids=("keys", "values", "nan"),
)  # fmt: skip
def test_mistakes_in_a_dict_name_the_key(spec, lines):
    assert problems(lambda: rr.sweep(spec, out="runs/x")) == lines


def test_mistakes_of_a_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"task": {"name": "camera-traps"}, "pretrain": "none"}
    assert problems(lambda: rr.sweep(spec)) == [
        "out: a spec that is a dict has no name; say where the run goes, e.g. out='runs/first'"
    ]
    assert problems(lambda: rr.sweep("quickstart", limit=0)) == ["limit: must be a whole number of at least 1, not 0"]
    assert problems(lambda: rr.sweep("quickstart", limit="a")) == [
        "limit: must be a whole number of at least 1, not 'a'"
    ]
    assert problems(lambda: rr.sweep("quickstart", out=5)) == ["out: must be the path or URI of a folder, not 5"]
    empty = "is empty; wanted: the path or URI of a folder, or no"
    assert problems(lambda: rr.sweep("quickstart", out="")) == [f"out: {empty} out"]
    for main in (sweep.main, analysis_command.main):
        assert problems(lambda main=main: main(["quickstart", "--out", ""])) == [f"--out: {empty} --out"]
    for bucket, folder in (("s3://b", "s3://b"), ("gs://b/?endpoint_override=h:1", "gs://b")):
        what = f"{folder} is a whole bucket, and the weights that runs share go beside the run folder"
        right = f"{what}; give a folder in it, e.g. {folder}/first"
        assert problems(lambda out=bucket: rr.sweep("quickstart", out=out)) == [f"out: {right}"]
        assert problems(lambda out=bucket: sweep.main(["quickstart", "--out", out])) == [f"--out: {right}"]
    for values, kind in (("seeds=2", "str"), (["seeds=2"], "list")):
        assert problems(lambda values=values: rr.sweep("quickstart", set=values)) == [
            f"set: must be a dict, e.g. {{'pretrain.epochs': 2}}, not {kind}"
        ]
    assert problems(lambda: rr.sweep(None)) == [
        "spec: must be a file, the name of a built-in sweep, a dict or a Spec, not None"
    ]
    assert problems(lambda: rr.Run(3)) == ["Run: must be the path or URI of a run folder, not 3"]
    assert rr.sweep.__doc__.startswith("Run a sweep, or what is still missing of it")
    assert problems(lambda: rr.sweep("quickstart", set={"seeds": -1})) == [
        "--set seeds=-1: seeds: must be how many, at least 1, or a list of different whole numbers, not -1"
    ]
    assert problems(lambda: rr.sweep("quickstrat")) == [
        "quickstrat: no such file or built-in sweep; did you mean quickstart?"
    ]
    assert list(tmp_path.iterdir()) == []


def finished(spec: rr.Spec, out: str) -> None:
    """A folder in which every trial of the spec is done: nothing is run, and no Ray started."""
    for trial in open_sweep(spec).plan:
        rows = [{**trial.columns(), "finetune": f.id, "epoch": 1} for f in trial.finetunings]
        RunFolder(out).trial(trial.id).finish(rows, {})


@pytest.mark.parametrize("works", [True, False])
def test_a_sweep_returns_its_run_or_says_what_is_missing(works, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = {"task": {"name": "camera-traps"}, "pretrain": "none"}
    finished(load_spec(spec), "runs/first")
    monkeypatch.setattr("analysis.__main__.report_on", lambda *_: "page" if works else {}["id"])
    if not works:
        with pytest.raises(rr.Unfinished) as error:
            rr.sweep(spec, out="runs/first", quiet=True)
        assert str(error.value) == "runs/first: every trial is done, but its report could not be written"
        return
    run = rr.sweep(spec, out="runs/first", quiet=True)
    assert capsys.readouterr().out == ""
    assert run.status()["state"].eq("done").all()
    assert run.spec["provenance"]["command"].endswith(" -m ray_robust.sweep runs/first/spec.yaml --out runs/first")
    rr.sweep(spec, out="runs/first")
    assert "1 of 1 trials are done, 0 to run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_document_does_what_it_says(folder, tmp_path, monkeypatch):
    """Its blocks run one after the other, on a finished run in the place of those that it would train."""
    monkeypatch.chdir(tmp_path)
    specs = []

    def trained(spec, **options) -> rr.Run:
        specs.append(load_spec(spec, overrides_of(options.get("set", {}))))
        return rr.Run(folder)

    monkeypatch.setattr(sweep, "sweep", trained)
    names: dict[str, object] = {}
    for page in ("README.md", "docs/python.md"):
        for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
            exec(block, names)
    assert [len(spec.pretrains) for spec in specs] == [2, 2, 2]
    assert (tmp_path / "figure.pdf").exists()
    assert any(finding.kind == "differs" for finding in names["study"].findings)
