"""`bench.loaders`: every loader that is here yields every image once, as the model takes it; failures; ratios."""

from __future__ import annotations

import os

import pytest
import torch

from bench.loaders import __main__ as loaders
from bench.loaders import ours, rivals
from bench.loaders.data import BATCH, Data, make_pictures
from bench.loaders.measure import Epoch

COUNT, PX = BATCH + 6, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("loaders")
    data = Data(make_pictures(root / "pictures", COUNT), root, PX)
    data.store(compact=False)
    assert len(data.jpegs) == COUNT
    return data


@pytest.mark.slow
@pytest.mark.parametrize("make", [ours.Compact, ours.Raw, rivals.Torchvision, rivals.Timm])
def test_a_loader_yields_every_image_once_as_the_models_input(make, data, tmp_path):
    loader, folder = make(data), tmp_path / "its"
    folder.mkdir()
    loader.write(folder)
    for _ in range(2):
        batches = list(loader.epoch(1))
        assert [batch.shape for batch in batches] == [(BATCH, 3, PX, PX), (COUNT - BATCH, 3, PX, PX)]
        assert {batch.dtype for batch in batches} == {torch.float32}
        assert 0.5 < torch.cat(batches).std() < 2
    assert any(folder.iterdir())


class Broken:
    def __init__(self, data):
        raise ImportError("no such library\nand more")


class Ours(ours.Compact):
    def write(self, folder):
        (folder / "file").write_bytes(b"12345")


@pytest.mark.slow
def test_a_loader_that_fails_is_listed_with_its_error_and_costs_no_other(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "LOADERS", {loaders.OURS: (Ours, ""), "broken": (Broken, "no-such-package")})
    args = loaders.arguments(["--rounds", "1", "--cores", "1", "--seconds", "0", "--loaders", loaders.OURS, "broken"])
    bench = loaders.Bench(args.loaders, tmp_path)
    ids = [process.process.pid for process in bench.processes.values()]
    try:
        bench.measure(Data(data.pictures, tmp_path / "root", PX), args)
    finally:
        bench.end()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in ids)
    assert [row[:5] for row in bench.rows(PX)] == [(str(PX), loaders.OURS, "1", "0.00", "1.00")]
    assert bench.sizes == {(PX, loaders.OURS): 5}
    for (epoch,) in bench.epochs.values():
        assert (epoch.images, epoch.cpu > 0, epoch.wall > 0) == (COUNT, True, True)
    assert loaders.notes(loaders.versions(args.loaders), bench.failed) == [
        (loaders.OURS, "this project"),
        ("broken", "no-such-package is not installed: ImportError: no such library"),
    ]


def test_a_ratio_is_the_median_of_the_rounds_that_ran_side_by_side(tmp_path):
    bench = loaders.Bench([], tmp_path)
    mine, others, raw = (PX, loaders.OURS, 1, False), (PX, "other", 1, False), (PX, loaders.SHIFTED, 1, False)
    bench.epochs = {
        mine: [Epoch(100, 2.0, 1.0, 0), Epoch(100, 2.0, 2.0, 0), Epoch(100, 2.0, 4.0, 0)],
        others: [Epoch(100, 4.0, 3.0, 0), Epoch(200, 2.0, 8.0, 0), Epoch(100, 1.0, 4.0, 0)],
        raw: [Epoch(100, 1.0, 1.0, 0)],
    }
    bench.sizes = {(PX, loaders.OURS): 2_000_000, (PX, "other"): 4_000_000, (PX, loaders.SHIFTED): 1_000_000}
    assert (bench.over(others), bench.over(mine), bench.over(raw)) == (2.0, None, None)
    assert bench.rows(PX)[1] == (str(PX), "other", "1", "4.00", "0.50", "25", "", "2.00", "")
