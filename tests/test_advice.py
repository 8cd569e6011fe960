"""Advice: the cause of a poor line is named, a range widened as advised gives a line, every run ends in an action."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

from analysis.advice.advice import REASONS
from analysis.advice.advise import advise
from analysis.advice.causes import cause_of
from analysis.advice.widening import Signal, signal, smaller_sizes, target_r2
from analysis.input.join_runs import read_runs
from analysis.options import Options
from analysis.report import output
from analysis.scales import SCALES
from analysis.study import Analysis, analyse, analyse_all
from analysis.verdict import verdict
from bench.designs import Design, Group, draw
from bench.scenarios import NULL, levels
from tests.fake_run import run_folder, sweep

OPTIONS = Options("scratch")
NARROW = Design(levels(NULL, Group(low=-0.15, high=0.15), low=-0.15, high=0.15), trial_sd=0.02, point_sd=0.02,
                probit=True)  # fmt: skip
KNOWN = {
    "narrow": NARROW,
    "falling": Design(levels(NULL), slope=-0.5, intercept=-0.3),
    "level": Design(levels(NULL), slope=0.0),
    "no_shift": Design(levels(NULL), copied=True),
    "bent": Design(levels(NULL, Group(low=-1.0, high=1.0)), slope=0.05, bend=0.5, intercept=-0.9),
    "few_points": Design(levels(NULL, Group(trials=1, points=(5,), low=-0.3, high=0.3)), trial_sd=0.02, point_sd=0.03),
    "few_trials": Design(levels(NULL, Group(trials=2, points=(3,))), trial_sd=0.005, point_sd=0.03),
    "noisy": Design(levels(NULL), trial_sd=0.12, point_sd=0.12),
    "test_images": Design(levels(NULL, Group(low=-0.9, high=0.9), low=-0.9, high=0.9), images=80, ood_images=60,
                          trial_sd=0.001, point_sd=0.001),
}  # fmt: skip


def refused(design: Design, count: int = 8, tries: int = 60) -> list[tuple[int, Analysis]]:
    """The first simulated sweeps of a design without a line, and their seeds."""
    sweeps: list[tuple[int, Analysis]] = []
    for seed in range(tries):
        made = analyse("task", draw(design, seed).points, OPTIONS)
        if made.refused:
            sweeps.append((seed, made))
        if len(sweeps) == count:
            break
    return sweeps


@pytest.mark.slow
@pytest.mark.parametrize("reason", KNOWN)
def test_a_planted_cause_is_named(reason):
    made = refused(KNOWN[reason])
    named = Counter(cause_of(one).reason for _, one in made)
    assert made
    assert named[reason] >= 0.75 * len(made), named


@pytest.mark.slow
def test_a_range_widened_as_advised_gives_a_line():
    """The causes named are those of narrow ranges, whose own noise decides how much wider they have to be."""
    lines = []
    for seed, made in refused(NARROW, count=12):
        cause = cause_of(made)
        assert cause.times > 1
        wide = Group(low=0.15 - 0.3 * cause.times, high=0.15)
        again = analyse("task", draw(replace(NARROW, groups=(wide, *NARROW.groups[1:])), 1000 + seed).points, OPTIONS)
        lines.append(not again.refused)
    assert np.mean(lines) >= 0.75


def test_what_is_expected_of_a_range_is_what_comes():
    """R^2 of straight lines with known errors in both scores, at 1, 2 and 3 times the range."""
    random = np.random.default_rng(0)
    made, seen = {}, []
    for times in (1, 2, 3):
        true = times * random.uniform(-0.3, 0.3, 20_000)
        x, y = true + 0.08 * random.standard_normal(len(true)), 0.7 * true + 0.1 * random.standard_normal(len(true))
        made[times] = signal(ndtr(x), ndtr(y), SCALES["probit"], 0.08**2)
        seen.append(np.corrcoef(x, y)[0, 1] ** 2)
    assert [made[1].expected_r2(times) for times in made] == pytest.approx(seen, abs=0.03)  # its noise grows downward
    times = made[1].times_for(target_r2(0.8))
    assert made[1].expected_r2(times) == pytest.approx(target_r2(0.8), abs=0.02)


def test_sizes_go_down_by_powers_and_stop_at_what_can_be_learned_from():
    narrow = Signal(0.7, 0.01, 0.0, 0.005, 0.45, 0.55, SCALES["probit"], (0.0, -0.5))
    assert smaller_sizes(4000, 3.0, narrow) == [250, 1000]
    assert smaller_sizes(4000, 9.0, narrow) == [62, 250, 1000]
    assert smaller_sizes(4000, 3.0, narrow, smallest=1000) == [62, 250]
    assert min(smaller_sizes(4000, 9.0, narrow, classes=100)) >= 200
    assert smaller_sizes(50, 3.0, narrow) == [25]  # a quarter would be under the smallest set of a pilot too
    assert smaller_sizes(30, 3.0, narrow) == []
    assert narrow.low_at(2.0) == pytest.approx(ndtr(ndtri(0.55) - 2 * (ndtri(0.55) - ndtri(0.45))))


CASES = {
    "a poor line": lambda: sweep({"num_images=1000": 0.0}, noise_sd=0.15, trial_sd=0.1),
    "few seeds": lambda: sweep({"num_images=1000": 1.0, "num_images=4000": 3.0}, trial_sd=0.02),
    "one seed": lambda: sweep({"num_images=1000": 1.0, "num_images=4000": 3.0}, trials=1),
    "two seeds": lambda: sweep({"num_images=1000": 1.0, "num_images=4000": 3.0}, trials=2),
    "settled": lambda: sweep({"num_images=1000": 12.0, "num_images=4000": 24.0}, trials=5, trial_sd=0.004),
    "the baseline alone": lambda: sweep({}),
    "no baseline": lambda: sweep({"num_images=1000": 3.0}).query("group != 'scratch'"),
    "two points": lambda: sweep({"num_images=1000": 3.0}).groupby("group").head(2),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["run", "table"])
def test_every_analysis_ends_in_something_to_do(case, kind, tmp_path):
    points = CASES[case]()
    if kind == "run":
        run_folder(tmp_path / "run", points)
        table, options = read_runs((str(tmp_path / "run"),))
        analysis = analyse_all(table, options)[0]
    else:
        table, analysis = None, analyse("task", points.reset_index(drop=True), replace(OPTIONS, unit="row"))
    advice = advise(analysis, table)
    assert 1 <= len(advice) <= 4
    for one in advice:
        assert one.reason in REASONS
        assert one.evidence.endswith(".")
        assert one.action.endswith(".")
        assert "nan" not in f"{one.evidence}{one.action}".replace("nance", "")
        assert not (kind == "table" and one.yaml)
        assert (one.yaml is None) or one.cost is not None
    made = verdict([analysis], table)
    assert output.advice_in(made) == [[one.plain() for one in advice]]


def test_seeds_are_asked_for_where_they_help_and_groups_where_they_do_not():
    few = analyse("task", CASES["few seeds"](), OPTIONS)
    assert advise(few)[0].reason == "few_seeds"
    assert "trials until every group has" in advise(few)[0].action
    assert "with a probability of 80 %" in advise(few)[0].action
    assert "could have found" not in advise(few)[0].evidence  # one smallest difference, not two of two kinds


@pytest.mark.slow
def test_groups_outside_the_range_are_named_with_the_side():
    points = sweep({"num_images=1000": 12.0, "num_images=4000": 24.0}, trials=5, trial_sd=0.004)
    high = points["group"] == "num_images=4000"
    points.loc[high, "id"] = ndtr(ndtri(points.loc[high, "id"]) + 1.0)
    outside = [one for one in advise(analyse("task", points, OPTIONS)) if one.reason == "extrapolated"]
    assert len(outside) == 1
    assert "num_images=4000" in outside[0].evidence
    assert "above" in outside[0].evidence


@pytest.mark.parametrize("trials", [1, 3])
def test_there_is_advice_where_no_group_has_a_point_inside_the_range(trials):
    points = sweep({"pretrained": 12.0}, trials=trials, trial_sd=0.004)
    high = points["group"] == "pretrained"
    points.loc[high, "id"] = ndtr(ndtri(points.loc[high, "id"]) + 9.0)
    made = analyse("task", points, OPTIONS)
    assert made.points.loc[made.points["group"] == "pretrained", "extrapolated"].all()
    assert {"few_seeds", "extrapolated"} <= {one.reason for one in advise(made)}


def test_every_reason_is_in_the_schema():
    schema = json.loads((Path(__file__).parents[1] / "analysis/verdict.schema.json").read_text("utf-8"))
    assert set(schema["$defs"]["advice"]["properties"]["reason"]["enum"]) == set(REASONS)


@pytest.mark.parametrize("missing", [0, 3])
def test_a_baseline_alone_is_told_first_that_there_is_nothing_to_compare(missing, tmp_path):
    """Of a run whose other groups are planned, failed or not begun the remedy is the same command, not more groups."""
    points = sweep({"num_images=4000": 3.0} if missing else {})
    run_folder(tmp_path / "run", points, unfinished=missing)
    table, options = read_runs((str(tmp_path / "run"),))
    first = advise(analyse_all(table, options)[0], table)[0]
    assert first.reason == "no_group"
    wanted = "Run the same command again: it runs the groups that are missing" if missing else "Add groups to compare"
    assert first.action.startswith(wanted)


def test_a_gap_of_the_baseline_is_filled_with_a_size_between_those_at_its_ends():
    """Sizes of 100 and 1,600 images, with nothing between their ID scores, where a group lies."""
    random, rows = np.random.default_rng(3), []
    for group, sizes in {"scratch": {100: -1.2, 1600: 0.6}, "a": {1600: -0.3}}.items():
        for size, x in sizes.items():
            for trial in range(6):
                for epoch in (1, 2):
                    id_ = x + 0.15 * epoch + 0.05 * random.standard_normal()
                    ood = ndtr(0.6 * id_ - 0.5 + 0.01 * random.standard_normal())
                    rows.append({"trial": f"{group}-{trial}", "group": group, "finetune": f"f{size}", "epoch": epoch,
                                 "finetune_images": size, "id": ndtr(id_), "ood": ood})  # fmt: skip
    made = analyse("task", pd.DataFrame(rows), OPTIONS)
    advice = next(one for one in advise(made) if "inside the gap" in one.action)
    assert advice.action == "Add baseline points inside the gap: fine-tune it on 400 images too."
