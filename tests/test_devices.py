"""What a plan takes on a card: what its steps ask for, the card's peaks, and the share of them that is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_robust import sweep
from ray_robust.errors import UserError
from ray_robust.plan.plan import Plan
from ray_robust.prepare import devices
from ray_robust.prepare.devices import DEVICES, SHARE, device_here, device_named, image_seconds, on_device
from ray_robust.prepare.estimate import Rate, estimate
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.work import open_work
from ray_robust.run import throughput
from ray_robust.spec.load import load_spec
from ray_robust.spec.run_sections import Resources
from ray_robust.spec.sections import ModelSection
from ray_robust.train.step_cost import step_cost

SMALL = ModelSection(name="test_resnet", image_size=32, precision="bf16")
GPU = Resources(gpus_per_worker=0.5, price=2.0)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_ROBUST_TIMING", "0")


@pytest.fixture(scope="module")
def work():
    spec = {"task": {"name": "camera-traps"}, "pretrain": {"sources": {"species": 1.0}, "num_images": 1000},
            "model": {"name": "test_resnet", "precision": "bf16"}, "finetune": {"epochs": 2}}  # fmt: skip
    return open_work(open_sweep(load_spec(spec)).plan, None)


def flops(cost):
    return sum(one for one, _ in cost.operations) / cost.images


def moved(cost):
    return sum(other for _, other in cost.operations) / cost.images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "multiplications"),  # of the forward pass at 224 px, as their papers and timm's tables give them
    [("resnet50", 4.1e9), ("mobilenetv2_100", 0.30e9), ("vit_tiny_patch16_224", 1.26e9)],
)
def test_flops_are_those_that_are_published(model, multiplications):
    """Two a multiplication, and three times as many in training; grouped convolutions too."""
    section = ModelSection(name=model, image_size=224, precision="bf16")
    assert flops(step_cost(section, 4, trained=False)) == pytest.approx(2 * multiplications, rel=0.04)
    assert flops(step_cost(section, 4)) == pytest.approx(6 * multiplications, rel=0.06)


def test_bytes_are_those_of_every_operation():
    whole, forward = step_cost(SMALL, 64), step_cost(SMALL, 64, trained=False)
    assert moved(whole) > 2 * moved(forward)
    wide = step_cost(SMALL.model_copy(update={"precision": "float32"}), 64)
    assert moved(wide) == pytest.approx(2 * moved(whole), rel=0.02)
    assert whole.optimizer_bytes > 0
    assert forward.optimizer_bytes == 0
    assert moved(step_cost(SMALL, 1024)) < moved(whole), "the weights are read once a step"


def test_a_card_takes_as_long_as_its_peaks_say():
    wide = SMALL.model_copy(update={"image_size": 128})
    times = {name: image_seconds(device, wide, 4096, True) for name, device in DEVICES.items()}
    assert times["h200"] < times["h100"] < times["a100"] < times["l4"]
    small, large = (image_seconds(DEVICES["h100"], SMALL, images, True) for images in (8, 4096))
    assert small > 20 * large, "each operation has to be issued, whatever it works on"


def test_hours_are_those_of_every_image(work):
    card = DEVICES["h100"]
    on = on_device(card, work, GPU)
    by_hand = 0.0
    for one in work:
        model = one.trial.model.model_copy(update={"compile": False})
        for stage in one.stages:
            by_hand += stage.images * image_seconds(card, model, stage.settings.batch_size, True)
            by_hand += stage.evaluated * image_seconds(card, model, 512, False)
    assert on.hours == pytest.approx(by_hand / SHARE / 3600)
    assert on.most == on.hours
    assert on_device(card, work, GPU, [*work, *work]).most == pytest.approx(2 * on.hours)
    assert "at 50 % of them, which is assumed: it may be half or twice as many hours; " in on.source
    assert on.source.endswith("; decoding is not counted")


def test_a_share_that_was_measured_here_is_taken(work, monkeypatch):
    """On the very card that it was measured on, hours are those of the measured rate."""
    monkeypatch.setattr(devices, "device_here", lambda: DEVICES["a100"])
    monkeypatch.setattr(devices, "prior_rate", lambda resources: lambda trial, stage: Rate(5000.0))
    on = on_device(DEVICES["a100"], work, GPU)
    seconds = sum(Rate(5000.0).seconds(stage) for one in work for stage in one.stages)
    assert on.hours == pytest.approx(0.5 * seconds / 3600)
    assert 0 < on.measured < 1
    assert "which the GPU here was measured to reach of its own" in on.source
    assert on_device(DEVICES["h100"], work, GPU).hours <= on.hours
    assert on_device(DEVICES["a100"], work, Resources()).measured is None, "nothing runs on it"


@pytest.mark.parametrize(
    ("names", "card"),
    [
        (["NVIDIA H200"], "h200"), (["NVIDIA H100 80GB HBM3"] * 2, "h100"), (["NVIDIA A100-SXM4-80GB"], "a100"),
        (["NVIDIA L4"], "l4"), (["NVIDIA L40S"], "l40s"), (["NVIDIA A10"], "a10"), (["NVIDIA A10G"], None),
        (["NVIDIA GeForce RTX 4090"], "rtx4090"), (["NVIDIA H100 PCIe"], None), (["NVIDIA A100-SXM4-40GB"], None),
        (["NVIDIA L4", "NVIDIA H200"], None), ([], None),
    ],
)  # fmt: skip
def test_the_card_of_this_machine_is_known_by_what_its_driver_calls_it(names, card, tmp_path, monkeypatch):
    for i, name in enumerate(names):
        (tmp_path / f"0000:0{i}").mkdir()
        (tmp_path / f"0000:0{i}/information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 12\n")
    monkeypatch.setattr(devices, "GPUS", tmp_path)
    assert device_here() == (DEVICES[card] if card else None)


@pytest.mark.parametrize("text", ["h100", "H100", "RTX 4090", "rtx-4090"])
def test_cards_by_name(text):
    assert device_named(text).name == text.upper().replace("-", " ")


def test_mistakes_are_one_line():
    with pytest.raises(UserError) as error:
        sweep.main(["sweeps/quickstart.yaml", "--plan", "--on", "h10"])
    assert str(error.value) == "--on: 'h10' is no card that is known; did you mean h100?"
    with pytest.raises(UserError, match="'foo' is no card that is known; known: a10, a100, h100, h200, l4,"):
        device_named("foo")
    with pytest.raises(UserError) as error:
        image_seconds(DEVICES["h100"], ModelSection(name="vit_tiny_patch16_224", image_size=8), 4, True)
    assert str(error.value).startswith("--on: model vit_tiny_patch16_224 cannot be built for 8 px: ")
    with pytest.raises(UserError, match=r"^--on: is for --plan$"):
        sweep.main(["sweeps/quickstart.yaml", "--on", "h100"])


# --- what a plan prints


def printed(capsys, *words: str) -> list[str]:
    sweep.main([str(Path(__file__).parents[1] / "sweeps/quickstart.yaml"), "--plan", *words])
    return [line for line in capsys.readouterr().out.splitlines() if line[:4] in ("time", "cost")]


def test_a_plan_tells_the_hours_of_a_card_in_place_of_the_time_here(capsys):
    (line,) = printed(capsys, "--on", "h100", "--set", "resources.price=2.5")
    assert line.startswith("cost  about 0.0")
    assert " H100-hours, " in line
    assert " at 2.5 an hour: from the FLOPs and bytes of every step over the card's peaks (990 TFLOPS in" in line


def test_of_a_machine_without_a_gpu_the_price_is_of_its_hours(capsys):
    throughput.record_rate("test_resnet-32px-cpu", 4000.0)
    throughput.record_rate("test_byobnet-32px-cpu", 4000.0)
    assert [line[:4] for line in printed(capsys)] == ["time"]
    time_line, cost = printed(capsys, "--set", "resources.price=2.5")
    assert time_line.startswith("time  about ")
    assert " hours of this machine, " in cost
    assert cost.endswith(" at 2.5 an hour, from the same rates")


def test_gpu_hours_are_those_of_all_gpus_together(work, monkeypatch):
    for workers in (1, 2):
        throughput.record_rate(throughput.group_key("test_resnet-32px-gpu", workers), 1000.0)  # images of each worker
    seconds = sum(Rate(1000.0).seconds(stage) for one in work for stage in one.stages)
    pair = GPU.model_copy(update={"gpus_per_worker": 1.0, "workers": 2})
    for resources, gpus in ((GPU, 0.5), (pair, 2.0)):
        hours, most = estimate(work, resources).gpu_hours
        assert hours == most == pytest.approx(gpus * seconds / resources.workers / 3600)
    text = estimate(work, GPU).cost(2.0)
    assert text == f"about {0.5 * seconds / 3600:.2g} GPU-hours, {seconds / 3600:.2g} at 2 an hour, from the same rates"
    assert estimate(work, Resources()).cost(None) == ""
    assert estimate(open_work(Plan(()), None), GPU).gpu_hours == (0.0, 0.0)
