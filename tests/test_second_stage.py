"""`seeds: {first, until, most}`: what a spec may say, which trials there are, what a command does between stages."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.special import ndtr

from ray_robust import sweep as sweep_command
from ray_robust.errors import DONE, FAILED, UserError
from ray_robust.launch import run_sweep
from ray_robust.launch.run_sweep import SweepRun, write_plan
from ray_robust.prepare import second_stage
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.seed_plan import SeedRule, recorded, rule_of
from ray_robust.spec.load import load_spec

SPEC = """
task: {name: camera-traps, train_images: 320, id_val_images: 50, id_test_images: 50, ood_val_images: 50,
       ood_test_images: 50}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 1000]}, images_seen: 1000}
finetune: {epochs: 4, lr: {grid: [1e-3, 2e-3, 3e-3, 4e-3]}, evaluate_every: 4}
baseline: scratch
seeds: {first: 3, until: 4.0, most: 8}
"""
ER = {"scratch": 0.0, "num_images=500": 0.0, "num_images=1000": 6.0}
SD = {"scratch": 0.2, "num_images=500": 0.4, "num_images=1000": 3.0}  # of a trial, points of ER


def opened(tmp_path, *overrides):
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file, overrides))


def finish(run, trial):
    """A trial with scores along a line, by its seed always the same."""
    random = np.random.default_rng([trial.seed, len(trial.group)])
    offset = ER[trial.group] + SD[trial.group] * random.standard_normal()
    rows = []
    for number, f in enumerate(trial.finetunings):
        x = -0.6 + 0.4 * number + 0.02 * random.standard_normal()
        ood = float(ndtr(0.76 * x - 0.6) + offset / 100 + 0.001 * random.standard_normal())
        rows.append({"finetune": f.id, "task": f.task_label, "epoch": 4, "wise_alpha": None, "id_val": float(ndtr(x)),
                     "ood_val": ood, "id": float(ndtr(x)), "ood": ood, "metric": "macro_f1",
                     "finetune_lr": f.settings.lr})  # fmt: skip
    run.trial(trial.id).finish(rows, {})


def done(sweep, run, *, but=0):
    """The first stage of a sweep with its scores."""
    write_plan(sweep, run)
    for trial in sweep.plan.trials[but:]:
        finish(run, trial)


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        ("{frst: 4, until: 3.0}", "seeds.frst: unknown key; did you mean first?"),
        ("{first: 4}", "seeds.until: missing"),
        ("{first: 2, until: 3.0}", "seeds.first: must be at least 3, not 2"),
        ("{until: 3.0, most: 1k}", "seeds.most: must be at most 200, not 1000"),
        ("{first: 6, until: 3.0, most: 5}", "seeds: most: 5 is below first: 6"),
        ("{until: 0}", "seeds.until: must be a number of points above 0, or {margin: true}, not 0"),
        ("{until: {margin: 2}}", "seeds.until: must be a number of points above 0, or {margin: true}, not a mapping"),
        ("{until: 3.0, of: group}", "seeds.of: must be groups, trend, or a list of two different groups, not 'group'"),
        ("{until: 3.0, of: [scratch]}", "seeds.of: must be groups, trend, or a list of two different groups, not "
                                        "a list"),
        ("{until: 3.0, of: [scratch, num_images=50]}", "seeds.of: 'num_images=50' is no group; did you mean "
                                                       "num_images=500?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, seeds, line):
    with pytest.raises(UserError) as caught:
        opened(tmp_path, f"seeds={seeds}")
    assert [problem.what for problem in caught.value.problems] == [line]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("baseline=none", "seeds.until: is of effective robustness, and baseline: none leaves no line; write how many "
                          "seeds"),
        ("search={method: random, trials: 3}", "seeds.first: a search gives every draw the same seeds; write how many, "
                                               "e.g. seeds: 3"),
    ],
)  # fmt: skip
def test_what_needs_fixed_seeds_says_so(tmp_path, override, line):
    more = ["pretrain.num_images={loguniform: [100, 1000]}"] if "search" in override else []
    with pytest.raises(UserError) as caught:
        opened(tmp_path, override, *more)
    assert line in [problem.what for problem in caught.value.problems]


def test_a_spec_is_read_back_with_its_rule(tmp_path):
    spec = opened(tmp_path, "seeds={until: {margin: true}, of: [num_images=1000, scratch]}").spec
    again = load_spec(yaml.safe_load(spec.resolved))
    assert again.stages == spec.stages == SeedRule(4, 16, None, ("num_images=1000", "scratch"))
    assert rule_of(yaml.safe_load(opened(tmp_path).spec.resolved)) == SeedRule(3, 8, 4.0)
    assert rule_of({"seeds": [1, 2]}) is rule_of({}) is None


def test_the_first_seeds_trials_are_those_of_fixed_seeds(tmp_path):
    stages, fixed, more = (opened(tmp_path, *(own and (own,))) for own in ("", "seeds=3", "seeds=5"))
    assert [trial.id for trial in stages.plan] == [trial.id for trial in fixed.plan]
    extended = second_stage.with_plan(stages, dict.fromkeys(ER, 5), None)
    assert {trial.id for trial in extended.plan} == {trial.id for trial in more.plan}
    some = second_stage.with_plan(stages, {**dict.fromkeys(ER, 3), "num_images=1000": 4}, None)
    assert {trial.id for trial in some.plan} - {trial.id for trial in fixed.plan} == {
        trial.id for trial in more.plan if trial.group == "num_images=1000" and trial.seed == 4
    }


def test_a_plan_is_kept_and_one_that_is_lost_is_made_again(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    done(sweep, run)
    assert second_stage.recorded(sweep, run) is None
    made = second_stage.decide(sweep, run)
    assert made.seeds["num_images=1000"] > 3
    assert made.seeds["num_images=500"] == 3
    assert second_stage.recorded(sweep, run) == made
    later = second_stage.with_plan(sweep, made.seeds, None)
    write_plan(later, run)
    for trial in later.plan:
        finish(run, trial)
    run.storage.delete("seeds.json")
    assert second_stage.decide(sweep, run) == made  # whatever the second stage gave
    other = opened(tmp_path, "seeds.until=3.0")
    assert second_stage.recorded(other, run) is None
    assert second_stage.recorded(opened(tmp_path, "analysis.margin=1.0"), run) is None
    assert second_stage.recorded(opened(tmp_path, "finetune.epochs=8"), run) is None


def test_a_baseline_with_seeds_of_its_own_keeps_them(tmp_path):
    sweep, run = opened(tmp_path, "baseline={name: scratch, seeds: 5}"), RunFolder(tmp_path / "run")
    done(sweep, run)
    plan = second_stage.decide(sweep, run)
    assert plan.seeds["scratch"] == 5
    assert (plan.most, plan.verdict()["saved"]) == (5 + 8 + 8, 16 - plan.seeds["num_images=1000"] - 3)
    assert plan.sentences()[1].endswith(f"{plan.most - plan.spent} fewer than 8 seeds of each group but scratch")
    assert second_stage.recorded(sweep, run) == plan


def test_a_plan_that_an_earlier_version_kept_is_read(tmp_path):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    done(sweep, run)
    made = second_stage.decide(sweep, run)
    kept = made.plain()
    del kept["limits"]
    run.write("seeds.json", json.dumps(kept))
    again = second_stage.recorded(sweep, run)
    assert again == replace(made, limits={})
    assert again.verdict() == made.verdict()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["seeds"].update({"scratch": 500}),
        lambda kept: kept["seeds"].update({"scratch": 1}),
        lambda kept: kept.update(seeds={}),
        lambda kept: kept.update(needs=3),
        lambda kept: kept.pop("rule"),
        lambda kept: kept["rule"].update(most=1e999),
        lambda kept: kept["trials"].update(scratch=1e999),
        lambda kept: kept["trials"].update(scratch="x"),
    ],
)
def test_a_damaged_plan_counts_as_none(tmp_path, change):
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    done(sweep, run)
    second_stage.decide(sweep, run)
    kept = json.loads((tmp_path / "run" / "seeds.json").read_text())
    change(kept)
    run.write("seeds.json", json.dumps(kept))
    assert second_stage.recorded(sweep, run) is None


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the sweep's command; its trials are finished in place of a cluster, but those of groups in `failing`."""
    ran = []

    def run(*more, failing=()):
        def stand_in(self, todo):
            write_plan(self.sweep, self.run)
            ran.append(sorted(f"{trial.group} {trial.seed}" for trial in todo))
            for trial in todo:
                if trial.group in failing:
                    self.run.trial(trial.id).fail("it broke")
                else:
                    finish(self.run, trial)
            return 1.0, {trial.id for trial in todo}

        monkeypatch.setattr(SweepRun, "run_trials", stand_in)
        monkeypatch.setattr(run_sweep.provenance, "record_throughput", lambda *args: None)
        opened(tmp_path)
        return sweep_command.main([str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run"), *more])

    run.ran = ran
    return run


@pytest.mark.slow
def test_a_sweep_runs_its_second_stage_and_says_what_it_asked_spent_and_saved(command, capsys, tmp_path):
    assert command("--plan") == DONE
    printed = capsys.readouterr().out
    assert (
        "seeds  3 of every group first, 9 trials; then by their scatter as many as give an interval of 4 points for "
        "every group against the baseline, up to 8: 9 to 24 trials in all." in printed
    )
    assert command() == DONE
    printed = capsys.readouterr().out
    first, second = command.ran
    assert len(first) == 9
    assert set(second) == {f"num_images=1000 {seed}" for seed in range(4, 4 + len(second))}
    plan = recorded(RunFolder(tmp_path / "run").storage)
    assert (
        "seeds    asked for an interval of 4 points for every group against the baseline, with 3 to 8 seeds" in printed
    )
    total = 9 + len(second)
    assert f"{total} trials, {24 - total} fewer than 8 seeds each" in printed
    assert f"{total} trials done, 0 failed" in printed
    verdict = json.loads((tmp_path / "run" / "report" / "verdict.json").read_text())["seeds"]
    assert (verdict["trials"], verdict["saved"], verdict["asked"]["until"]) == (total, 24 - total, 4.0)
    assert verdict["sentences"] == plan.sentences()
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Seeds in two stages" in page
    assert plan.sentences()[1] in page
    from analysis.__main__ import main as analyse

    assert analyse(["verify", str(tmp_path / "run")]) in (DONE, FAILED)  # of stand-in trials no predictions are there
    (tmp_path / "run" / "seeds.json").unlink()  # a command that was ended between the stages plans the same again
    assert command() == DONE
    assert len(command.ran) == 2
    assert recorded(RunFolder(tmp_path / "run").storage) == plan


def test_a_second_stage_that_a_pilot_s_choice_brings_back_is_run(tmp_path):
    """The choice is part of what `seeds.json` is valid for: with it the plan has seeds that have not been run yet."""
    sweep, run = opened(tmp_path), RunFolder(tmp_path / "run")
    done(sweep, run)
    planned = second_stage.decide(sweep, run)
    whole = second_stage.with_plan(sweep, planned.seeds, None)
    this = SweepRun(whole, draw_all(whole, {}), run, Console(quiet=True), None)
    later = this._second_stage(sweep.plan)
    assert {trial.id for trial in later} == {trial.id for trial in whole.plan} - {trial.id for trial in sweep.plan}
    assert len(later)
    assert set(this.left.missing) == {trial.id for trial in later}
    assert len(this._second_stage(whole.plan)) == 0


@pytest.mark.slow
def test_the_second_stage_waits_for_the_whole_first_one(command, capsys, tmp_path):
    assert command(failing=("num_images=500",)) == FAILED
    printed = capsys.readouterr().out
    assert (
        "seeds    the second stage is not planned: 3 trials of the first stage are not done; the same command again "
        "runs what is missing and plans it" in printed
    )
    assert not (tmp_path / "run" / "seeds.json").exists()
    assert command() == DONE
    assert [len(one) for one in command.ran][:2] == [9, 3]
    assert (tmp_path / "run" / "seeds.json").exists()
