"""How images are stored where a spec leaves it open: by the room that there is, chosen once for a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_compact import tree

from ray_robust import sweep as command
from ray_robust.data import opened
from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.pool import SPLITS
from ray_robust.errors import Damaged
from ray_robust.prepare import stored_form
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

SPEC = """
task: {name: folder, path: %s, metric: accuracy}
model: {image_size: 32}
pretrain: {sources: {pictures: {kind: folder, path: %s}}, epochs: 2}
finetune: {epochs: 2}
"""
WHOLE = (24 + 5 * 12) * 32 * 32 * 3  # bytes of all images, decoded


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    opened.forget_pools()
    for split in SPLITS:
        tree(tmp_path / "task" / split, 12)
    tree(tmp_path / "images", 24)
    file = tmp_path / "x.yaml"
    file.write_text(SPEC % (tmp_path / "task", tmp_path / "images"))
    return file


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch):
    """Sets what disk and memory have, in parts of what all images take decoded."""

    def having(disk: float, memory: float) -> None:
        monkeypatch.setattr(stored_form, "_free_disk", lambda root: disk * WHOLE)
        monkeypatch.setattr(stored_form, "_memory", lambda: memory * WHOLE)

    return having


def keys(sweep: Sweep) -> list[str]:
    return [trial.key for trial in sweep.plan]


def opened_with(spec: Path, *settings: str, **more) -> Sweep:
    return open_sweep(load_spec(spec, settings), **more)


@pytest.mark.parametrize(
    ("disk", "memory", "lacks"),
    [(2, 2, ""), (1, 2, "free disk"), (2, 1, "memory"), (1, 1, "free disk and 0 GB of memory")],
)
def test_images_are_decoded_where_disk_and_memory_have_room_else_compact(spec, room, disk, memory, lacks):
    room(disk, memory)
    sweep = opened_with(spec)
    notes = [note for note in sweep.notes if note.startswith("store")]
    assert sweep.form.compact == bool(lacks)
    assert notes == ([f"store: compact, since {sweep.form.why}"] if lacks else [])
    assert f"would not fit into 0 GB of {lacks} here;" in sweep.form.why or not lacks
    assert keys(sweep) == keys(opened_with(spec, f"model.store={'compact' if lacks else 'raw'}"))
    assert (keys(sweep) != keys(opened_with(spec, "model.store=raw"))) == bool(lacks)
    assert keys(sweep.plan_of and sweep) == [trial.key for trial in sweep.plan_of(load_spec(spec))]


def test_what_is_said_is_done_whatever_the_room(spec, room):
    room(0, 0)
    assert not opened_with(spec, "model.store=raw").form.compact
    assert not opened_with(spec, "model.store=compact").form.compact  # nothing is open


def test_what_is_decoded_already_stays_so(spec, room):
    room(0.1, 0.1)
    sweep = opened_with(spec)
    assert sweep.form.compact
    for _, pool in sweep.pools():
        store = ImageStore.open(default_root(), pool, 32)
        store.fill(np.arange(store.n))
    assert not opened_with(spec).form.compact


def test_rendered_images_need_no_room(tmp_path, room):
    room(0, 0)
    file = tmp_path / "y.yaml"
    file.write_text("task: {name: camera-traps}\npretrain: {sources: {species: 1.0}}\nfinetune: {epochs: 1}\n")
    assert not opened_with(file).form.compact


def test_a_run_keeps_what_it_began_with(spec, room, tmp_path):
    run = RunFolder(str(tmp_path / "run"))
    assert stored_form.recorded(run) is None
    room(1, 1)
    began = opened_with(spec, form=stored_form.recorded(run))
    stored_form.record(run, began.form)
    assert json.loads((tmp_path / "run" / "store.json").read_text())["store"] == "compact"
    room(9, 9)
    assert keys(opened_with(spec, form=stored_form.recorded(run))) == keys(began) != keys(opened_with(spec))
    (tmp_path / "run" / "store.json").write_text("[]")
    with pytest.raises(Damaged):
        stored_form.recorded(run)
    other = RunFolder(str(tmp_path / "other"))
    stored_form.record(other, opened_with(spec).form)
    assert not (tmp_path / "other" / "store.json").exists()
    (tmp_path / "other" / "trials").mkdir(parents=True)  # also a run of before there was a choice
    room(0, 0)
    assert not opened_with(spec, form=stored_form.recorded(other)).form.compact


def test_a_plan_says_it(spec, room, capsys):
    room(0, 2)
    assert command.main([str(spec), "--plan"]) == 0
    out = capsys.readouterr().out
    assert "store: compact, since 0 GB of decoded images would not fit into 0 GB of free disk here; model.store " in out
    assert "model.store settles it for every machine (raw: decoded all the same)" in out
    assert "MB of images, stored compact, besides checkpoints and results" in out


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/job/step\n", {"job/memory.max": "3000000", "job/step/memory.max": "max"}, 3_000_000),
        ("0::/\n", {"memory.max": "5000000\n"}, 5_000_000),
        ("3:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4000000"}, 4_000_000),
        ("nonsense\n", {}, None),
        (None, {}, None),
    ],
)
def test_memory_is_what_a_container_or_a_job_may_use(tmp_path, own, files, wanted):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert stored_form._memory(tmp_path, tmp_path / "own") == (wanted or whole)
