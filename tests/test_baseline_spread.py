"""`baseline: {spread: auto}`: the pilot, the rungs that follow from its scores, and what is kept of them."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml
from make_spread import SPEC, finish, opened, sizes

from analysis.advice.run_design import RunDesign
from ray_robust.errors import UserError
from ray_robust.prepare import baseline_spread
from ray_robust.prepare.baseline_spread import EVEN, MOST, PILOT, Choice, choose
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

EVENLY = {-6: -2.0, -4: -1.98, -2: -1.2, 0: -0.2, 2: 0.6}


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


@pytest.mark.parametrize("scale", ["probit", "logit", "linear"])
def test_what_counts_as_flat_does_not_depend_on_the_axis(tmp_path, scale):
    """8 points of accuracy are no difference of chance, on a linear axis either."""
    sweep, run = opened(tmp_path, f"analysis.scale={scale}"), RunFolder(tmp_path / "run")
    (trial,) = baseline_spread.pilot_plan(sweep)
    score = {800: 0.3, 3_200: 0.38, 12_800: 0.46, 51_200: 0.5}
    rows = [{"finetune": f.id, "task": f.task_label, "epoch": 1, "wise_alpha": None, "id_val": score[f.images]}
            for f in trial.finetunings]  # fmt: skip
    run.trial(trial.id).finish(rows, {})
    octaves = baseline_spread.decide(sweep, run).octaves
    assert (octaves[0], octaves[-1]) == (-4, 2)


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


def test_the_baseline_has_the_groups_own_fine_tunings_too(tmp_path):
    """Else raw scores could only be compared with a baseline on more images than the groups had."""
    whole = "baseline.finetune={num_images: all, method: full}"
    sweep = opened(tmp_path, "finetune.num_images=300", whole, "finetune.method={grid: [full, linear]}")
    chosen = baseline_spread.with_choice(sweep, Choice(PILOT, True), None)
    scratch = [trial for trial in chosen.plan if trial.group == "scratch"]
    assert {(300, 4, 1e-3), (300, 4, 3e-3), (None, 4, 1e-3), (None, 16, 3e-3)} <= sizes(scratch)
    assert {f.settings.method for trial in scratch for f in trial.finetunings} == {"full"}


def test_an_edited_baseline_has_another_pilot_and_another_mixture_has_not(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    finish(run, *baseline_spread.pilot_plan(sweep))
    baseline_spread.decide(sweep, run)
    for same in ("seeds=5", "pretrain.num_images=700", "analysis.min_r2=0.7", "baseline.stop_if_no_line=true"):
        assert baseline_spread.recorded(opened(tmp_path, same), run).decided
    for other in ("finetune.epochs=8", "baseline.finetune={lr: 1e-2}", "model.name=test_byobnet", "seeds=[7]"):
        assert not baseline_spread.recorded(opened(tmp_path, other), run).decided


WHOLE = "[-2, -1.25, 0, 2]"
DAMAGED = ["", "{", "[]", "3", "null", '{"octaves": OCTAVES}', '{"pilot": PILOT}']
DAMAGED += [f'{{"pilot": PILOT, "octaves": {octaves}}}' for octaves in (
    "[]", '"x"', '["x"]', "[null]", "[[0]]", "{}", "[true, 2]", "[0]", "[NaN, 2]", "[Infinity, 2]", "[-1e9, 0]",
    "[0, 1e9]", "[0, 2.25]", "[2, 0]", "[0, 0]", "[0, 0.1]", "[0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]",
)]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_choice_counts_as_none(tmp_path, text):
    """A choice that no pilot makes would train what nobody asked for."""
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    pilot = json.dumps(baseline_spread._meaning(baseline_spread.pilot_plan(sweep)))
    run.storage.write("baseline.json", f'{{"pilot": {pilot}, "octaves": {WHOLE}}}'.encode())
    assert baseline_spread.recorded(sweep, run) == Choice((-2, -1.25, 0, 2), True)
    run.storage.write("baseline.json", text.replace("PILOT", pilot).replace("OCTAVES", WHOLE).encode())
    assert baseline_spread.recorded(sweep, run) == Choice(PILOT, False)
    finish(run, *baseline_spread.pilot_plan(sweep))
    assert baseline_spread.recorded(sweep, run) != baseline_spread.decide(sweep, run)
    assert baseline_spread.recorded(sweep, run).decided


def test_a_folder_in_the_place_of_the_choice_is_replaced_where_it_is_empty(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    finish(run, *baseline_spread.pilot_plan(sweep))
    (tmp_path / "run" / "baseline.json").mkdir()
    assert not baseline_spread.recorded(sweep, run).decided
    assert baseline_spread.decide(sweep, run) == baseline_spread.recorded(sweep, run)
    (tmp_path / "run" / "baseline.json").unlink()
    (tmp_path / "run" / "baseline.json").mkdir()
    (tmp_path / "run" / "baseline.json" / "own.txt").write_text("of the user")
    with pytest.raises(UserError, match=r"baseline.json: is a folder, where a file belongs; move it away"):
        baseline_spread.decide(sweep, run)


@pytest.mark.parametrize("scale", ["probit", "logit", "linear"])
def test_a_baseline_that_gets_every_validation_image_right_keeps_its_lower_rungs(tmp_path, scale):
    """A score of 1 is at infinity on probit axes: a floor below it would be there as well."""
    sweep, run = opened(tmp_path, f"analysis.scale={scale}"), RunFolder(tmp_path / "run")
    (trial,) = baseline_spread.pilot_plan(sweep)
    score = {800: 0.5, 3_200: 0.94, 12_800: 1.0, 51_200: 1.0}
    rows = [{"finetune": f.id, "task": f.task_label, "epoch": 1, "wise_alpha": None, "id_val": score[f.images]}
            for f in trial.finetunings]  # fmt: skip
    run.trial(trial.id).finish(rows, {})
    assert baseline_spread.decide(sweep, run).octaves[0] == -4


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


def test_groups_as_long_as_a_spread_baseline_cost_what_is_said_and_leave_the_pilot(tmp_path):
    """The baseline has the groups' fine-tunings too, so that both are compared at equal settings."""

    def planned(text=None):
        if text is not None:
            keys = tuple(yaml.safe_load(text))
            own = {key: value for key, value in yaml.safe_load(SPEC).items() if key not in keys}
            (tmp_path / "small.yaml").write_text(yaml.safe_dump(own) + text)
        bare = open_sweep(load_spec(tmp_path / "small.yaml"))
        sweep = baseline_spread.with_choice(bare, Choice(PILOT, True), None)
        return bare, {(trial.key, f.id) for trial in sweep.plan for f in trial.finetunings}, sweep.plan

    opened(tmp_path)
    bare, before, plan = planned()
    spec = yaml.safe_load(bare.spec.resolved)
    design = RunDesign("run", spec, plan.rows(), pd.DataFrame(), 3200, 200, 16)
    text, cost = design.groups_for(16)
    pasted, after, _ = planned(text)
    assert before <= after
    assert cost.finetunings == len(after - before) == 2 * 2 * 2 + 2 * 2  # groups, seeds and rates; scratch
    ids = [[(trial.key, f.id) for trial in baseline_spread.pilot_plan(one) for f in trial.finetunings]
           for one in (bare, pasted)]  # fmt: skip
    assert ids[0] == ids[1]
