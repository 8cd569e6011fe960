"""A sweep whose results are in an object store that fails: twelve trials on a real S3 server, of whose requests one in
twenty fails, and which is away for twenty seconds in the middle. TensorBoard's own reader reads what it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import make_s3
import pandas as pd
import pytest
from deadlines import HANG, wait_for
from soak import SAME, Command, Hooks

from ray_robust.launch.monitor.loggers import POINT
from ray_robust.run.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRIALS = 12
AWAY = 20.0  # seconds
SPEC = """
# Question: Does a store that fails cost anything?
task: {name: camera-traps, train_images: 200, id_val_images: 60, id_test_images: 100, ood_val_images: 60,
       ood_test_images: 100}
pretrain: {sources: {species: 1.0}, num_images: {grid: [200, 300]}, images_seen: 600}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
seeds: 4
track: [csv, tensorboard]
"""


class Sweep:
    """The sweep in a run folder at an address, and how many training images all of its processes worked through."""

    def __init__(self, spec: Path, home: Path, out: str, settings: tuple[str, ...] = ()) -> None:
        self.command = Command(str(spec), home, list(settings))
        self.hooks = Hooks(home.with_name(f"{home.name}-hooks"))
        self.command.words[self.command.words.index("--out") + 1] = out

    def start(self):
        with self.hooks.inside():
            return self.command.start()


def table(data: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(data))[SAME]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Sweep:
    folder = tmp_path_factory.mktemp("local")
    (folder / "s3.yaml").write_text(SPEC)
    sweep = Sweep(folder / "s3.yaml", folder / "home", str(folder / "runs/run"))
    assert sweep.start().wait(timeout=HANG) == 0, sweep.command.log()
    return sweep


@pytest.fixture(scope="module")
def server() -> Iterator[make_s3.Server]:
    with make_s3.serving() as server, mock.patch.dict("os.environ", server.environment):
        server.make_bucket("bucket")
        yield server


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard's own reader finds in the event files of a trial, by tag and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def compare_with_results(folder: Path, results: pd.DataFrame) -> int:
    """Compare the points in TensorBoard's files with the results; return how many were compared."""
    count = 0
    for trial, rows in results.groupby("trial"):
        values = scalars(folder / str(trial))
        assert any(tag == "finetune/images_per_second" for tag, _ in values), trial
        for row in rows.to_dict("records"):
            for key in POINT:
                assert values[f"{row['finetune']}/{key}", row["step"]] == pytest.approx(row[key], rel=1e-6)
                count += 1
    assert count
    return count


def test_a_sweep_in_a_store_that_fails_ends_as_on_a_disk(reference, server, tmp_path, capsys):
    server.set(every=20)
    sweep = Sweep(Path(reference.command.spec), tmp_path / "home", "s3://bucket/runs/run")
    driver = sweep.start()
    wait_for(lambda: driver.poll() is not None or "[5/12]" in sweep.command.log())
    assert driver.poll() is None, sweep.command.log()
    server.set(away=AWAY)
    assert driver.wait(timeout=HANG) == 0, sweep.command.log()
    counts = server.set(every=0)
    with capsys.disabled():
        print(f"\n{counts}")
    assert counts["failed"] - counts["failed away"] > counts["requests"] / 40
    assert counts["failed away"] > 0
    assert "Traceback" not in sweep.command.log()
    there = RunFolder("s3://bucket/runs/run")
    assert list(there.states().values()) == ["done"] * TRIALS
    local = Path(reference.command.words[reference.command.words.index("--out") + 1])
    expected, data = table((local / "results.csv").read_bytes()), there.read_bytes("results.csv")
    assert data is not None
    assert table(data).equals(expected)
    assert sweep.hooks.worked() == reference.hooks.worked(), "something was trained twice"
    assert there.exists("report/index.html")
    # the same command has nothing left to do
    assert sweep.start().wait(timeout=HANG) == 0, sweep.command.log()
    assert f"{TRIALS} of {TRIALS} trials are done" in sweep.command.log()
    assert sweep.hooks.worked() == reference.hooks.worked()
    # TensorBoard reads what was copied there
    for name in there.storage.names("track/tensorboard"):
        for file in there.storage.names(f"track/tensorboard/{name}"):
            copy = tmp_path / "copy" / name / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(there.read_bytes(f"track/tensorboard/{name}/{file}") or b"")
    results = pd.read_csv(io.BytesIO(data))
    assert compare_with_results(tmp_path / "copy", results) == len(results) * len(POINT)


OFTEN = {"ray_robust.launch.monitor.interim_reports": {"SHARE": 1e6, "NEAR": 0.0}}  # a report after every trial


def test_a_run_in_a_store_is_followed_and_its_report_written_while_it_runs(reference, server, tmp_path):
    """By `status --follow` in another process, which sees it by its address alone, through failures and an outage."""
    server.set(every=20)
    address = "s3://bucket/runs/followed"
    sweep = Sweep(Path(reference.command.spec), tmp_path / "home", address, ("seeds=2",))
    (sweep.hooks.home / "settings.json").write_text(json.dumps(OFTEN))
    driver, run = sweep.start(), RunFolder(address)
    wait_for(lambda: driver.poll() is not None or run.exists("progress.json"))
    assert driver.poll() is None, sweep.command.log()
    words = [sys.executable, "-m", "ray_robust.status", address, "--follow", "--interval", "0.5"]
    with contextlib.ExitStack() as stack:
        follower = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        stack.enter_context(follower)
        stack.callback(follower.kill)
        pages = []

        def page_of_running_sweep() -> bool:
            page = (run.storage.read("report/index.html") or b"").decode()
            if 'class="interim"' in page and 'class="reload"' in page:
                pages.append(page)
            return bool(pages) or driver.poll() is not None

        wait_for(lambda: "[1/6]" in sweep.command.log() or driver.poll() is not None)
        with sweep.hooks.trainings_held():  # however long a report takes here
            wait_for(page_of_running_sweep)
        assert pages, sweep.command.log()
        assert f"python -m ray_robust.status {address}" in pages[0]
        server.set(away=AWAY / 2)
        assert driver.wait(timeout=HANG) == 0, sweep.command.log()
        seen, _ = follower.communicate(timeout=HANG)
    server.set(every=0)
    lines = seen.splitlines()
    assert follower.returncode == 0, seen
    assert lines[-1] == "ended    the run is done: 6 done"
    assert {line.split("]")[0] for line in lines if line.startswith("[")} >= {"[5/6", "[6/6"}
    assert "no report while it runs" not in sweep.command.log()
    last = (run.storage.read("report/index.html") or b"").decode()
    assert 'class="interim"' not in last
    assert run.storage.names("report/interim") == []


def test_tensorboard_reads_the_points_of_a_local_run(reference):
    local = Path(reference.command.words[reference.command.words.index("--out") + 1])
    results = pd.read_csv(local / "results.csv")
    assert compare_with_results(local / "track/tensorboard", results) == len(results) * len(POINT)
