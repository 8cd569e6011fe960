"""What is done to the folders of a running sweep, by mistake, and a worker that is stopped for longer than its
heartbeat: the command ends with a line where something is missing, the same command again with the same scores."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import HANG, wait_for
from soak import SAME, Command, FaultInjection, undisturbed

from ray_robust.run.checkpoint_paths import SHARED_WEIGHTS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
# Question: Do the files that a sweep needs come back?
task: {name: camera-traps, train_images: 400, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
pretrain: {sources: {species: 1.0}, num_images: {grid: [400, 600, 800]}, images_seen: 3840}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
baseline: none
resources: {finetunings_at_once: 1}
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Command:
    folder = tmp_path_factory.mktemp("live")
    (folder / "live.yaml").write_text(SPEC)
    return undisturbed(str(folder / "live.yaml"), folder / "reference", [])


def under(reference: Command, home: Path, what: Callable[[Command], None]) -> tuple[Command, int]:
    """The same sweep, to which `what` is done when its first trial is done; returns it and its exit code."""
    command = Command(reference.spec, home, [])
    driver = command.start()
    wait_for(lambda: driver.poll() is not None or list(command.out.glob("trials/*/done")))
    assert driver.poll() is None, command.log()
    what(command)
    return command, driver.wait(timeout=HANG)


def same(reference: Command, command: Command) -> bool:
    return bool(reference.table()[SAME].equals(command.table()[SAME]))


def gone(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def test_plan_store_cache_and_weights_that_go_are_made_again(reference, tmp_path):
    def remove(command: Command) -> None:
        gone(command.out / "plan.csv", command.out / "spec.yaml", command.home / "store", command.home / SHARED_WEIGHTS)
        if (command.home / "cache").exists():
            gone(command.home / "cache")

    command, code = under(reference, tmp_path / "home", remove)
    assert code == 0, command.log()
    assert same(reference, command)
    assert "Traceback" not in command.log()
    assert (command.out / "spec.yaml").exists()


@pytest.mark.parametrize("what", ["trials/*", ""], ids=["every trial, the finished one too", "the run folder"])
def test_trials_that_go_are_run_again_by_the_same_command(reference, tmp_path, what):
    def remove(command: Command) -> None:
        gone(*(command.out.glob(what) if what else [command.out]))

    command, code = under(reference, tmp_path / "home", remove)
    assert "Traceback" not in command.log()
    assert code == 1, command.log()
    assert "what it left was removed or altered while the sweep ran; the same command again runs what" in command.log()
    assert len(command.table()) > 0
    assert command.start().wait(timeout=HANG) == 0, command.log()
    assert same(reference, command)


def test_ray_s_own_folder_may_go(reference, tmp_path, monkeypatch):
    """Trials that run may end well, as nothing asks for the folder; no other can begin. None counts that did not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # for sockets
        monkeypatch.setenv("RAY_TMPDIR", short)
        command, code = under(reference, tmp_path / "home", lambda _: gone(*Path(short).glob("rr-*")))
        assert "Traceback" not in command.log()
        assert code in (0, 1), command.log()
        assert code == 0 or "quarantined" in command.log() or "the Ray cluster went away" in command.log()
        assert command.start().wait(timeout=HANG) == 0, command.log()
    assert same(reference, command)


def test_a_worker_stopped_past_its_heartbeat_disturbs_nothing_when_it_goes_on(reference, tmp_path):
    summary = FaultInjection(reference, tmp_path / "disturbed", "stop", 1).run(1)
    assert summary["same"], summary
    assert summary["kills"] == 1
    assert not summary["done_twice"]
