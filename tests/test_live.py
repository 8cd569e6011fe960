"""What is done to a sweep's folders while it runs, seen from inside one process: removed, moved behind a link, out of
inodes. Each ends with the scores of an undisturbed run, or with one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_disk import mounted
from test_store import Drawn
from test_trial import brief, scores_of  # noqa: F401 - brief is a fixture

from ray_robust import ingest
from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import images_of, open_store, usable
from ray_robust.errors import Damaged, Outage, UserError
from ray_robust.files.disk_room import blocking_part, no_room
from ray_robust.files.storage import Storage
from ray_robust.launch.cluster.connect import connect
from ray_robust.launch.failures.recovery import REMOVED, Recovery
from ray_robust.plan.plan import Trial
from ray_robust.run import throughput
from ray_robust.run.lease import hold_lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.status import __main__ as status
from ray_robust.train.context import Context
from ray_robust.trial.datasets import kept_splits
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial

ROWS = np.arange(50)


def pixels(store: ImageStore, rows: np.ndarray = ROWS) -> list[int]:
    """What is in these images of `Drawn`: of each its own number."""
    return images_of(store, rows)[0][:, 0, 0, 0].tolist()


def point_to(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


# --- a store that is removed or moved under the processes that read it


def all_of(store: ImageStore) -> None:
    shutil.rmtree(store.folder, ignore_errors=True)  # a file that is written meanwhile may stay


def root_of(store: ImageStore) -> None:
    shutil.rmtree(store.root, ignore_errors=True)


def one(name: str) -> Callable[[ImageStore], None]:
    return lambda store: (store.folder / name).unlink()


REMOVALS = {"folder": all_of, "root": root_of, **{name: one(name) for name in ("pixels.u8", "log.records", "lock")}}


@pytest.mark.parametrize("what", REMOVALS)
def test_a_store_that_is_removed_while_it_is_read_is_filled_again(tmp_path, what):
    store = ImageStore.open(tmp_path / "store", Drawn(), 4)
    assert pixels(store) == ROWS.tolist()
    REMOVALS[what](store)
    assert pixels(store) == ROWS.tolist()
    assert pixels(ImageStore.open(tmp_path / "store", Drawn(), 4)) == ROWS.tolist()
    assert store.verify().tolist() == []


@pytest.mark.parametrize("what", REMOVALS)
def test_a_store_that_is_removed_while_it_is_filled_is_whole_all_the_same(tmp_path, monkeypatch, what):
    monkeypatch.setattr("ray_robust.data.images.store.BATCH_IMAGES", 10)
    store, pool = ImageStore.open(tmp_path / "store", Drawn(), 4), []

    def remove(done: int) -> None:
        pool.append(done)
        if len(pool) == 3:
            REMOVALS[what](store)

    store.fill(ROWS, remove)
    assert pixels(store) == ROWS.tolist()
    assert store.verify().tolist() == []


def test_images_that_went_with_their_store_never_pass_for_broken_ones(tmp_path):
    pool = Drawn(bad=(9,))
    pool.rendered = False
    store = ImageStore.open(tmp_path / "store", pool, 4)
    store.fill(ROWS)
    all_of(store)
    mask = usable(store)
    assert mask is not None
    assert np.flatnonzero(~mask).tolist() == [9]


def test_a_store_that_is_removed_again_and_again_is_an_outage(tmp_path, monkeypatch):
    store = ImageStore.open(tmp_path / "store", Drawn(), 4)
    fill = store.fill
    monkeypatch.setattr(store, "fill", lambda rows: (fill(rows), all_of(store)))
    with pytest.raises(Outage, match=r"its images are removed as they are written; leave the store alone, then run"):
        images_of(store, ROWS)


def test_a_store_behind_a_link_that_leads_elsewhere_now_is_filled_there(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    point_to(tmp_path / "store", tmp_path / "first")
    store = ImageStore.open(tmp_path / "store", Drawn(), 4)
    assert pixels(store) == ROWS.tolist()
    point_to(tmp_path / "store", tmp_path / "second")
    assert pixels(store) == ROWS.tolist()
    for name in ("first", "second"):
        assert pixels(ImageStore.open(tmp_path / name, Drawn(), 4)) == ROWS.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS, ROWS[:30]], ids=["as many", "fewer"])
def test_a_link_that_leads_to_another_store_now_gives_the_images_of_that_one(tmp_path, rows):
    """Its log is longer, and says other slots: what was read of the first must not be mixed with it."""
    for name, order in (("first", rows), ("second", ROWS[::-1])):
        for row in order:
            ImageStore.open(tmp_path / name, Drawn(), 4).fill(np.array([row]))
    point_to(tmp_path / "store", tmp_path / "first")
    store = ImageStore.open(tmp_path / "store", Drawn(), 4)
    assert pixels(store) == ROWS.tolist()
    shutil.rmtree(tmp_path / "second")
    for row in ROWS[::-1]:
        ImageStore.open(tmp_path / "second", Drawn(), 4).fill(np.array([row]))
    point_to(tmp_path / "store", tmp_path / "second")
    assert pixels(store) == ROWS.tolist()
    images, where = store.mapped(ROWS)
    assert images[where][:, 0, 0, 0].tolist() == ROWS.tolist()


# --- links that lead nowhere or in a circle


@pytest.fixture(params=["nowhere", "circle"])
def link(request, tmp_path) -> tuple[Path, str]:
    """A link in the place of a folder, and what is said of it."""
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "gone" if request.param == "nowhere" else path)
    return path, "is a link to .*/gone, which is not there" if request.param == "nowhere" else (
        "is a link that leads in a circle")  # fmt: skip


def test_a_store_behind_a_link_that_leads_nowhere_is_a_line(link):
    path, said = link
    with pytest.raises(UserError, match=rf"^{path}: {said}; mend it, or name another folder in RAY_ROBUST_STORE$"):
        ImageStore.open(path, Drawn(), 4)
    with pytest.raises(UserError, match=rf"^{path}: {said}; mend it, or name another folder in RAY_ROBUST_STORE$"):
        ingest.main(["species", "--limit", "3", "--out", str(path)])


def test_a_store_whose_link_leads_nowhere_from_now_on_is_a_line(tmp_path):
    (tmp_path / "first").mkdir()
    point_to(tmp_path / "store", tmp_path / "first")
    store = ImageStore.open(tmp_path / "store", Drawn(), 4)
    assert pixels(store, ROWS[:30]) == ROWS[:30].tolist()
    point_to(tmp_path / "store", tmp_path / "gone")
    with pytest.raises(UserError, match=r"^.*/store: is a link to .*/gone, which is not there; mend it, or name"):
        images_of(store, ROWS)
    point_to(tmp_path / "store", tmp_path / "first")
    assert pixels(store) == ROWS.tolist()


def test_a_cache_that_cannot_be_written_costs_the_estimate_alone(link, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(link[0]))
    throughput.record_rate("a", 3.0)
    assert throughput.measured_rate("a") is None


def test_a_run_folder_behind_a_link_that_leads_nowhere_is_a_line(link):
    path, said = link
    with pytest.raises(UserError, match=rf"^--out .*: cannot be written: .* {said}$"), hold_lease(Storage(path)):
        pass
    with pytest.raises(Damaged, match=rf"{said}; remove it, then run the same command again$"):
        Storage(path / "trials").write("x/rows.jsonl", "")
    with pytest.raises(UserError):  # no run there
        status.main([str(path)])


def test_a_run_folder_behind_a_link_is_one(tmp_path):
    (tmp_path / "disk").mkdir()
    point_to(tmp_path / "run", tmp_path / "disk")
    with hold_lease(Storage(tmp_path / "run")):
        RunFolder(tmp_path / "run").write("data.json", "{}")
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "data.json").read_text() == "{}"


def test_what_is_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "to-file").symlink_to("file")
    assert blocking_part(tmp_path / "a" / "b") is None
    assert blocking_part(tmp_path) is None
    assert blocking_part(tmp_path / "file" / "b") == (tmp_path / "file", "is a file, where a folder belongs")
    assert blocking_part(tmp_path / "to-file") == (tmp_path / "to-file", "is a file, where a folder belongs")


# --- no inodes left


@pytest.fixture
def few_inodes(tmp_path):
    """A file system with room and 40 inodes, and a function that gives it more; skipped where one may not mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "nr_inodes=40,size=50m", "nr_inodes=9000") as more:
        yield disk, more


def use_up(disk: Path, left: int = 0) -> None:
    """Leave so many inodes."""
    (disk / "used").mkdir(exist_ok=True)
    while (free := os.statvfs(disk).f_favail) > left:
        (disk / "used" / f"{free}").touch()


INODES = r"the disk has no inodes left \(see df -i\); remove files"


def test_a_disk_without_inodes_is_a_line_everywhere(few_inodes, monkeypatch):
    disk, more = few_inodes
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(disk / "cache"))
    Storage(disk).write("old", "old")
    store = ImageStore.open(disk / "store", Drawn(), 4)
    use_up(disk)
    for name in ("new", "old", "x/new"):
        with pytest.raises(
            Outage, match=rf"^.*/{name}: {INODES}, then run the same command again: what is done is kept$"
        ):
            Storage(disk).write(name, "new")
    assert Storage(disk).read("old") == b"old"
    with (
        pytest.raises(UserError, match=rf"^--out .*/run: cannot be written: {INODES}$"),
        hold_lease(Storage(disk / "run")),
    ):
        pass
    with pytest.raises(UserError, match=rf"{INODES} or name another folder in RAY_ROBUST_STORE$"):
        ImageStore.open(disk / "other", Drawn(), 4)
    assert pixels(store) == ROWS.tolist()  # its files are there: it needs none
    throughput.record_rate("a", 3.0)
    monkeypatch.setattr(
        "ray_robust.launch.cluster.connect.folder_for_sockets", lambda: (disk, "")
    )  # its path is too long
    with pytest.raises(Outage, match=rf"^{disk}: {INODES}, or set RAY_TMPDIR to another folder for Ray's"), connect():
        pass
    more()
    Storage(disk).write("old", "new")
    assert Storage(disk).read("old") == b"new"


def test_the_system_that_has_no_number_for_it_is_asked(tmp_path, monkeypatch):
    disk = {"f_files": 100, "f_favail": 0, "f_bavail": 5}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Disk", (), disk))
    assert no_room(tmp_path / "a" / "b").startswith("the disk has no inodes left")
    disk["f_bavail"] = 0
    assert no_room(tmp_path) == "the disk is full; free some room"
    disk |= {"f_files": 0, "f_bavail": 5}  # btrfs counts none
    assert no_room(tmp_path) == "the disk is full; free some room"
    assert no_room(None) == "the disk is full; free some room"


@pytest.mark.slow
def test_a_trial_without_inodes_goes_on_once_there_are_some(brief, few_inodes, monkeypatch):  # noqa: F811
    _, trial, paths = brief
    disk, more = few_inodes
    other = RunPaths(str(disk / "run"), str(disk / "checkpoints"), paths.store)
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    use_up(disk, 7)
    with pytest.raises(Outage, match=INODES):
        run_trial(trial, other, Context())
    more()
    run_trial(trial, other, Context())
    assert scores_of(other, trial) == scores_of(paths, trial)


# --- files that go while a trial runs


class Saboteur:
    """Does something to a trial's files when its log says a thing, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str, what: Callable[[], None]) -> None:
        from ray_robust.trial.trial_log import TrialLog

        self.done, write = False, TrialLog.write

        def watched(log: TrialLog, line: str) -> None:
            write(log, line)
            if when in line and not self.done:
                self.done = True
                what()

        monkeypatch.setattr(TrialLog, "write", watched)


def remove(path: str | Path) -> None:
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def run_until_done(trial: Trial, paths: RunPaths) -> list[str]:
    """Run a trial as the launcher does, again when it breaks off; returns why it did."""
    broke = []
    while not RunFolder(paths.run).trial(trial.id).is_done([f.id for f in trial.finetunings]):
        assert RunFolder(paths.run).trial(trial.id).failure() is None
        assert len(broke) < 4
        try:
            run_trial(trial, paths, Context())
        except OSError as error:
            broke.append(str(error))
    return broke


@pytest.mark.slow
@pytest.mark.parametrize("when", ["pre-trains on", "pre-trained in", "fine-tunes", "fine-tuned"])
@pytest.mark.parametrize("what", ["run", "run/trials/*", "checkpoints", "store"])
def test_files_that_go_under_a_trial_cost_time_alone(brief, tmp_path, monkeypatch, when, what):  # noqa: F811
    _, trial, whole = brief
    paths = RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))
    for cache in (kept_splits, open_store):
        cache.cache_clear()
    saboteur = Saboteur(monkeypatch, when, lambda: [remove(path) for path in tmp_path.glob(what)])
    run_until_done(trial, paths)
    assert saboteur.done
    assert scores_of(paths, trial) == scores_of(whole, trial)
    folder = RunFolder(paths.run).trial(trial.id)
    assert folder.damage() == ""
    left = {path.name for path in folder.storage.local().iterdir()}
    assert left >= {"trial.json", "subset.parquet", "rows.jsonl", "predictions", "groups", "finetunings", "done"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trial.json", "subset.parquet", "progress.json", "log.txt"])
def test_a_file_that_goes_under_a_trial_is_there_at_its_end(brief, tmp_path, monkeypatch, name):  # noqa: F811
    _, trial, whole = brief
    paths = RunPaths(str(tmp_path / "run"), whole.checkpoints, whole.store)
    Saboteur(monkeypatch, "fine-tuned", lambda: remove(next(tmp_path.glob(f"run/trials/*/{name}"))))
    assert run_until_done(trial, paths) == []
    assert scores_of(paths, trial) == scores_of(whole, trial)
    assert RunFolder(paths.run).trial(trial.id).storage.exists(name)


def test_a_trial_whose_folder_went_after_its_end_is_told_from_a_worker_that_died(tmp_path, brief):  # noqa: F811
    _, trial, _ = brief
    recovery = Recovery({trial.id: trial}, RunFolder(tmp_path))
    recovery.quarantine(trial.id)
    assert RunFolder(tmp_path).trial(trial.id).failure()["reason"] == "the worker ended without an error message"
    remove(tmp_path / "trials")
    recovery.ran.add(trial.id)
    recovery.quarantine(trial.id)
    assert RunFolder(tmp_path).trial(trial.id).failure()["reason"] == REMOVED


def test_a_file_whose_folder_goes_while_it_is_written_is_written(tmp_path, monkeypatch):
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / "trials")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    Storage(tmp_path).write("trials/x/rows.jsonl", "1")
    assert Storage(tmp_path).read("trials/x/rows.jsonl") == b"1"
    assert len(calls) == 2


def test_a_run_folder_that_goes_under_its_driver_lets_the_lease_go(tmp_path):
    with hold_lease(Storage(tmp_path / "run")):
        shutil.rmtree(tmp_path / "run")
    with hold_lease(Storage(tmp_path / "run")):
        assert (tmp_path / "run" / "lease.json").exists()


@pytest.mark.parametrize("deep", [True, False])
def test_what_killed_writers_left_half_written_goes_after_an_hour(tmp_path, deep):
    run = tmp_path / "run"
    files = [run / name for name in (".results.csv.1-2.part", "report/.index.html.1-2.part", "trials/x/.done.1-2.part")]
    for file in (*files, run / "report" / ".young.part", run / "report" / "mine.part"):
        Storage(file.parent).write(file.name, "")
    for file in (*files, run / "report" / "mine.part"):
        os.utime(file, (1, 1))
    Storage(run).tidy(deep=deep)
    assert [file.exists() for file in files] == [False, False, not deep]
    assert sorted(file.name for file in (run / "report").iterdir()) == [".young.part", "mine.part"]
