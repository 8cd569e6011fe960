"""Augmentations by name: what each does to an image, several of them, their one spelling; seeds decide all of it."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from error_lines import GOOD, error_lines
from torchvision.transforms import v2

from ray_robust.plan.plan import PoolFacts, make_plan
from ray_robust.spec.augmentation import AUGMENTATIONS, steps_of
from ray_robust.spec.load import Finetune, load_spec
from ray_robust.train.augmentation import augment

SEVERAL = "rotate90+strong+trivialaugment"
FACTS = PoolFacts("any", 5000, {"train": 100})


def noise(count: int, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def columns(count: int) -> torch.Tensor:
    """Images whose value says the column: uint8 [count, 32, 32, 3]."""
    return torch.arange(32, dtype=torch.uint8)[None, None, :, None].expand(count, 32, 32, 3)


def name_of(written: str) -> str:
    return Finetune(augment=written).augment


@pytest.mark.parametrize("name", [*AUGMENTATIONS, SEVERAL])
def test_shape_and_range_stay_and_the_seed_decides(name):
    images = noise(64)
    torch.manual_seed(1)
    first = augment(images, name)
    torch.manual_seed(1)
    assert torch.equal(augment(images, name), first)
    assert torch.equal(augment(images, name), first) == (name == "none")
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 255
    assert torch.equal(images, noise(64)), "the images themselves were changed"


def test_the_default_flips_half_of_the_images_and_shifts():
    assert Finetune().augment == "crop"
    torch.manual_seed(0)
    row = augment(columns(400), Finetune().augment)[:, 0, :, 0].to(torch.int64)
    mirrored = row[:, 16] < row[:, 15]
    assert 160 < int(mirrored.sum()) < 240
    middle = torch.where(mirrored, 31 - row[:, 16], row[:, 16]) - 16
    assert set(middle.tolist()) == set(range(-4, 5))


@pytest.mark.parametrize(
    "laid_out",
    [lambda: noise(200), lambda: noise(200, 15), lambda: noise(200).float(), lambda: noise(200).transpose(1, 2),
     lambda: noise(400)[::2], lambda: noise(200)[:, :, 3:], lambda: noise(400, 15)[1::2], lambda: noise(201, 15)[1:]],
)  # fmt: skip
@pytest.mark.parametrize(("name", "axis"), [("flip", 1), ("vflip", 0)])
def test_a_flip_is_along_one_axis_however_the_images_lie_in_memory(name, axis, laid_out):
    torch.manual_seed(0)
    images = laid_out()
    flipped = 0
    for before, after in zip(images, augment(images, name), strict=True):
        flipped += torch.equal(after, before.flip(axis))
        assert torch.equal(after, before) or torch.equal(after, before.flip(axis))
    assert 70 < flipped < 130


@pytest.mark.parametrize("as_float", [False, True])
def test_rotate90_draws_all_eight_symmetries_alike(as_float):
    torch.manual_seed(0)
    image = noise(1)[0].to(torch.float32 if as_float else torch.uint8)
    turns = [turned for k in range(4) for turned in (image.rot90(k), image.flip(1).rot90(k))]
    drawn = augment(image.expand(1600, -1, -1, -1), "rotate90")
    counts = [sum(torch.equal(one, turned) for one in drawn) for turned in turns]
    assert sum(counts) == 1600
    assert min(counts) > 150


@pytest.mark.parametrize(
    ("name", "transform"), [("randaugment", v2.RandAugment), ("trivialaugment", v2.TrivialAugmentWide)]
)
def test_a_policy_is_torchvisions_drawn_for_every_image_after_crop(name, transform):
    images, draw = noise(40), transform()
    torch.manual_seed(3)
    expected = [draw(image).permute(1, 2, 0) for image in augment(images, "crop").permute(0, 3, 1, 2)]
    torch.manual_seed(3)
    assert torch.equal(augment(images, name), torch.stack(expected))
    torch.manual_seed(3)
    assert len({tuple(one.flatten().tolist()) for one in augment(images[:1].expand(40, -1, -1, -1), name)}) > 30


@pytest.mark.parametrize(
    ("written", "meant", "steps"),
    [
        ("none", "none", ()),
        ("flip+crop", "crop", ("crop",)),
        (" crop + flip ", "crop", ("crop",)),
        ("vflip+flip", "flip+vflip", ("flip", "vflip")),
        ("crop+rotate90+vflip", "rotate90+crop", ("rotate90", "crop")),
        ("crop+trivialaugment", "trivialaugment", ("crop", "trivialaugment")),
        ("trivialaugment+rotate90", "rotate90+trivialaugment", ("rotate90", "crop", "trivialaugment")),
        ("randaugment+strong", "strong+randaugment", ("strong", "randaugment")),
        ("strong+crop+strong", "strong", ("strong",)),
    ],
)
def test_what_means_the_same_has_one_name(written, meant, steps):
    assert name_of(written) == meant == name_of(meant)
    assert steps_of(meant) == steps


def test_what_means_the_same_is_the_same_trial_and_the_default_names_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def ids(section: str, *names: str) -> set[tuple[str, ...]]:
        """Of pre-trainings and fine-tunings."""
        Path("x.yaml").write_text(GOOD)
        pools = type("Pools", (dict,), {"__missing__": lambda self, key: FACTS})()
        plans = [make_plan(load_spec("x.yaml", tuple(f"{section}.augment={n}" for n in [name] if n)), pools, pools)
                 for name in names]  # fmt: skip
        return {tuple(f"{t.key} {f.id}" for t in plan for f in t.finetunings) for plan in plans}

    for section in ("pretrain", "finetune"):
        assert len(ids(section, "", "crop", "flip+crop")) == 1
        assert len(ids(section, "", "rotate90", "vflip+rotate90", "trivialaugment", "crop+trivialaugment")) == 3


def test_a_wrong_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one_of = ("must be one of none, flip, vflip, rotate90, crop, strong, randaugment, trivialaugment, or some joined "
              "as in rotate90+crop, not")  # fmt: skip
    for written, shown in (("crops", "'crops'"), ("none+flip", "'none+flip'"), ("flip+", "'flip+'"), ("3", "3"), ('""', "''"), ("crop+rotate", "'crop+rotate'")):  # fmt: skip
        Path("x.yaml").write_text(GOOD.replace("{epochs: 2}", f"{{augment: {written}}}"))
        lines = error_lines("x.yaml", "--plan", "--out", "out", capsys=capsys)
        assert lines == [f"x.yaml:7: finetune.augment: {one_of} {shown}"]
