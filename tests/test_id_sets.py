"""`task.id_sets`: further ID test sets of a sweep, tested like shifts, and a plane over all of them as the baseline."""

# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

from analysis.input.join_runs import read_runs
from analysis.input.run_points import read_run
from analysis.interface.request import Request
from analysis.report.output import tables_and_verdict
from analysis.study import Analysis, analyse_all
from ray_robust.errors import UserError
from ray_robust.metrics import METRICS, tally
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.run import shifts
from ray_robust.run.run_folder import RunFolder
from tests.test_shifts import images, root, sweep, table_of

__all__ = ["root"]
GROUPS = {"num_images=1000": 0.0, "num_images=4000": 5.0}


def with_sets(root: Path, folder: Path, sets: str = "{web: ROOT/near}", **more: str) -> Sweep:
    return sweep(root, folder, **{"task.id_sets": sets.replace("ROOT", str(root)), **more})


def two_axes(planted: dict[str, float], favoured: float = 0.0) -> pd.DataFrame:
    """Points whose OOD score follows two ID sets alike, with the second as a row `id:web`; groups score that many
    probits better on the own ID set, as models pre-trained on its kind of images do."""
    own = fake_run.sweep(planted, epochs=(3, 6, 9, 12), trial_sd=0.002, noise_sd=0.002)
    random = np.random.default_rng(3)
    x = ndtri(own["id"]) + favoured * (own["group"] != "scratch")
    z = ndtri(own["id"]) + 0.35 * random.standard_normal(len(own))
    er = own["group"].map({"scratch": 0.0, **planted}) / 100
    noise = 0.002 * random.standard_normal(len(own))
    ood = ndtr(-0.7 + 0.4 * (x - favoured * (own["group"] != "scratch")) + 0.4 * z) + er + noise
    own = own.assign(id=ndtr(x), ood=np.clip(ood, 0.01, 0.99), shift="ood")
    web = own.assign(shift="id:web", ood=ndtr(z), ood_images=700)
    return pd.concat([own, web], ignore_index=True)


def analysed(run: RunFolder) -> Analysis:
    (analysis,) = analyse_all(*read_run(run.storage.address))
    return analysis


def test_an_id_set_is_a_part_of_the_pool_and_changes_no_draw(root: Path, tmp_path: Path):
    plain, several = sweep(root, tmp_path), with_sets(root, tmp_path)
    (task,) = several.tasks.values()
    assert task.catalog.parts[-1] == "shift:id:web"
    assert [shifts.named(part) for part in ("shift:id:web", "shift:v2", "id_test")] == [
        "ID set web", "shift v2", "id_test",
    ]  # fmt: skip
    assert [trial.id for trial in plain.plan] == [trial.id for trial in several.plan]
    (before,), (after,) = (one.plan.trials[0].finetunings for one in (plain, several))
    assert before.id != after.id  # its files hold more scores
    assert before.training == after.training == before.id
    assert any(line == "ID set web: 104 images of all classes." for line in task.outline())


@pytest.mark.slow
def test_a_point_has_its_score_on_every_id_set(root: Path, tmp_path: Path):
    run, every = table_of(with_sets(root, tmp_path, **{"task.shifts": f"{{few: {{path: {root}/few, unseen: drop}}}}"})
                          .plan, tmp_path)  # fmt: skip
    table, options = read_run(run.storage.address)
    assert options.id_names == ("id_test", "web")
    assert options.ids == ("id_1", "id_2")
    rows = every.loc[every["shift"] == "id:web"].set_index("epoch")
    for point in table.points.to_dict("records"):
        assert point["id_1"] == point["id"]
        assert point["id_2"] == rows.loc[point["epoch"], "ood"]
        assert (point["id_1_images"], point["id_2_images"]) == (120, 104)
    (trial,) = {*every["trial"]}
    folder = run.trial(trial)
    predictions = pd.read_parquet(next(Path(folder.storage.local(), "predictions").glob("*.parquet")))
    own = predictions.loc[predictions["split"] == "shift:id:web"].astype(str)
    metric = str(every["metric"].iloc[0])
    classes = sorted({*own["label"], *own["epoch_8"]})
    codes = [own[c].map(classes.index).to_numpy() for c in ("label", "epoch_8")]
    assert METRICS[metric].score(tally(*codes)) == pytest.approx(rows.loc[8, "ood"])
    (analysis,) = analyse_all(table, options)
    assert [one.name for one in analysis.shifts.results] == []  # it is no shift, and `few` has some classes alone


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("{web: ROOT/nowhere}", "ID set web: "),
        ("{web: {path: ROOT/few, unseen: drop}}", "ID set web: has no image of 2 of the classes of id_test (ant, cat); "
                                                  "an ID set has them all"),
        ("{web: {path: ROOT/near, classes: all}}", "task.id_sets: web.classes: unknown key; known: images, label, path, "
                                                   "unseen"),
        ("{web/1: ROOT/near}", "task.id_sets: 'web/1' is no name of an ID set: letters, digits and . _ + - (40 at most); "
                               "quote a number"),
        ("{id_test: ROOT/near}", "task.id_sets: id_test is the name of the task's own part"),
        ("[ROOT/near]", "task.id_sets: must map names to test sets, e.g. {web: ~/data/web_test}"),
    ],
)  # fmt: skip
def test_errors_name_the_id_set(root: Path, tmp_path: Path, sets: str, message: str):
    with pytest.raises(UserError) as caught:
        with_sets(root, tmp_path, sets)
    assert message in str(caught.value)


def test_what_has_no_labels_is_estimated_over_one_id_set(root: Path, tmp_path: Path):
    shifts = f"{{mine: {{path: {root}/near/cat, labels: none}}}}"
    with pytest.raises(UserError, match="accuracy without labels is estimated over one ID test"):
        with_sets(root, tmp_path, **{"task.shifts": shifts, "task.metric": "accuracy"})


def test_the_same_images_twice_are_refused(root: Path, tmp_path: Path):
    with pytest.raises(UserError, match="shift near and ID set web are the same images; leave one out"):
        with_sets(root, tmp_path, **{"task.shifts": f"{{near: {root}/near}}"})
    images(tmp_path / "more", ("ant", "bee", "cat", "dog"), 3, 9)
    (task,) = with_sets(root, tmp_path, f"{{web: {tmp_path}/more}}").tasks.values()
    assert "ID set web has 12 images: one of them moves its accuracy by 8.3 points" in task.catalog.warnings


def test_a_model_that_one_id_set_favours_is_judged_by_all(tmp_path: Path):
    """On the own ID set alone its expectation is too high: an effect that is none (Shi et al. 2023)."""
    every = two_axes({"num_images=1000": 0.0, "num_images=4000": 0.0}, favoured=0.5)
    several = analysed(fake_run.run_folder(tmp_path / "several", every))
    own = every.loc[every["shift"] == "ood"].reset_index(drop=True)
    alone = analysed(fake_run.run_folder(tmp_path / "alone", own))
    assert several.options.id_names == ("id_test", "web")
    by_group = [one.groups.set_index("group")["er"] for one in (alone, several)]
    assert (by_group[0].drop("scratch") < -4).all()
    assert several.id_sets["id_set"].tolist() == ["id_test", "web"]
    plane = every.loc[(every["shift"] == "ood") & (every["group"] == "scratch")].reset_index(drop=True)
    web = every.loc[(every["shift"] == "id:web") & (every["group"] == "scratch"), "ood"].to_numpy()
    design = np.column_stack([np.ones(len(plane)), ndtri(plane["id"]), ndtri(web)])
    fitted = np.linalg.lstsq(design, ndtri(plane["ood"]), rcond=None)[0]
    shares = several.id_sets["share"].to_numpy(float)
    assert shares == pytest.approx(fitted[1:] / fitted[1:].sum(), abs=1e-6)
    points = several.points.loc[several.points["group"] == "num_images=4000"]
    assert not points.empty


def test_a_planted_effect_is_seen_on_the_plane(tmp_path: Path):
    analysis = analysed(fake_run.run_folder(tmp_path / "run", two_axes(GROUPS)))
    groups = analysis.groups.set_index("group")
    assert not analysis.refused
    for name, er in GROUPS.items():
        assert groups.loc[name, "er"] == pytest.approx(er, abs=0.5)
    assert {"id_1", "id_2"} <= set(analysis.scores.groups["score"])
    assert any("several ID sets: intervals speak of the ID test images" in note for note in analysis.notes) or (
        "same test images" in analysis.target
    )


def test_runs_with_other_id_sets_are_not_joined(tmp_path: Path):
    every = two_axes(GROUPS)
    fake_run.run_folder(tmp_path / "a", every)
    fake_run.run_folder(tmp_path / "b", every.loc[every["shift"] == "ood"].reset_index(drop=True))
    with pytest.raises(UserError, match=r"its ID sets is id_test, that of .* is id_test, web: no join"):
        read_runs([str(tmp_path / "a"), str(tmp_path / "b")])


def test_the_order_of_the_id_sets_in_a_spec_means_nothing(tmp_path: Path):
    """Two runs that name the same sets in another order, joined: each column holds the scores on one set."""
    every = two_axes(GROUPS)
    own, web = (every.loc[every["shift"] == name] for name in ("ood", "id:web"))
    cam = web.assign(shift="id:cam", ood=web["ood"] / 2)
    for run, order, group in (("a", [web, cam], "num_images=1000"), ("b", [cam, web], "num_images=4000")):
        rows = pd.concat([own, *order], ignore_index=True)
        fake_run.run_folder(tmp_path / run, rows.loc[rows["group"].isin(["scratch", group])])
    joined, options = read_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert options.id_names == ("id_test", "cam", "web")
    assert set(joined.points["group"]) == {"scratch", *GROUPS}
    assert joined.points["id_2"].to_numpy() == pytest.approx(joined.points["id_3"].to_numpy() / 2)


def test_a_point_without_a_score_on_an_id_set_is_left_out_and_said(tmp_path: Path):
    every = two_axes(GROUPS)
    trial = every["trial"].unique()[-1]
    gone = (every["shift"] == "id:web") & (every["trial"] == trial)
    table, _ = read_run(fake_run.run_folder(tmp_path / "run", every.loc[~gone]).storage.address)
    assert trial not in set(table.points["trial"])
    assert table.left_out["reason"].eq("no score on one of several ID sets").all()
    assert set(table.left_out["trial"]) == {trial}


@pytest.mark.slow
def test_the_report_names_the_id_sets(tmp_path: Path):
    from analysis.interface.request import read
    from analysis.interface.study import Study

    run = fake_run.run_folder(tmp_path / "run", two_axes(GROUPS))
    table, options, target = read(Request((run.storage.address,)))
    study = Study(table, analyse_all(table, options), target)
    files = tables_and_verdict(table, study.analyses, study.verdict)
    assert b"web" in files["id_sets.csv"]
