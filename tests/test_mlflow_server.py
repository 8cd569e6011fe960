"""`track: [mlflow]` with MLflow's own server behind it: what arrives, and that its absence costs the sweep nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import make_mlflow
import pytest
from deadlines import HANG, wait_for

from ray_robust.launch.monitor import loggers
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec
from ray_robust.status.progress import ErSoFar
from tests import test_monitor

pytestmark = pytest.mark.slow
pytest.importorskip("mlflow")
SECRET = "secretive"
SPEC = test_monitor.SPEC + "track: [mlflow, csv]\n"
PROGRESS = {"stage": "finetune", "epoch": 1.5, "epochs": 3, "images_per_second": 2500.0, "id": 0.25, "ood": 0.125,
            "share": 0.5}  # fmt: skip
ER = ErSoFar({("camera-traps", "num_images=400"): 3.5})


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> tuple[Spec, Plan, RunFolder]:
    monkeypatch.setattr(loggers, "PATIENCE", HANG)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")  # 7 minutes, for a server that starts slowly
    (tmp_path / "how.yaml").write_text(SPEC)
    spec = load_spec(tmp_path / "how.yaml")
    return spec, open_sweep(spec).plan, RunFolder(tmp_path / "run")


@pytest.fixture
def server(tmp_path) -> Iterator[make_mlflow.Server]:
    with make_mlflow.serving(tmp_path) as server:
        yield server


def progress(images: int) -> dict:
    return {**PROGRESS, "images": images, "time": time.time()}


def rows(trial, value: float) -> list[dict]:
    return [{"finetune": f.id, "step": step, **dict.fromkeys(loggers.POINT, value + step)}
            for f in trial.finetunings for step in (3, 6)]  # fmt: skip


def runs_of(server: make_mlflow.Server) -> dict:
    """The runs that the server has, by trial."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("how")
    runs = client.search_runs([experiment.experiment_id]) if experiment else ()
    return {one.data.tags["trial"]: one for one in runs}


def test_all_arrives_though_the_server_is_away_in_the_middle(server, sweep, tmp_path, monkeypatch):
    """It goes while one trial runs, the next ends without it, and it comes back before the sweep ends."""
    from mlflow.tracking import MlflowClient

    spec, plan, run = sweep
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("://", f"://me:{SECRET}@"))
    warnings: list[str] = []
    logs = loggers.open_loggers(spec, run, plan, tmp_path / "scratch", warnings.append)
    first, second, third = plan
    logs.on_progress(first.id, progress(6000))
    logs.on_end(first.id, "done", rows(first, 0.5))
    logs.on_progress(second.id, progress(1000))
    wait_for(lambda: second.id in runs_of(server), 0.5)
    server.stop()
    logs.on_progress(second.id, progress(2000))
    logs.on_end(second.id, "done", rows(second, 0.25))
    logs.on_progress(third.id, progress(3000))
    server.start()
    logs.on_end(third.id, "failed", ())
    logs.close(lambda: ER)
    assert warnings == []
    client, runs = MlflowClient(server.url), runs_of(server)
    assert set(runs) == {first.id, second.id, third.id, "sweep"}
    assert {name: one.info.status for name, one in runs.items()} == {
        first.id: "FINISHED", second.id: "FINISHED", third.id: "FAILED", "sweep": "FINISHED"}  # fmt: skip
    assert {name: one.data.tags.get("state") for name, one in runs.items() if name != "sweep"} == {
        first.id: "done", second.id: "done", third.id: "failed"}  # fmt: skip
    for trial, value in ((first, 0.5), (second, 0.25)):
        one = runs[trial.id]
        assert one.data.params == {k: str(v)[:500] for k, v in loggers._facts(trial).items()}
        for row in rows(trial, value):
            for key in loggers.POINT:
                history = client.get_metric_history(one.info.run_id, f"{row['finetune']}/{key}")
                assert {point.step: point.value for point in history} == {3: value + 3, 6: value + 6}
    history = client.get_metric_history(runs[second.id].info.run_id, "finetune/id")
    assert {point.step: point.value for point in history} == {1000: 0.25, 2000: 0.25}
    assert runs["sweep"].data.metrics == {"er/camera-traps/num_images_400": 3.5}
    with sqlite3.connect(server.database) as database:
        assert SECRET not in "\n".join(database.iterdump())


def test_a_server_that_never_answers_costs_that_log_alone(sweep, tmp_path, monkeypatch):
    """From the beginning, with a key in its address; the sweep hears of it in one line."""
    spec, plan, run = sweep
    absent = make_mlflow.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", absent.url.replace("://", f"://me:{SECRET}@"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    warnings: list[str] = []
    logs = loggers.open_loggers(spec, run, plan, tmp_path / "scratch", warnings.append)
    for trial in plan:
        logs.on_progress(trial.id, progress(6000))
        logs.on_end(trial.id, "done", rows(trial, 0.5))
    logs.close(lambda: ER)
    (line,) = warnings
    assert line.startswith("track: mlflow is left out from here on: MlflowException: ")
    assert "\n" not in line
    assert SECRET not in line
    assert len(Path(run.storage.address, "track/progress.csv").read_text().splitlines()) == 4
