"""What the monitor passes on while a sweep runs: Ray metrics, loggers for other tools, and the Grafana dashboard that
shows the metrics."""

from __future__ import annotations

import csv
import json
import re
import struct
import sys
import time
import types
from pathlib import Path

import fake_run
import pytest
from rich.console import Console

from ray_robust.errors import UserError
from ray_robust.files.storage import Storage
from ray_robust.launch.monitor import loggers, monitor
from ray_robust.launch.monitor import metrics as ray_metrics
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.redact import HIDDEN
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.status.progress import ErSoFar

ROOT = Path(__file__).parents[1]
SPEC = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: 400, images_seen: 400}
finetune: {epochs: 2}
baseline: none
seeds: 3
"""
PROGRESS = {"stage": "finetune", "epoch": 1.5, "epochs": 3, "images": 6000, "images_per_second": 2500.0, "id": 0.25,
        "ood": 0.125, "share": 0.5, "worked": 6000}  # fmt: skip


class Metric:
    """Keeps what it is told, by its labels."""

    def __init__(self, name, description="", tag_keys=()):
        assert description
        self.name, self.tags, self.default, self.values = name, set(tag_keys), {}, {}
        Metric.made[name] = self

    def set_default_tags(self, tags):
        self.default = tags

    def set(self, value, tags=None):
        tags = {**self.default, **(tags or {})}
        assert set(tags) == self.tags
        assert isinstance(value, int | float)
        self.values[tuple(sorted(tags.items()))] = value

    def inc(self, value=1.0, tags=None):
        assert value > 0
        before = self.values.get(tuple(sorted({**self.default, **(tags or {})}.items())), 0.0)
        self.set(before + value, tags)


def value_of(name, **tags):
    return Metric.made[name].values.get(tuple(sorted({"sweep": "how", **tags}.items())))


@pytest.fixture
def metrics(monkeypatch):
    Metric.made = {}
    module = types.ModuleType("ray.util.metrics")
    module.Gauge = module.Counter = Metric
    monkeypatch.setitem(sys.modules, "ray.util.metrics", module)


@pytest.fixture
def planned(tmp_path):
    file = tmp_path / "how.yaml"
    file.write_text(SPEC)
    spec = load_spec(file)
    plan = open_sweep(spec).plan
    run = RunFolder(tmp_path / "runs" / "how")
    run.write("spec.yaml", spec.resolved)
    run.write_plan(plan.rows())
    return run, plan


def start(run, trial, **changed):
    run.trial(trial.id).storage.write_json("trial.json", {"trial": trial.id})
    run.trial(trial.id).storage.write_json("progress.json", {**PROGRESS, "time": time.time(), **changed})


def finish(run, trial):
    start(run, trial, share=1.0, worked=8000, id=0.5)
    rows = [{"finetune": f.id, "epoch": 2, "step": 9, "id": 0.5, "ood": 0.25, "status": "done"}
            for f in trial.finetunings]  # fmt: skip
    run.trial(trial.id).finish(rows, {})


def watch(run, plan, logs=None):
    return Monitor(plan, run, Console(quiet=True), 0, "how", metrics=True, loggers=logs)


@pytest.mark.usefixtures("metrics")
def test_gauges_and_counters_follow_the_trials(planned):
    run, plan = planned
    first, second, third = plan
    seen = watch(run, plan)
    seen.started(first.id)
    seen.started(second.id)
    start(run, first)
    seen._update()
    assert value_of("rr_trials", state="running") == 2
    assert value_of("rr_trials", state="waiting") == 1
    assert value_of("rr_images_per_second", trial=first.id) == 2500.0
    assert value_of("rr_stage", trial=first.id) == 2
    assert value_of("rr_stage", trial=second.id) == 0
    assert (value_of("rr_id", trial=first.id), value_of("rr_ood", trial=first.id)) == (0.25, 0.125)
    assert value_of("rr_starts") == 2
    assert value_of("rr_gpu_memory", trial=first.id) is None, "there is no GPU"
    start(run, first, worked=7000, gpu_memory=3 << 30)
    seen._update()
    assert value_of("rr_images") == 1000
    assert value_of("rr_gpu_memory", trial=first.id) == 3 << 30
    finish(run, first)
    seen.ended(first.id)
    run.trial(second.id).fail("its worker died 4 times", quarantined=True)
    seen.ended(second.id)
    seen._update()
    assert value_of("rr_images") == 2000, "the last images too"
    assert {s: value_of("rr_trials", state=s) for s in ("running", "done", "quarantined", "waiting")} == {
        "running": 0, "done": 1, "quarantined": 1, "waiting": 1}  # fmt: skip
    assert value_of("rr_ended", state="done") == value_of("rr_ended", state="quarantined") == 1
    assert value_of("rr_stage", trial=first.id) == ray_metrics.ENDED
    assert value_of("rr_images_per_second", trial=first.id) == 0.0
    assert value_of("rr_gpu_memory", trial=first.id) == 0.0
    assert value_of("rr_gpu_memory", trial=second.id) is None, "it never said any"
    assert value_of("rr_id", trial=first.id) == 0.5
    assert value_of("rr_done") == pytest.approx((first.cost + second.cost) / sum(t.cost for t in plan))
    run.trial(third.id).stop("behind at a milestone", {})
    seen.started(third.id)
    seen.ended(third.id)
    seen._update()
    assert value_of("rr_trials", state="stopped") == value_of("rr_ended", state="stopped") == 1
    assert value_of("rr_trials", state="waiting") == 0


@pytest.mark.usefixtures("metrics")
def test_er_is_told_as_soon_as_the_baseline_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "ER_EVERY", 0.0)
    run = fake_run.run_folder(tmp_path / "run", fake_run.sweep({"num_images=1000": 5.0}, trial_sd=0.0))
    seen = watch(run, Plan(()))
    seen._update()
    seen._er_thread.join()
    assert value_of("rr_er", task="camera-traps", group="num_images=1000") == pytest.approx(5.0, abs=1.0)


@pytest.mark.usefixtures("metrics")
def test_series_are_bounded_so_that_memory_stays_flat(monkeypatch):
    monkeypatch.setattr(ray_metrics, "MOST_TRIALS", 3)
    metrics = ray_metrics.SweepMetrics("how")
    for number in range(10):
        metrics.started(f"t{number}")
        metrics.progress(f"t{number}", PROGRESS)
        metrics.ended(f"t{number}", "done")
    assert len(Metric.made["rr_stage"].values) == 3
    assert value_of("rr_ended", state="done") == value_of("rr_starts") == 10


@pytest.mark.usefixtures("metrics")
def test_storage_that_is_away_for_a_moment_costs_a_look(planned, monkeypatch):
    run, plan = planned
    seen = watch(run, plan)
    seen.started(plan.trials[0].id)
    start(run, plan.trials[0])
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read_json", lambda self, *_: (_ for _ in ()).throw(OSError("away")))
        seen._update()
    seen._update()
    assert value_of("rr_images_per_second", trial=plan.trials[0].id) == 2500.0


# --- the dashboard


def panels() -> list[dict]:
    return json.loads((ROOT / "cluster/grafana.json").read_text())["panels"]


def test_every_panel_asks_for_a_metric_that_exists_and_every_metric_is_shown():
    known = {f"ray_{name}" for name in ray_metrics.GAUGES} | {f"ray_{name}_total" for name in ray_metrics.COUNTERS}
    asked = [set(re.findall(r"\bray_rr_\w+", target["expr"])) for panel in panels() for target in panel["targets"]]
    assert all(asked)
    assert set().union(*asked) == known


def test_every_label_that_a_panel_uses_belongs_to_its_metric():
    labels = {f"ray_{name}": set(keys) for name, (_, keys) in ray_metrics.GAUGES.items()}
    labels |= {f"ray_{name}_total": set(keys) for name, (_, keys) in ray_metrics.COUNTERS.items()}
    for panel in panels():
        for target in panel["targets"]:
            (metric,) = re.findall(r"\bray_rr_\w+", target["expr"])
            used = re.findall(r"by \(([^)]*)\)", target["expr"]) + re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert {name for group in used for name in group.split(", ")} <= labels[metric], panel["title"]
            assert '{sweep=~"$sweep"}' in target["expr"]


def test_panels_lie_side_by_side():
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


# --- logs


def spec_with(tmp_path, line):
    file = tmp_path / "how.yaml"
    file.write_text(SPEC + line + "\n")
    return load_spec(file)


def followed(run, plan, tmp_path, line) -> list[str]:
    """A sweep in small, with logs: one trial begins and ends, one is interrupted; returns what the user was told."""
    said = []
    logs = loggers.open_loggers(spec_with(tmp_path, line), run, plan, tmp_path / "scratch", said.append)
    first, second, _ = plan
    for trial in (first, second):
        start(run, trial, worked=1000)
        logs.on_progress(trial.id, run.trial(trial.id).storage.read_json("progress.json"))
    logs.on_progress(first.id, run.trial(first.id).storage.read_json("progress.json"))  # nothing new
    finish(run, first)
    logs.on_end(first.id, "done", run.trial(first.id).rows())
    logs.close(lambda: ErSoFar({("camera-traps", "num_images=400"): 3.5}))
    return said


def test_progress_goes_to_a_csv_unless_the_spec_says_otherwise(planned, tmp_path):
    run, plan = planned
    assert spec_with(tmp_path, "").track == ("csv",)
    assert followed(run, plan, tmp_path, "") == []
    assert followed(run, plan, tmp_path, "") == []  # the command again: the file goes on
    rows = list(csv.DictReader((run.storage.local("track/progress.csv")).open()))
    assert [row["trial"] for row in rows] == [t.id for t in plan.trials[:2]] * 2
    assert rows[0]["group"] == plan.trials[0].group
    assert (rows[0]["stage"], rows[0]["id"], rows[0]["images"]) == ("finetune", "0.25", "6000")


def test_a_log_of_a_remote_run_is_copied_there(planned, tmp_path):
    run, plan = planned

    class Remote(Storage):
        def local(self, name=""):
            return None

    there = RunFolder(Remote(run.storage.address))
    followed(there, plan, tmp_path, "track: [csv]")
    assert (tmp_path / "scratch/track/progress.csv").exists()
    assert len(there.read_bytes("track/progress.csv").splitlines()) == 3
    (tmp_path / "scratch/track/progress.csv").unlink()  # another machine goes on
    followed(there, plan, tmp_path, "track: [csv]")
    assert len(there.read_bytes("track/progress.csv").splitlines()) == 5


def events(folder: Path) -> list:
    """The records of TensorBoard's event files: length, its CRC, the message, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


@pytest.mark.slow
def test_tensorboard_gets_progress_and_points(planned, tmp_path):
    pytest.importorskip("tensorboardX")
    run, plan = planned
    assert followed(run, plan, tmp_path, "track: [tensorboard]") == []
    first = plan.trials[0]
    values = {(value.tag, event.step): value.simple_value
              for event in events(run.storage.local(f"track/tensorboard/{first.id}"))
              for value in event.summary.value}  # fmt: skip
    assert values["finetune/images_per_second", 6000] == 2500.0
    assert values[f"{first.finetunings[0].id}/ood", 9] == 0.25
    assert run.storage.local(f"track/tensorboard/{plan.trials[1].id}").is_dir()


@pytest.mark.slow
def test_mlflow_gets_a_run_per_trial_and_goes_on_with_it(planned, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    address = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    run, plan = planned
    for _ in range(2):
        assert followed(run, plan, tmp_path, "track: [mlflow]") == []
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("how").experiment_id
    runs = {found.data.tags["trial"]: found for found in client.search_runs([experiment])}
    assert set(runs) == {plan.trials[0].id, plan.trials[1].id, "sweep"}
    done = runs[plan.trials[0].id]
    assert done.info.status == "FINISHED"
    assert done.data.params["num_images"] == "400"
    assert done.data.metrics["finetune/id"] == 0.25
    assert done.data.metrics[f"{plan.trials[0].finetunings[0].id}/id"] == 0.5
    assert runs[plan.trials[1].id].info.status == "KILLED"
    assert runs["sweep"].data.metrics == {"er/camera-traps/num_images_400": 3.5}


@pytest.mark.slow
def test_wandb_works_offline_without_a_key(planned, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    run, plan = planned
    assert followed(run, plan, tmp_path, "track: [wandb]") == []
    folders = list((run.storage.local("track") / "wandb").glob("offline-run-*"))
    assert len(folders) == 3, "two trials and the sweep"
    keys = {folder.name.rpartition("-")[2] for folder in folders}
    assert {trial.id.rpartition("-")[2] for trial in plan.trials[:2]} <= keys


def test_a_log_that_fails_is_left_out_and_said_and_the_others_go_on(planned, tmp_path, monkeypatch):
    run, plan = planned

    class Broken(loggers.Csv):
        def __init__(self, sweep, folder, *given):
            (folder / "broken").mkdir(parents=True)  # each log writes its own file in a thread of its own
            super().__init__(sweep, folder / "broken", *given)

        def on_progress(self, trial, progress):
            raise ConnectionError("no route to https://me:secretive@host/api")

    monkeypatch.setattr(loggers, "TensorBoard", Broken)
    said = followed(run, plan, tmp_path, "track: [tensorboard, csv]")
    assert said == [
        f"track: tensorboard is left out from here on: ConnectionError: no route to https://{HIDDEN}@host/api"
    ]
    assert len(run.storage.local("track/progress.csv").read_text().splitlines()) == 3


def test_a_log_that_cannot_be_kept_is_said_before_anything_runs(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(loggers, "PACKAGES", {**loggers.PACKAGES, "mlflow": "not_here_mlflow"})
    with pytest.raises(UserError) as error:
        loggers.check_loggers(("csv", "mlflow"), "how.yaml:7", remote=False)
    assert str(error.value) == (
        "how.yaml:7: track: mlflow needs the package not_here_mlflow; pip install -r requirements-track.txt"
    )
    monkeypatch.setattr(loggers, "PACKAGES", dict.fromkeys(loggers.PACKAGES, "csv"))
    with pytest.raises(UserError) as error:
        loggers.check_loggers(("mlflow", "wandb"), "how.yaml:7", remote=True)
    assert [problem.what for problem in error.value.problems] == [
        "track: mlflow needs MLFLOW_TRACKING_URI where the run folder is no local one",
        "track: wandb needs WANDB_API_KEY where the run folder is no local one",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("track: [mlflo]", "how.yaml:6: track: 'mlflo' is no known log; did you mean mlflow?"),
        ("track: {csv: true}", "how.yaml:6: track: must be a list of logs, e.g. [csv, tensorboard], not a mapping"),
    ],
)
def test_mistakes_in_the_spec_are_said_with_their_line(tmp_path, line, told):
    with pytest.raises(UserError) as error:
        spec_with(tmp_path, line)
    assert str(error.value) == f"{tmp_path}/{told}"


def test_what_is_tracked_renames_no_trial(tmp_path):
    plain, tracked = (open_sweep(spec_with(tmp_path, line)).plan for line in ("", "track: [tensorboard, csv]"))
    assert [trial.id for trial in plain] == [trial.id for trial in tracked]
    assert "track:\n- tensorboard\n- csv\n" in spec_with(tmp_path, "track: [tensorboard, csv]").resolved
    assert spec_with(tmp_path, "track: []").track == ()
