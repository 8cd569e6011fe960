"""Which look along fine-tuning counts: all three side by side, one in use, a warning where another says otherwise."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from fake_run import run_folder, sweep

from analysis.findings import findings
from analysis.input.run_points import read_run
from analysis.interface.request import Request, read
from analysis.interface.study import Study
from analysis.options import Options, check_options
from analysis.stats.looks import rows_at
from analysis.study import Analysis, analyse, analyse_all, so_far
from analysis.verdict import verdict
from analysis.views import views
from ray_robust.errors import UserError
from ray_robust.run.interim import Interim
from ray_robust.run.run_folder import RunFolder
from ray_robust.status.progress import er_so_far

SCHEMA = json.loads((Path(__file__).parents[1] / "analysis/verdict.schema.json").read_text("utf-8"))
GAIN, LATE = "num_images=1000", "num_images=64000"
ER = ["er", "er_low", "er_high"]


def vanishing(seed: int = 0) -> pd.DataFrame:
    """ER of one group is +5 at the first of four looks and 0 at the last (Andreassen et al. 2021); of the other +4
    throughout."""
    points = sweep({GAIN: 4.0, LATE: 0.0}, seed=seed)
    late = points["group"] == LATE
    return points.assign(ood=points["ood"] + late * 0.05 * (12 - points["epoch"]) / 9)


def at(look: str, points: pd.DataFrame | None = None) -> Analysis:
    own = vanishing() if points is None else points
    return analyse("camera-traps", own, Options("scratch", look=look), checked=False)


def kept(points: pd.DataFrame, look: str) -> pd.DataFrame:
    """Those points by hand: the baseline's, and of each fine-tuning the last, or that with the highest id_val."""
    column = {"last": "epoch", "id_val": "id_val"}[look]
    groups = points.loc[points["group"] != "scratch"]
    rows = groups.groupby(["trial", "finetune"])[column].idxmax()
    return points.loc[sorted([*points.index[points["group"] == "scratch"], *rows])]


@pytest.mark.parametrize("look", ["last", "id_val"])
def test_er_at_a_look_is_that_of_a_run_with_no_other(look):
    points = vanishing()
    rows, why = rows_at(points, "scratch", look)
    assert why == ""
    assert list(rows) == list(kept(points, look).index)
    made, alone = at(look), at("mean", kept(points, look).reset_index(drop=True))
    pd.testing.assert_frame_equal(made.groups, alone.groups)
    pd.testing.assert_frame_equal(made.contrasts, alone.contrasts)
    pd.testing.assert_frame_equal(made.factor_table, alone.factor_table)
    pd.testing.assert_frame_equal(made.scores.groups, at("mean").scores.groups)  # raw scores have a rule of their own
    pd.testing.assert_frame_equal(made.selection, at("mean").selection)
    pd.testing.assert_frame_equal(made.progress, at("mean").progress)


def test_all_three_stand_side_by_side_whichever_is_in_use():
    tables = {look: at(look).looks.table.set_index(["group", "look"]) for look in ("mean", "last", "id_val")}
    for look, table in tables.items():
        assert list(table["used"]) == [name == look for _, name in table.index]
        pd.testing.assert_frame_equal(table[ER], tables["mean"][ER])
        own = at(look).groups.set_index("group")
        for group in (GAIN, LATE):
            assert table.loc[(group, look), ER].tolist() == pytest.approx(own.loc[group, ER].tolist())


def test_a_difference_is_of_the_same_trials():
    row = at("mean").looks.table.set_index(["group", "look"]).loc[LATE, "last"]
    points = at("mean").points
    inside = points.loc[(points["group"] == LATE) & ~points["extrapolated"]]
    last = inside.loc[inside["epoch"] == 12]
    by_trial = last.groupby("trial")["er"].mean() - inside.groupby("trial")["er"].mean()
    assert row["difference"] == pytest.approx(by_trial.mean())
    naive = np.hypot(*(at("mean").looks.table.set_index(["group", "look"]).loc[(LATE, look), "er_high"]
                       - at("mean").looks.table.set_index(["group", "look"]).loc[(LATE, look), "er"]
                       for look in ("mean", "last")))  # fmt: skip
    assert row["difference_high"] - row["difference"] < naive / 2


def test_an_effect_that_vanishes_is_a_warning():
    made = at("mean")
    (sentence,) = made.looks.disagreements
    assert sentence.startswith(f"ER of {LATE} depends on the look: +2.")
    assert "as the mean of all looks, which findings speak of; " in sentence
    assert sentence in made.warnings
    table = made.looks.table
    assert set(table.loc[table["disagrees"], "group"]) == {LATE}
    held = so_far(made, Interim(0.0, True, 3, 9, {}))
    assert not held.looks.disagreements
    assert sentence not in held.warnings


@pytest.mark.slow
def test_alarms_are_rare_where_er_is_the_same_at_every_look():
    alarms = sum(bool(at("mean", sweep({GAIN: 0.0, LATE: 2.0}, seed=seed)).looks.disagreements) for seed in range(20))
    assert alarms <= 1


def test_findings_say_which_look_they_speak_of():
    assert not any("look" in finding.text for finding in findings(at("mean")))
    for look, words in (("last", "At the last look: "), ("id_val", "At the look chosen by id_val: ")):
        assert all(finding.text.startswith(words) for finding in findings(at(look)))
        made = verdict([at(look)])
        jsonschema.validate(made, SCHEMA)
        assert made["looks"]["used"] == made["method"]["look"] == look
        assert f"(effective robustness, ER, {words[3:-2]})" in made["scores"]["robustness"]


def test_other_views_are_of_the_same_look():
    made = at("last")
    assert {len(view.points) for view in views(made)} == {len(made.points)}


def test_a_single_look_is_not_mentioned():
    points = vanishing()
    single = points.loc[(points["epoch"] == 12) | (points["group"] == "scratch")].reset_index(drop=True)
    for look in ("mean", "last", "id_val"):
        made = at(look, single)
        assert made.looks.table.empty
        assert made.looks.used == look
        assert not any(word in finding.text for finding in findings(made) for word in ("last look", "id_val"))
        assert "looks" not in verdict([made])


def test_a_look_that_cannot_be_told(tmp_path):
    points = vanishing()
    points.loc[(points["group"] == GAIN) & (points["finetune"] == "lr0.001"), "id_val"] = np.nan
    made = at("id_val", points)
    assert made.looks.used == "mean"
    assert (
        "ER is the mean of all looks, not that at the look chosen by id_val: some fine-tuning has no id_val"
        in made.warnings
    )
    assert made.groups["er"].tolist() == at("mean", points).groups["er"].tolist()


def test_a_group_outside_the_line_at_one_look():
    """Late looks score higher in distribution, beyond the baseline: there is no ER there, and none is made up."""
    points = vanishing()
    points.loc[(points["group"] == LATE) & (points["epoch"] == 12), ["id", "ood"]] = 0.97, 0.6
    row = at("mean", points).looks.table.set_index(["group", "look"]).loc[LATE, "last"]
    assert row["n_used"] == 0
    assert row[[*ER, "difference"]].isna().all()
    assert not row["disagrees"]


def test_the_spec_the_option_and_a_wrong_one(tmp_path):
    run = run_folder(tmp_path / "run", vanishing())
    spec = run.storage.read("spec.yaml").decode().replace("margin: 2.0", "margin: 2.0\n  look: last")
    run.write("spec.yaml", spec)
    _, options = read_run(run.storage.address)
    assert options.look == "last"
    with pytest.raises(UserError, match=r"--look: 'lst' is no look; did you mean last\?"):
        read(Request((run.storage.address,), look="lst"))
    assert check_options(Options("scratch", look="id_val")) == []


@pytest.mark.slow
def test_an_option_is_compared_with_the_spec(tmp_path):
    run = run_folder(tmp_path / "run", vanishing())
    table, options, _ = read(Request((run.storage.address,), "", look="last"))
    made = Study(table, analyse_all(table, options), "").verdict
    (earlier,) = made["declared"]["earlier"]
    assert earlier["change"] == (
        "look is last: mean was in the spec (when it was set is not recorded), and changed by an option of this "
        "analysis"
    )
    means = {row["a"]: row for row in earlier["effects"] if row["effect"] == "mean ER"}
    assert means[LATE]["earlier"] - means[LATE]["used"] > 2
    jsonschema.validate(made, SCHEMA)


def test_status_shows_er_of_the_same_look(tmp_path):
    run = run_folder(tmp_path / "run", vanishing())
    means = er_so_far(RunFolder(run.storage.address)).means
    run.write("spec.yaml", run.storage.read("spec.yaml").decode().replace("margin: 2.0", "margin: 2.0\n  look: last"))
    last = er_so_far(RunFolder(run.storage.address)).means
    key = "camera-traps", LATE
    assert means[key] - last[key] > 2
    assert last[key] == pytest.approx(at("last").groups.set_index("group").loc[LATE, "er"], abs=0.3)
