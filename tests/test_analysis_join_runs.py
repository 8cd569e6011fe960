"""Several runs as one table: what counts once, what is merged, what is renamed, told or refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.input import join_runs, run_points
from analysis.options import Options
from analysis.study import analyse_all
from ray_robust.errors import UserError
from ray_robust.run.run_folder import RunFolder
from tests.fake_run import run_folder, sweep


@pytest.fixture
def runs(tmp_path):
    """Two runs that share the baseline and the level of 4,000 images; the second has one of its own."""
    both = {"num_images=1000": 0.0, "num_images=4000": 2.0, "num_images=16000": 4.0}
    points = sweep(both)
    first = points.loc[points["group"] != "num_images=16000"]
    second = points.loc[points["group"] != "num_images=1000"].copy()
    second["group"] = second["group"].replace({"num_images=4000": "4k", "num_images=16000": "16k"})
    run_folder(tmp_path / "small", first)
    run_folder(tmp_path / "large", second)
    return [str(tmp_path / "small"), str(tmp_path / "large")]


def rewrite(address: str, change) -> None:
    run = RunFolder(address)
    spec = run.spec()
    change(spec)
    run.write("spec.yaml", yaml.safe_dump(spec, sort_keys=False))


def refusals(addresses) -> list[str]:
    with pytest.raises(UserError) as error:
        join_runs.read_runs(addresses)
    return [str(problem) for problem in error.value.problems]


def test_a_single_run_is_itself(runs):
    one, options = join_runs.read_runs(runs[:1])
    alone, same = run_points.read_run(runs[0])
    pd.testing.assert_frame_equal(one.points, alone.points)
    assert options == same


def test_the_same_trial_counts_once_and_equal_groups_are_one(runs):
    joined, _ = join_runs.read_runs(runs)
    assert joined.name == "small + large"
    assert joined.points["trial"].nunique() == 12
    assert len(joined.points) == 12 * 12
    assert list(dict.fromkeys(joined.points["group"])) == ["scratch", "num_images=1000", "num_images=4000", "16k"]
    assert "72 points are in more than one run and count once" in joined.warnings
    assert [run.storage.address for run in joined.runs] == [RunFolder(address).storage.address for address in runs]


def test_a_point_that_scores_otherwise_in_another_run_is_told(runs, tmp_path):
    assert not any("score otherwise" in warning for warning in join_runs.read_runs(runs)[0].warnings)
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 2.0, "num_images=16000": 4.0})
    own = points.loc[points["group"] == "num_images=4000"].copy()
    own["ood"] += 0.05
    run_folder(tmp_path / "other", pd.concat([points.loc[points["group"] == "scratch"], own]))
    joined, _ = join_runs.read_runs([runs[0], str(tmp_path / "other")])
    (told,) = [warning for warning in joined.warnings if "score otherwise" in warning]
    assert told.startswith("36 of them score otherwise in another run, by up to 5.0 points")
    first = run_points.read_run(runs[0])[0].points
    assert joined.points["ood"].to_numpy() == pytest.approx(first["ood"].to_numpy())


@pytest.mark.slow
def test_the_joined_analysis_is_that_of_all_trials_in_one_run(runs, tmp_path):
    whole = sweep({"num_images=1000": 0.0, "num_images=4000": 2.0, "num_images=16000": 4.0})
    run_folder(tmp_path / "whole", whole)
    found = [analyse_all(*join_runs.read_runs(addresses))[0] for addresses in (runs, [str(tmp_path / "whole")])]
    er = [dict(zip(f.groups["n_points"].index, f.groups["er"], strict=True)) for f in found]
    assert list(er[0].values()) == pytest.approx(list(er[1].values()))
    assert found[0].factors[0].slope.value == pytest.approx(found[1].factors[0].slope.value)


def test_the_same_name_for_something_else_gets_the_run_behind_it(tmp_path, runs):
    points = sweep({"num_images=1000": 1.0}, seed=5).assign(granularity="order")
    points.loc[points["group"] == "scratch", "granularity"] = ""
    points.loc[points["group"] != "scratch", "trial"] += "x"
    run_folder(tmp_path / "coarse", points)
    joined, _ = join_runs.read_runs([runs[0], str(tmp_path / "coarse")])
    assert {"num_images=1000", "num_images=1000 (coarse)"} <= set(joined.points["group"])


def test_groups_that_no_column_tells_apart_stay_apart(tmp_path):
    """Of one run those of two learning rates; of two runs those of one name whose trials of a seed are others."""
    rates = sweep({"low rate": 0.0, "high rate": 5.0})
    run_folder(tmp_path / "rates", rates)
    again = rates.copy()
    again.loc[again["group"] == "low rate", "trial"] += "x"
    more = again.assign(seed=again["seed"] + 3, subset_seed=again["subset_seed"] + 3, trial=again["trial"] + "y")
    run_folder(tmp_path / "again", again)
    run_folder(tmp_path / "more", more)
    joined, _ = join_runs.read_runs([str(tmp_path / name) for name in ("rates", "again")])
    trials = joined.points.groupby("group", sort=False)["trial"].nunique().to_dict()
    assert trials == {"scratch": 3, "low rate": 3, "high rate": 3, "low rate (again)": 3}
    assert "low rate of again is not that of rates: trials of the same seed are others" in joined.warnings
    joined, _ = join_runs.read_runs([str(tmp_path / name) for name in ("rates", "more")])
    assert joined.points.groupby("group")["trial"].nunique().to_dict() == {"scratch": 6, "low rate": 6, "high rate": 6}
    assert not any("look the same" in warning for warning in joined.warnings)
    rewrite(str(tmp_path / "more"), lambda spec: spec.setdefault("pretrain", {}).update(lr=0.2))
    joined, _ = join_runs.read_runs([str(tmp_path / name) for name in ("rates", "more")])
    note = "pretrain.lr is not set in rates, 0.2 in more: groups that look the same are one all the same"
    assert note in joined.warnings


def test_strictest_margin_and_floor_hold_and_are_told(runs):
    rewrite(runs[1], lambda spec: spec["analysis"].update(margin=1.0, min_r2=0.9))
    joined, options = join_runs.read_runs(runs)
    assert (options.margin, options.min_r2) == (1.0, 0.9)
    assert {"margin is 1, the strictest of the runs", "min_r2 is 0.9, the strictest of the runs"} <= set(
        joined.warnings
    )


def test_runs_of_another_kind_are_refused(runs):
    rewrite(runs[1], lambda spec: spec["analysis"].update(scale="logit"))
    assert refusals(runs) == [f"{runs[1]}: its scale is logit, that of {runs[0]} is probit: no join"]
    rewrite(runs[1], lambda spec: (spec["analysis"].update(scale="probit"), spec["task"].update(shift=0.5)))
    assert refusals(runs) == [f"{runs[1]}: its task has shift: 0.5, that of {runs[0]} has shift: None: no join"]


def test_other_metrics_are_refused(tmp_path, runs):
    run_folder(tmp_path / "other", sweep({"num_images=1000": 0.0}).assign(metric="accuracy"))
    other = str(tmp_path / "other")
    assert refusals([runs[0], other]) == [f"{other}: its metric is accuracy, that of {runs[0]} is macro_f1: no join"]


def test_every_folder_that_is_no_run_is_named(tmp_path):
    said = refusals([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [line.rpartition(": ")[2] for line in said] == ["no run folder", "no run folder"] or len(said) == 2


@pytest.mark.slow
def test_other_baselines_are_told(tmp_path, runs):
    points = sweep({"num_images=64000": 3.0}, seed=8).assign(model="resnet18")
    points["trial"] += "y"
    run_folder(tmp_path / "resnet", points)
    joined, _ = join_runs.read_runs([runs[0], str(tmp_path / "resnet")])
    assert "the baselines of small and resnet have other models: one line is fitted on all of them" in joined.warnings
    assert np.isfinite(analyse_all(joined, Options("scratch"))[0].baseline.line.slope)


def test_a_baseline_of_another_meaning_is_refused(tmp_path):
    """Pre-trained on something else, or other trials of the same seeds: nothing in the joined table would show it."""
    named = sweep({"num_images=1000": 0.0, "num_images=4000": 2.0})
    named = named.loc[named["group"] != "scratch"]
    addresses = []
    for source in ("species", "fractals"):
        run_folder(tmp_path / source, named.assign(sources=json.dumps({source: 1.0}), trial=named["trial"] + source))
        addresses.append(str(tmp_path / source))
        rewrite(addresses[-1], lambda spec: spec.update(baseline={"name": "num_images=1000"}))
    assert refusals(addresses) == [
        f'{addresses[1]}: its baseline num_images=1000 has sources: {{"fractals": 1.0}}, that of {addresses[0]} has '
        'sources: {"species": 1.0}: no join'
    ]
    points = sweep({"num_images=1000": 0.0})
    sizes = []
    for size in (32, 64):
        run_folder(tmp_path / f"p{size}", points.assign(trial=points["trial"] + str(size)))
        sizes.append(str(tmp_path / f"p{size}"))
        rewrite(sizes[-1], lambda spec, size=size: spec.update(model={"name": "test_resnet", "image_size": size}))
    assert refusals(sizes) == [
        f"{sizes[1]}: its baseline scratch has other trials of the same seeds than that of {sizes[0]}: "
        f"model.image_size is 64 in {sizes[1]}, 32 in {sizes[0]}: no join"
    ]


def test_settings_are_told_where_baselines_of_other_seeds_are_one(tmp_path):
    points = sweep({"num_images=1000": 0.0})
    more = points.loc[points["group"] == "scratch"].assign(seed=points["seed"] + 3, trial=points["trial"] + "y")
    run_folder(tmp_path / "p32", points)
    run_folder(tmp_path / "p64", more)
    rewrite(str(tmp_path / "p64"), lambda spec: spec["model"].update(image_size=64))
    joined, _ = join_runs.read_runs([str(tmp_path / "p32"), str(tmp_path / "p64")])
    assert joined.points.groupby("group")["trial"].nunique().to_dict() == {"scratch": 6, "num_images=1000": 3}
    note = "model.image_size is 32 in p32, 64 in p64: groups that look the same are one all the same"
    assert note in joined.warnings


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"fingerprint": "other"}, True),
        ({"fingerprint": "other", "own": "4f1c99d02ab7", "shifts": {"v2": "x"}}, False),  # the same with a shift
        ({"own": "other", "shifts": {"v2": "x"}}, True),
        ({"fingerprint": "other", "shifts": {"v2": "x"}}, False),  # an earlier version does not tell
        ({"fingerprint": "other", "identity": "names and sizes"}, False),
        ({"fingerprint": "other", "tasks": ["another"]}, False),
    ],
)
def test_runs_on_other_test_images_are_refused(runs, change, refused):
    """Where data lies is no part of what a spec's task means; what lies there is."""
    run = RunFolder(runs[1])
    data = run.data()
    data["pools"][1] |= change
    run.write("data.json", json.dumps(data))
    if refused:
        what = f"its task camera-traps is of other images than that of {runs[0]}: no join"
        assert refusals(runs) == [f"{runs[1]}: {what}"]
    else:
        assert join_runs.read_runs(runs)[0].points["trial"].nunique() == 12


def test_what_failed_in_one_run_and_is_done_in_another_is_not_missing(tmp_path):
    points = sweep({"num_images=1000": 0.0})
    lost = points.loc[points["group"] == "num_images=1000", "trial"].iloc[0]
    run_folder(tmp_path / "broken", points, failed={lost: "out of memory"})
    run_folder(tmp_path / "mended", points)
    joined, _ = join_runs.read_runs([str(tmp_path / "broken"), str(tmp_path / "mended")])
    assert joined.left_out.empty
    assert lost in set(joined.points["trial"])
