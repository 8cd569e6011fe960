"""A plan says of a training that leaves many images out of its epochs how many these are, and what is better."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ray_robust.plan.plan import PoolFacts, make_plan
from ray_robust.prepare import left_out as module
from ray_robust.prepare.left_out import left_out
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.plan_text import print_composition
from ray_robust.prepare.subsets import Subsets
from ray_robust.spec.load import Spec, load_spec

SPEC = """
task: {name: camera-traps}
pretrain: {sources: {species: 1}, num_images: 1000, batch_size: 100}
finetune: {epochs: 2, batch_size: 100}
"""
BEGIN = "batch_size: images that fill no batch are left out of every epoch: "


class Pools(dict):
    """Facts of any pool."""

    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 50_000, {"train": 200})


@pytest.fixture
def spec_of(tmp_path):
    def spec_of(*overrides: str) -> Spec:
        (tmp_path / "x.yaml").write_text(SPEC)
        return load_spec(tmp_path / "x.yaml", overrides)

    return spec_of


def notes(spec: Spec) -> list[str]:
    return left_out(spec, make_plan(spec, Pools(), Pools()))


def test_whole_batches_and_little_left_out_are_no_note(spec_of):
    assert notes(spec_of()) == []
    assert notes(spec_of("finetune.batch_size=95")) == []  # 5 %
    assert notes(spec_of("finetune.batch_size=500")) == []  # a batch is at most all images


def test_a_fine_tuning_that_leaves_out_much_is_a_note_of_the_key_that_decides(spec_of):
    said = BEGIN + "36 % of 200 with 128 (batch_size: 100 leaves out 0 %)"
    assert notes(spec_of("finetune.batch_size=128")) == [f"finetune.{said}"]  # with the baseline, which has it too
    assert notes(spec_of("baseline.finetune={batch_size: 128}")) == [f"baseline.finetune.{said}"]
    several = notes(spec_of("finetune.batch_size={grid: [101, 110, 120, 128, 60]}"))
    assert several == [f"finetune.{BEGIN}50 % of 200 with 101 (batch_size: 100 leaves out 0 %); 45 % of 200 with 110 "
                       "(batch_size: 100 leaves out 0 %); 40 % of 200 with 120 (batch_size: 100 leaves out 0 %); "
                       "and 1 more"]  # fmt: skip


def test_a_pre_training_is_a_note_where_epochs_are_its_length(spec_of):
    often = ("pretrain.batch_size=300", "pretrain.num_images=550", "pretrain.epochs=10")
    (said,) = notes(spec_of(*often))
    assert said == f"pretrain.{BEGIN}45 % of 550 with 300 (batch_size: 275 leaves out 0 %)"
    (fewer,) = notes(spec_of(*often, "pretrain.min_images_seen=4000"))  # 13 batches in place of 10
    assert "29 % of 550 with 300" in fewer
    assert notes(spec_of(*often, "pretrain.min_images_seen=5500")) == []
    assert notes(spec_of(*often[:2], "pretrain.images_seen=5500")) == []


@pytest.mark.parametrize("images", [3, 5, 12, 23, 59])
def test_the_size_that_is_named_leaves_out_less(images, spec_of, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 100)
    sizes = list(range(2, images))
    (said,) = notes(spec_of(f"finetune={{num_images: {images}, batch_size: {{grid: {sizes}}}}}"))
    told = re.findall(r"with (\d+) \(batch_size: (\d+) leaves", said)
    assert len(told) == sum(images % size > images / 10 for size in sizes) > 0
    assert all(int(better) > 1 and images % int(better) < images % int(size) for size, better in told)


def test_the_plan_and_the_start_of_a_sweep_print_it(spec_of):
    spec, out = spec_of("finetune.batch_size=128"), Console(file=io.StringIO(), width=200)
    print_composition(out, Sweep(spec, {}, {}, make_plan(spec, Pools(), Pools())), Subsets())
    assert "finetune.batch_size: images that fill no batch are left out of every epoch: 36 % of" in out.file.getvalue()
