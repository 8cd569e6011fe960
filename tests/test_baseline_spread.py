"""`baseline: {spread: auto}`: the pilot, the rungs that follow from its scores, and what is kept of them."""

from __future__ import annotations

import pytest
from scipy.special import ndtr

from ray_robust.errors import UserError
from ray_robust.prepare import baseline_spread
from ray_robust.prepare.baseline_spread import EVEN, MOST, PILOT, choose
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

SPEC = """
task: {name: camera-traps, train_images: 3200, id_val_images: 50, id_test_images: 50, ood_val_images: 50,
       ood_test_images: 50}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 1000]}, images_seen: 1000}
finetune: {epochs: 4, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 2}
baseline: {name: scratch, spread: auto}
seeds: 2
"""
EVENLY = {-6: -2.0, -4: -1.98, -2: -1.2, 0: -0.2, 2: 0.6}


def opened(tmp_path, *overrides):
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file, overrides))


def sizes(trials):
    return {(f.settings.num_images, f.settings.epochs, f.settings.lr) for trial in trials for f in trial.finetunings}


def finish(run, trial, ids=None):
    """The trial with scores that rise with what its fine-tunings see."""
    ids = ids or {}
    rows = [{"finetune": f.id, "task": f.task_label, "epoch": epoch, "wise_alpha": None,
             "id_val": float(ndtr(0.4 * (f.images / 12_800) ** 0.5 * epoch - 1.5))}
            for f in trial.finetunings for epoch in (1, 2)]  # fmt: skip
    run.trial(trial.id).finish(rows, {})


LOW = [-9.0]  # a floor that no score reaches


def test_rungs_far_below_what_is_compared_are_left_out():
    curve = {-4: -2.0, -2: -0.9, 0: 0.3, 2: 0.8}
    assert choose([curve], [-1.0])[0] == -4
    assert choose([curve], [-0.9])[0] == -2
    assert choose([curve], [0.3])[0] == 0
    assert choose([curve, {-4: -1.0, -2: -0.8, 0: 0.1, 2: 0.9}], [-0.9, -0.9])[0] == -4  # another model needs it


def test_rungs_at_chance_are_left_out_and_gaps_are_filled():
    octaves = choose([EVENLY], LOW)
    assert octaves[0] == -4  # as good as -6, which is left out
    assert octaves[-1] == 2
    assert set(octaves) > {-2, 0}
    assert len(octaves) <= MOST


def test_no_gap_is_wide_where_rungs_are_left():
    octaves = choose([{-6: -2.0, -4: -1.2, -2: -0.8, 0: -0.2, 2: 0.6}], LOW)
    curve = {-6: -2.0, -4: -1.2, -2: -0.8, 0: -0.2, 2: 0.6}
    import numpy as np

    at = np.interp(octaves, list(curve), list(curve.values()))
    assert max(np.diff(at)) <= EVEN * (at[-1] - at[0]) + 1e-9


def test_a_longer_training_that_gains_nothing_is_left_out():
    assert choose([{-6: -2.0, -4: -1.5, -2: -1.2, 0: 0.9, 2: 0.92}], LOW)[-1] == 0
    assert choose([{-6: -2.0, -4: -1.5, -2: -1.2, 0: 0.5, 2: 0.92}], LOW)[-1] == 2


def test_a_pilot_that_learns_nothing_or_falls_still_has_two_rungs():
    assert choose([dict.fromkeys(PILOT, -2.0)], LOW) == (0, 2)
    assert len(choose([{-6: 1.0, -4: 0.5, -2: 0.2, 0: 0.1, 2: 0.0}], LOW)) == 2


def test_of_several_curves_the_widest_gap_counts():
    flat = {-6: -2.0, -4: -1.0, -2: 0.0, 0: 1.0, 2: 2.0}
    steep = {-6: -2.0, -4: -1.95, -2: -1.9, 0: -1.8, 2: 2.0}
    assert {0.5, 1.0} & (set(choose([flat, steep], LOW * 2)) - set(choose([flat], LOW)))


def test_the_pilot_is_one_trial_per_model_of_the_baseline_s_own_identity(tmp_path):
    sweep = opened(tmp_path)
    pilot = baseline_spread.pilot_plan(sweep)
    assert len(pilot) == 1
    assert sizes(pilot) == {(200, 4, 3e-3), (800, 4, 3e-3), (None, 4, 3e-3), (None, 16, 3e-3)}
    assert {trial.id for trial in pilot} <= {trial.id for trial in sweep.plan}
    own = {f.id for trial in sweep.plan if trial.group == "scratch" for f in trial.finetunings}
    assert len(own & {f.id for trial in pilot for f in trial.finetunings}) == 1  # the sweep's own length is a rung
    assert len(baseline_spread.pilot_plan(opened(tmp_path, "model.name={grid: [test_resnet, test_byobnet]}"))) == 2


def test_the_choice_is_kept_and_every_seed_has_its_rungs(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    assert baseline_spread.decide(sweep, run) is None
    assert not baseline_spread.recorded(sweep, run).decided
    (trial,) = baseline_spread.pilot_plan(sweep)
    finish(run, trial)
    choice = baseline_spread.decide(sweep, run)
    again = RunFolder(tmp_path / "run")
    assert choice.decided
    assert baseline_spread.recorded(sweep, again) == choice
    chosen = baseline_spread.with_choice(sweep, choice, None)
    scratch = [trial for trial in chosen.plan if trial.group == "scratch"]
    assert len(scratch) == 2
    assert sizes(scratch[:1]) == sizes(scratch[1:])
    assert sizes(scratch) > {(None, 4, 1e-3), (None, 4, 3e-3), (None, 16, 3e-3)}
    pilot = {f.id for f in trial.finetunings}
    assert len(pilot & {f.id for f in scratch[0].finetunings}) >= 3  # nothing of it is trained again
    others = [[t for t in one.plan if t.group != "scratch"] for one in (sweep, chosen)]
    assert others[0] == others[1]


def test_an_edited_baseline_has_another_pilot_and_another_mixture_has_not(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    finish(run, *baseline_spread.pilot_plan(sweep))
    baseline_spread.decide(sweep, run)
    for same in ("seeds=5", "pretrain.num_images=700", "analysis.min_r2=0.7", "baseline.stop_if_no_line=true"):
        assert baseline_spread.recorded(opened(tmp_path, same), run).decided
    for other in ("finetune.epochs=8", "baseline.finetune={lr: 1e-2}", "model.name=test_byobnet", "seeds=[7]"):
        assert not baseline_spread.recorded(opened(tmp_path, other), run).decided


def test_a_damaged_choice_counts_as_none(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    run.storage.write("baseline.json", b"{")
    assert not baseline_spread.recorded(sweep, run).decided


def test_the_cost_is_said_before_the_pilot_as_a_range(tmp_path):
    sweep = opened(tmp_path)
    sentence = baseline_spread.spread_sentence(sweep, baseline_spread.recorded(sweep, RunFolder(tmp_path / "run")))
    pilot = 200 * 4 + 800 * 4 + 3200 * 4 + 3200 * 16
    assert sentence.startswith(
        f"a pilot of 4 fine-tunings per model comes first, {pilot:,} images (200 images, 800 images"
    )
    assert f"for every seed: {2 * (pilot + 12_800):,} to " in sentence


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["finetune.num_images=100"], "finetune.num_images: is chosen by baseline.spread: auto; leave it out"),
        (
            ["baseline.finetune={per_class: 3}"],
            "baseline.finetune.per_class: is chosen by baseline.spread: auto; leave",
        ),
        (
            ["baseline.name=num_images=500"],
            "baseline.spread: auto chooses fine-tunings from scratch; name is num_images",
        ),
        (["baseline.spread=wide"], "baseline.spread: must be one of auto"),
    ],
)
def test_what_is_excluded_is_one_line(tmp_path, overrides, line):
    with pytest.raises(UserError) as caught:
        opened(tmp_path, *overrides)
    assert any(line in str(problem) for problem in caught.value.problems), caught.value


def test_a_search_begins_with_the_pilot_too(tmp_path):
    search = opened(tmp_path, "pretrain.num_images={loguniform: [100, 1000]}", "search={method: random, trials: 3}")
    chosen = baseline_spread.with_choice(search, baseline_spread.recorded(search, RunFolder(tmp_path / "run")), None)
    assert {trial.group for trial in chosen.plan} == {"scratch"}
    assert len(baseline_spread.pilot_plan(search)) == 1
