"""Simulated sweeps with a known truth, few of each: `python -m bench.coverage` runs them all by the hundred.

The bounds are those of a binomial count at 95 % and not of luck; every draw is seeded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from analysis.findings import Finding
from analysis.options import Options
from analysis.stats.resampled import scores_of
from analysis.study import analyse
from bench import analysis as bench_analysis
from bench import claims, coverage, raw_scores, resampling
from bench.coverage import SCENARIOS, Truth, simulate
from bench.designs import Design, draw
from bench.scenarios import BROKEN, levels

REPLICATES = 16
LEAST = 0.78  # 95 % less three standard errors of a share of 16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["planted ER", "slope change", "camera effects, accuracy", "three trials a group"])
def test_intervals_hold_the_truth(name):
    found = coverage.summary(name, coverage.run(name, REPLICATES))
    assert found["no interval"] == 0
    assert all(share >= LEAST for share in found["coverage"].values()), found
    assert all(share <= 1 - LEAST for share in found["false positives"].values()), found


@pytest.mark.slow
def test_equivalence_is_seldom_claimed_at_the_margin():
    found = coverage.summary("at the margin", coverage.run("at the margin", REPLICATES))
    assert found["equivalent at the margin"] <= 1 - LEAST


@pytest.mark.slow
def test_the_planted_truth_is_what_many_cameras_show():
    """With 4,000 cameras' worth of luck averaged out, accuracies are those that were planted."""
    truth = Truth(cameras=24, trials=3, trial_sd=0.0, er=(0.0, 3.0, 6.0))
    worlds = [simulate(truth, seed) for seed in range(60)]
    planted = [simulate(Truth(trials=3, trial_sd=0.0, point_sd=0.0, er=truth.er), seed) for seed in range(60)]
    for side in ("id", "ood"):
        seen = np.mean([world.points[side].mean() for world in worlds])
        assert seen == pytest.approx(np.mean([world.points[side].mean() for world in planted]), abs=0.02)


@pytest.mark.slow
def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    document = tmp_path / "d.md"
    document.write_text(
        "before\n<!-- coverage -->\nold\n<!-- /coverage -->\nafter\n<!-- claims -->\n<!-- /claims -->\n"
        "<!-- scores -->\n<!-- /scores -->\n"
    )
    coverage.main(["--replicates", "2", "--only", "null", "--processes", "1", "--write", str(document)])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["null"]["replicates"] == 2
    lines = document.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[6] == "after"
    coverage.main(["--replicates", "2", "--only", "null", "--processes", "1", "--scores-only"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["null"]["claims"]["refused"] == 0
    for first in (2, 8, 13):
        assert lines[first].startswith("| scenario | replicates |")
        assert lines[first + 2].startswith("| null | 2 |")
    assert len(lines) == 17
    assert "old" not in lines


def test_raw_scores_are_judged_by_the_planted_differences():
    world = simulate(Truth(er=(6.0, 6.0, 6.0), trials=8, trial_sd=0.002, point_sd=0.002), seed=1)
    analysis = analyse("simulated", world.points, Options("scratch"))
    assert raw_scores.false_scores(analysis.scores, world) == {"false": [], "none": [], "effects": [True] * 3}
    other = replace(world, apart={name: (0.0, -ood) for name, (_, ood) in world.apart.items()})
    judged = raw_scores.false_scores(analysis.scores, other)
    assert judged["false"].count(raw_scores.DIFFERENCE) == 3
    assert judged["effects"] == [False] * 3
    numbers = raw_scores.score_numbers(analysis.scores, world)
    true = [one[2] for one in numbers["intervals"] if one[0] == raw_scores.DIFFERENCE]
    assert true == [0.0] * 3 + [6.0] * 3
    behind = {f"{score} {raw_scores.BEHIND}" for score in ("ID", "OOD")}  # levels do not differ from each other
    trends = {f"{score} {raw_scores.TREND}" for score in ("ID", "OOD")}
    assert {kind for kind, *_ in numbers["tests"]} == behind | trends | {f"ID {raw_scores.DIFFERENCE}"}


@pytest.mark.slow
def test_scores_alone_are_those_of_the_whole_analysis():
    """For cameras too, and claims are the same; simultaneous intervals count by family."""
    for name in ("camera effects, macro-F1", "rise and fall 0 5 0"):
        whole, alone = (coverage.looked_at(SCENARIOS[name], 5, only) for only in (False, True))
        kinds = raw_scores.SCORE_KINDS
        own = [one for one in whole["intervals"] if one[0] in kinds]
        assert [one[:2] for one in own] == [one[:2] for one in alone["intervals"]]
        np.testing.assert_array_equal([one[2:] for one in own], [one[2:] for one in alone["intervals"]])
        assert whole["claims"]["scores"] == alone["claims"]["scores"]
    rows = [(raw_scores.BEHIND, f"ood {name}", 0.0, 0.0, low, 1.0) for name, low in (("a-b", -1.0), ("c-b", 0.5))]
    sweep = {"intervals": rows, "tests": [], "equivalent": [], "equivalent scores": [],
             "claims": alone["claims"]}  # fmt: skip
    assert coverage.summary("null", [sweep])["coverage"][raw_scores.BEHIND] == 0.0


def test_a_slope_that_is_planted_is_the_truth_of_a_trend():
    world = draw(Design(levels((0, 2, 4, 6))), 1)
    true = {one[1]: one[2] for one in raw_scores.score_numbers(scores_of(world.points, Options("scratch")), world)
            ["intervals"] if one[0] == raw_scores.TREND}  # fmt: skip
    assert true == pytest.approx({"id num_images": 0.0, "ood num_images": 2.0})
    bent = draw(Design(levels((0, 5, 0))), 1)
    numbers = raw_scores.score_numbers(scores_of(bent.points, Options("scratch")), bent)
    assert all(np.isnan(one[2]) for one in numbers["intervals"] if one[:2] == (raw_scores.TREND, "ood num_images"))


def test_sweeps_that_are_kept_are_not_run_again(tmp_path, monkeypatch):
    first = coverage.run("null", 2, keep=tmp_path)
    asked = []
    monkeypatch.setattr(coverage, "looked_at", lambda _, seed, scores_only: asked.append(seed) or first[0])
    again = coverage.run("null", 3, keep=tmp_path)
    assert asked == [coverage.hash_seed("null", 2)]
    assert coverage.summary("null", again[:2]) == coverage.summary("null", first)
    file = tmp_path / coverage.code() / "null.jsonl"
    assert len(file.read_text().splitlines()) == 3
    file.write_text(file.read_text() * 2 + '{"seed": 1, "interv')  # written by two runs, one of which was ended
    assert coverage.summary("null", coverage.run("null", 3, keep=tmp_path)) == coverage.summary("null", again)
    assert len(asked) == 1


ONE_OF_EACH = (
    "lone trial, category of 4", "points 1 2 3 12, planted", "rise and fall 0 5 5 0", "curved line", "OOD is ID",
    "flat line", "200 shared ID images", "longer baseline leaves the line", "seeds shared, levels -.8",
    "3 trials against 12", "same probit shift at other ID scores", "plain table without cluster",
    "three trials, cut by the range",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ONE_OF_EACH else pytest.mark.slow) for name in BROKEN]
)
def test_every_scenario_is_simulated_analysed_and_judged(name):
    summary = coverage.summary(name, coverage.run(name, 1))
    assert summary["claims"]["any"] in (0.0, 1.0)
    made = list(coverage.rows({name: summary})), list(coverage.claim_rows({name: summary}))
    assert all(len(header) == len(row) for header, row in made)


@pytest.mark.parametrize("name", [name for name in BROKEN if not (BROKEN[name].by_epoch or BROKEN[name].by_rate)])
def test_without_noise_every_point_lies_where_its_truth_says(name):
    many = 10**9
    design = replace(
        BROKEN[name], trial_sd=0, point_sd=0, images=many, ood_images=many, same_images=False, copied=False
    )
    world = draw(design, 1)
    points = world.points
    expected = ndtr(design.line(ndtri(points["id"].to_numpy())))
    assert 100 * (points["ood"] - expected).to_numpy() == pytest.approx(world.er, abs=0.02)


@pytest.mark.parametrize(("sign", "wanted"), [(1, 0.8), (-1, -0.8), (0, 0.0)])
def test_trials_of_a_seed_go_together_as_asked(sign, wanted):
    base, a, b = levels((0.0, 0.0), trials=60)
    design = Design((base, a, replace(b, seed=sign)), by_seed=0.8, point_sd=0, images=10**9, ood_images=10**9)
    offsets = []
    for seed in range(5):
        points = draw(design, seed).points
        off = points["ood"] - ndtr(design.line(ndtri(points["id"].to_numpy())))
        offsets.append(off.groupby([points["group"], points["seed"]], sort=False).mean().unstack()[1:].to_numpy())
    assert np.corrcoef(np.concatenate(offsets, axis=1))[0, 1] == pytest.approx(wanted, abs=0.15)


@cache
def judged_world(er, *design):
    world = draw(Design(levels(er), **dict(design)), 3)
    analysis = analyse("t", world.points, Options("scratch"))
    analysis.ancova["slopes_differ"] = False
    return world, analysis


def judge(monkeypatch, er, *sentences, **design):
    """What is judged of these findings, in a sweep with that ER at its levels."""
    world, analysis = judged_world(er, *design.items())
    monkeypatch.setattr(claims, "findings", lambda _: [Finding(*sentence) for sentence in sentences])
    return claims.judged(analysis, world)


GROUP = {"a": "num_images=10000", "b": "scratch"}
PER_TENFOLD = "Pre-training images: +2.0 points of ER per tenfold (1.0 to 3.0)."
SLOPE = ("factors", {"factor": "num_images"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("er", "finding", "false", "none"),
    [
        ((0, 5, 0), ("differs", "10000: +4.0 points of ER", "contrasts", GROUP), [], []),
        ((0, 5, 0), ("differs", "10000: −4.0 points of ER", "contrasts", GROUP), ["group"], []),
        ((0, 0, 0), ("differs", "10000: +4.0 points of ER", "contrasts", GROUP), ["group"], []),
        ((0, 2, 0), ("differs", "+1.0 points of ER, smaller than the margin of 2", "contrasts", GROUP), [], ["group"]),
        ((0, 0, 0), ("open", "Not established: 10000", "contrasts", GROUP), [], []),
        ((0, 0, 0), ("fragile", "Not robust: 10000", "contrasts", GROUP), [], []),
        ((0, 5, 0), ("equivalent", "10000: no effect", "equivalence", GROUP), [], ["group"]),
        ((0, 2, 0), ("equivalent", "10000: no effect", "equivalence", GROUP), [], ["group"]),
        ((0, 1, 0), ("equivalent", "10000: no effect", "equivalence", GROUP), [], []),
        ((0, 2, 4), ("differs", PER_TENFOLD, *SLOPE), [], []),
        ((4, 2, 0), ("differs", PER_TENFOLD, *SLOPE), ["levels"], []),
        ((0, 6, 6), ("differs", PER_TENFOLD, *SLOPE), ["levels"], []),
        ((0, 6, 6), ("differs", "Pre-training images: the levels differ.", *SLOPE), [], []),
        ((0, 0, 0), ("differs", "Pre-training images: the levels differ.", *SLOPE), ["levels"], []),
        ((0, 5, 0), ("equivalent", "Pre-training images: no effect.", *SLOPE), [], ["levels"]),
        ((0, 1, 0), ("equivalent", "Pre-training images: no effect.", *SLOPE), [], []),
    ],
)
def test_a_claim_is_judged_by_what_it_states(monkeypatch, er, finding, false, none):
    report = judge(monkeypatch, er, finding)
    assert (report["false"], report["none"]) == (false, none)


def test_a_baseline_that_makes_no_line_makes_no_claim_true(monkeypatch):
    said = ("differs", "10000: +4.0 points of ER", "contrasts", GROUP)
    assert judge(monkeypatch, (0, 5, 0), said, reference=False)["false"] == ["group"]


def test_true_effects_count_as_claimed_or_not(monkeypatch):
    report = judge(monkeypatch, (0, 5, 5), ("differs", "10000: +4.0 points of ER", "contrasts", GROUP))
    assert report["effects"] == [("group", True), ("group", False), ("levels", False)]
    assert claims.claim_summary([report], "")["claimed"] == {"group": 0.5, "levels": 0.0}


def test_an_input_that_is_refused_claims_nothing_and_names_its_matter():
    report = claims.judged(None, draw(Design(levels((0, 5, 5))), 3), ["models.csv: give --cluster run"])
    assert report["effects"] == [("group", False), ("group", False), ("levels", False)]
    summary = claims.claim_summary([report], "cluster")
    assert (summary["any"], summary["refused"], summary["warned"]) == (0.0, 1.0, 1.0)


def test_a_warning_counts_where_it_names_the_matter(monkeypatch):
    report = judge(monkeypatch, (0, 0, 0), ("open", "The baseline bends.", "trends", {}))
    assert claims.claim_summary([report], "curve")["warned"] == 1.0
    assert claims.claim_summary([report], "gap")["warned"] == 0.0


def test_scenarios_have_seeds_of_their_own():
    assert len({coverage.hash_seed(name, 0) for name in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.slow
def test_the_speed_bench_holds_both_ways_to_the_same_scores(capsys):
    bench_analysis.main(["--points", "2", "--replicates", "20", "--classes", "9", "--groups", "8", "--images", "300",
                         "--rows", "2000", "--sample", "3"])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ours_over_sklearn_loop"] > 1
    assert told["rows"] == 2_000


def test_the_resampling_bench_compares_three_methods(capsys):
    resampling.main(["--replicates", "3"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told["24 cameras, 16 species"]) == {"true_sd", "with replacement", "Bayesian", "leave one out"}
