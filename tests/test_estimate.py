"""How long a plan takes and how long is left: rates of earlier runs, timed steps, what trials really took."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from ray_robust import sweep
from ray_robust.errors import DONE
from ray_robust.launch.monitor import image_progress as images
from ray_robust.launch.monitor.live_view import Snapshot, render
from ray_robust.launch.monitor.time_left import STARTING, TimeLeft
from ray_robust.prepare import estimate as times
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.stored_form import StoredForm
from ray_robust.prepare.work import OpenWork, open_work
from ray_robust.run import throughput
from ray_robust.run.throughput import EVALUATION_COST
from ray_robust.spec.load import load_spec
from ray_robust.text.durations import duration_range
from ray_robust.train import timing
from ray_robust.train.timing import Speed, TimedTraining, time_trainings

SPEC = """\
# Question: How long?
task: {name: camera-traps}
model: {name: test_resnet, image_size: 32}
pretrain: {sources: {species: 1.0}, num_images: {grid: [200, 400]}, images_seen: 4000}
finetune: {epochs: 3, batch_size: 64, lr: {grid: [1e-3, 3e-3]}}
seeds: 1
"""
KEY = "test_resnet-32px-cpu"


@pytest.fixture(autouse=True)
def _two_slots(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(times, "slots_here", lambda resources: 2)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def opened(tmp_path):
    file = tmp_path / "how.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file))


def test_trials_begin_as_soon_as_a_slot_is_free():
    assert times.makespan([3.0, 2.0, 2.0, 1.0], 2) == 4.0
    assert times.makespan([5.0], 2) == 5.0
    assert times.makespan([], 2) == 0.0


def test_a_rate_of_its_own_kind_comes_before_that_of_the_model(opened):
    trial, *_ = opened.plan
    pretraining, finetuning, _ = open_work(opened.plan, None)[0].stages
    assert times.measured_rate(opened.spec.resources)(trial, finetuning) is None
    throughput.record_rate(KEY, 100.0)
    throughput.record_rate(f"{KEY}/finetune-full", 50.0)
    rate = times.measured_rate(opened.spec.resources)
    assert rate(trial, pretraining).images == 100.0
    assert rate(trial, finetuning).images == 50.0
    assert rate(trial, finetuning).seconds(finetuning) == pytest.approx(
        (finetuning.images + EVALUATION_COST * finetuning.evaluated) / 50
    )


def test_a_compact_store_has_rates_of_its_own(opened, tmp_path):
    throughput.record_rate(KEY, 100.0)
    compact = open_sweep(load_spec(tmp_path / "how.yaml"), form=StoredForm(compact=True))
    decoded, stored = (next(iter(one.plan)) for one in (opened, compact))
    stage = open_work(opened.plan, None)[0].stages[0]
    rate = times.measured_rate(opened.spec.resources)
    assert (rate(decoded, stage).images, rate(stored, stage)) == (100.0, None)
    side = stored.model.stored_side
    throughput.record_rate(f"{stored.model.name}-{stored.model.image_size}px-jpeg{side}-cpu", 80.0)
    assert times.measured_rate(opened.spec.resources)(stored, stage).images == 80.0
    assert len(times.unknown_trainings([OpenWork(stored, (stage,))], opened.spec.resources)) == 0
    images = timing._stored_images(stored.model, 40, torch.device("cpu")).images
    assert (images.whole, images.size, len(images)) == (True, stored.model.image_size, 2 * timing.DRAWN)
    assert timing._stored_images(decoded.model, 40, torch.device("cpu")).images.whole is False


def test_an_estimate_counts_stages_slots_and_what_is_beside_them(opened):
    throughput.record_rate(KEY, 100.0)
    throughput.record_rate(throughput.OVERHEAD, 7.0)
    work = open_work(opened.plan, None)
    each = [sum(stage.cost for stage in one.stages) / 100 + times.PER_TRIAL for one in work]
    whole = times.estimate(work, opened.spec.resources, decoding=3.0)
    assert whole.seconds == pytest.approx(times.makespan(each, 2) + 7.0 + 3.0)
    assert whole.text().endswith(", from the rate of earlier runs here")


def test_without_a_rate_the_models_are_named(opened):
    whole = times.estimate(open_work(opened.plan, None), opened.spec.resources)
    assert whole.text() == "(no time known yet for test_resnet at 32 px on this machine)"


def test_timed_steps_are_taken_once_and_kept(opened, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(times.SWITCH, raising=False)
    timed = []

    def time_all(trainings, processes, threads, gpu):
        timed.append((trainings, processes))
        return [Speed(200.0, 800.0) for _ in trainings]

    monkeypatch.setattr(timing, "time_trainings", time_all)
    assert sweep.main([str(tmp_path / "how.yaml"), "--plan"]) == DONE
    assert "from a few timed steps (timed in " in capsys.readouterr().out
    ((trainings, processes),) = timed
    assert len(trainings) == 2  # every pre-training is of one kind, and so is every fine-tuning
    assert processes == 2
    assert sweep.main([str(tmp_path / "how.yaml"), "--plan"]) == DONE
    assert "from a few timed steps\n" in capsys.readouterr().out
    assert len(timed) == 1
    trial, stage = opened.plan.trials[0], open_work(opened.plan, None)[0].stages[1]
    rate = times.timed_rate(opened.spec.resources)(trial, stage)
    assert rate.seconds(stage) == pytest.approx(stage.images / 200 + stage.evaluated / 800)


@pytest.mark.parametrize(("name", "value"), [(times.SWITCH, "0"), ("RAY_ADDRESS", "ray://there:1")])
def test_no_steps_are_timed_where_they_say_nothing_or_are_not_wanted(opened, monkeypatch, name, value):
    monkeypatch.delenv(times.SWITCH, raising=False)
    assert times.can_time(opened.spec.resources, None)
    assert not times.can_time(opened.spec.resources, "auto")
    monkeypatch.setenv(name, value)
    assert not times.can_time(opened.spec.resources, None)


def test_a_plan_for_gpus_says_why_no_time_is_known_and_what_tells_the_hours(opened, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(times, "GPUS", tmp_path / "gpus")
    command = ["how.yaml", "--plan", "--set", "resources.gpus_per_worker=1"]
    told = "on this machine, where no NVIDIA GPU is found to time steps on: --on a100, or another card, "
    told += "estimates the hours there)"
    assert sweep.main(command) == DONE
    assert told in capsys.readouterr().out
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert sweep.main(command) == DONE
    assert "on this machine)" in capsys.readouterr().out


def test_no_steps_are_timed_without_the_gpu_that_trials_ask_for(opened, monkeypatch, tmp_path):
    monkeypatch.delenv(times.SWITCH, raising=False)
    monkeypatch.setattr(times, "GPUS", tmp_path / "gpus")
    resources = opened.spec.resources.model_copy(update={"gpus_per_worker": 0.5})
    assert not times.can_time(resources, None)
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert times.can_time(resources, None)


@pytest.mark.slow
def test_real_steps_are_timed_in_processes_of_their_own(opened):
    model, mixture = opened.spec.models[0].section, opened.spec.pretrains[0].section
    contrastive = mixture.model_copy(update={"method": "simclr"})
    unbuildable = model.model_copy(update={"name": "no_such_model"})
    speeds = time_trainings(
        [
            TimedTraining(model, mixture, None),
            TimedTraining(model, contrastive, None),
            TimedTraining(unbuildable, mixture, None),
            TimedTraining(model, None, opened.spec.finetunes[0].section),
        ],
        2, 1, False, limit=900,
    )  # fmt: skip
    assert speeds[2] is None
    assert all(speed is not None and speed.trained > 0 and speed.evaluated > 0 for speed in (*speeds[:2], speeds[3]))


@pytest.mark.parametrize(
    ("ends", "text"),
    [((68, 95), "68 to 95 s"), ((90, 190), "90 s to 3 min"), ((30, 30.2), "30 s"), ((7200, 8 * 3600), "2 to 8 h")],
)
def test_a_range_of_durations(ends, text):
    assert duration_range(*ends) == text


# --- while it runs


def report(stage="pretrain", epoch=1.0, epochs=10.0, images=400, speed=100.0, share=0.1):
    return {"stage": stage, "epoch": epoch, "epochs": epochs, "images": images, "images_per_second": speed,
            "share": share}  # fmt: skip


def test_the_time_left_goes_by_what_this_run_measures(opened):
    work = open_work(opened.plan, None)
    first, second, _ = work
    left = TimeLeft(work, slots=2)
    assert left.left({}, ()) is None  # nothing is known of this model
    running = {first.trial.id: report(), second.trial.id: {}}
    for name, progress in running.items():
        left.on_progress(name, progress)
    assert left.left(running, ()) is None  # nor of its fine-tunings
    rows = [{"finetune": f.id, "seconds_pretrain": 40.0, "seconds_finetune": 20.0} for f in first.trial.finetunings]
    left.on_end(first.trial.id, rows, 81.0)
    own = {second.trial.id: report(share=0.0)}
    pretraining, finetuning, _ = second.stages
    waiting = 1.0 + 2 * 20.0  # scratch, with the overhead of the trial that ended
    expected = max(1.0 + 40.0 + 2 * 20.0, waiting)
    assert left.left(own, {first.trial.id}) == pytest.approx(expected)
    assert left.counts(own, {first.trial.id}) == ((1, 2), (2, 6))
    assert left.share_done({}, {one.trial.id for one in work}) == 1.0
    assert left.left({}, {one.trial.id for one in work}) == 0.0
    assert pretraining.images == 4000
    assert finetuning.images


def test_earlier_rates_serve_until_there_is_one(opened):
    throughput.record_rate(KEY, 100.0)
    work = open_work(opened.plan, None)
    left = TimeLeft(work, times.prior_rate(opened.spec.resources), after=8.0, slots=3)
    whole = max(sum(stage.cost for stage in one.stages) / 100 for one in work)
    assert left.left({}, ()) == pytest.approx(whole + STARTING + 8.0)
    fast = {work[0].trial.id: report(images=4000, epoch=5.0, speed=1000.0, share=0.0)}
    left.on_progress(work[0].trial.id, fast[work[0].trial.id])
    assert left.left({}, ()) < whole


def test_what_follows_a_pilot_is_part_of_the_time_left_at_the_rates_that_it_measures(opened):
    first, second, _ = open_work(opened.plan, None)
    pilot = TimeLeft([first], after=8.0, then=[second])
    assert pilot.left({}, {first.trial.id}) is None  # nothing is known of what follows
    pilot.on_progress(first.trial.id, report(images=4000, epoch=10.0))
    rows = [{"finetune": f.id, "seconds_pretrain": 40.0, "seconds_finetune": 20.0} for f in first.trial.finetunings]
    pilot.on_end(first.trial.id, rows, 81.0)
    assert pilot.left({}, {first.trial.id}) == pytest.approx(40.0 + 2 * 20.0 + STARTING + 8.0)
    assert pilot.counts({}, {first.trial.id}) == ((1, 2), (2, 4))
    assert pilot.share_done({}, {first.trial.id}) == pytest.approx(first.cost / (first.cost + second.cost))


def test_what_a_pilot_chose_takes_the_place_of_what_was_expected(opened):
    """Its own trial goes on with more; another one of the baseline, which has not begun, has more than before."""
    first, second, other = open_work(opened.plan, None)
    begun, waits = replace(first, stages=first.stages[:1]), replace(second, stages=second.stages[:1])
    left = TimeLeft([begun, waits, other], after=8.0, then=[replace(first, stages=first.stages[1:2])])
    left.on_progress(first.trial.id, report(images=4000, epoch=10.0))
    share = begun.cost / (begun.cost + waits.cost + other.cost + first.stages[1].cost)
    assert left.share_done({}, {first.trial.id}) == pytest.approx(share)
    left.part_ended(first.trial.id)
    assert left.share_done({}, ()) == pytest.approx(share)  # it does not fall back, however long others take
    assert left.counts({}, ())[0] == (1, 0)
    left.expect_more([replace(first, stages=first.stages[1:]), second], ())
    assert left.counts({}, ()) == ((1, 0), (2, 6))
    whole = sum(one.cost for one in (first, second, other))
    assert left.share_done({}, ()) == pytest.approx(begun.cost / whole)
    assert left.share_done({}, {second.trial.id}) == pytest.approx((begun.cost + second.cost) / whole)
    ended = {one.trial.id for one in (first, second, other)}
    assert left.share_done({}, ended) == pytest.approx(1.0)
    assert left.counts({}, ended) == ((2, 6), (2, 6))
    assert left.left({}, ended) == 8.0


def test_what_was_there_before_is_no_work(opened):
    trial = opened.plan.trials[0]
    work = open_work(opened.plan, None)[0]
    only = type(work)(trial, work.stages[2:])
    left = TimeLeft([only], lambda trial, stage: times.Rate(100.0))
    whole = trial.pretrain_images + sum(f.images for f in trial.finetunings)
    found = 1 - only.stages[0].images / whole
    running = {trial.id: report("finetune", share=found)}
    assert left.share_done(running, ()) == pytest.approx(0.0, abs=1e-6)
    half = {trial.id: report("finetune", share=(1 + found) / 2)}
    assert left.share_done(half, ()) == pytest.approx(0.5)


def test_a_sweep_of_many_trials_alike_is_estimated_by_few_of_them(opened):
    """The driver asks every second, and whenever a trial ends."""
    one, _, scratch = open_work(opened.plan, None)
    work = [replace(one, trial=replace(one.trial, id=f"t{i}")) for i in range(1000)]
    asked = []

    def rate(trial, stage):
        asked.append(trial.id)
        return times.Rate(100.0)

    left = TimeLeft([*work, scratch], rate, slots=4)
    seconds = sum(times.Rate(100.0).seconds(stage) for stage in one.stages) + times.PER_TRIAL
    assert left.left({}, ()) == pytest.approx(1000 * seconds / 4 + STARTING - times.PER_TRIAL, rel=0.01)
    assert len(asked) <= len(one.stages) + len(scratch.stages)


# --- shown


def shown(width, **progress) -> list[str]:
    out = Console(file=io.StringIO(), width=width)
    running = {"how-quantity_400-s1-0123456789": {**report(), "id": 0.5, "ood": 0.25, **progress}}
    now = Snapshot("how", 6, {"done": 2, "failed": 0, "quarantined": 0, "stopped": 0}, running, 61.0, 125.0,
                   "2 of 4 pre-trainings, 5 of 12 fine-tunings")  # fmt: skip
    out.print(render(now, width))
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_the_live_table_fits_80_columns():
    head, pace, names, row = shown(80)
    assert head == "how  2 of 6 trials done, 1 running   100 images/s"
    assert pace == "2 of 4 pre-trainings, 5 of 12 fine-tunings   1:01 so far, about 2:05 left"
    assert names.split() == ["trial", "stage", "epoch", "images/s", "ID", "OOD"]
    assert row.split() == ["quantity_400-s1", "pre-training", "1.0/10", "100", "50.0", "%", "25.0", "%", "10", "%"]


def test_a_wide_one_has_whole_ids_and_bars():
    *_, row = shown(120)
    assert row.startswith("how-quantity_400-s1-0123456789  pre-training  1.0/10")
    assert "━" in row


def test_without_a_terminal_decoding_is_a_line_now_and_then():
    out, now = Console(file=io.StringIO(), width=140), [0.0]
    with images.image_progress(out, lambda: now[0]) as progress:
        progress(10, 1000)
        now[0] = images.LINE_EVERY
        progress(250, 1000)
        progress(251, 1000)
    assert out.file.getvalue() == "images   250 of 1,000 decoded or rendered, about 90 s left\n"


def test_on_a_terminal_it_is_a_bar():
    out = Console(file=io.StringIO(), width=80, force_terminal=True)
    with images.image_progress(out) as progress:
        progress(250, 1000)
    assert "250 of 1,000" in out.file.getvalue()
