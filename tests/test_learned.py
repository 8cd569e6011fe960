"""Was anything learned: upstream accuracy against chance, late improvement, classes and test groups under shift, each
against a few lines of pandas or a textbook answer."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis as package
from analysis.input import run_curves, run_points, run_predictions
from analysis.input.table import Table
from analysis.learned import shift, upstream
from analysis.learned.learned import Learned
from analysis.options import Options
from analysis.report import output, terminal
from analysis.report.learned_charts import MOST_CURVES, MOST_POINTS, drawn
from analysis.report.learned_tables import MOST_TEST_GROUPS, drawn_test_groups, of_learned
from analysis.stats.contrasts import holm
from analysis.study import analyse_all
from analysis.verdict import verdict
from ray_robust.run.learning_curve import LearningCurve
from ray_robust.run.run_folder import RunFolder
from tests.fake_run import run_folder, sweep

SCHEMA = json.loads((Path(package.__file__).parent / "verdict.schema.json").read_text("utf-8"))
CLASSES, CAMERAS = ("fox", "hare", "owl <b>", "=1+1"), ("cam <i>1</i>", "cam\x1b2", "=cmd", "north", "south")


def curve(losses, held_out=(), steps: int = 0) -> LearningCurve:
    steps = steps or len(losses)
    step = tuple(np.linspace(steps / len(losses), steps, len(losses)).round().astype(int).tolist())
    at = tuple(round(steps * (i + 1) / len(held_out)) for i in range(len(held_out)))
    return LearningCurve("pretrain", steps, 32, 320, step, tuple(losses), tuple(0.1 for _ in step), at, tuple(held_out))


def predicted(seed: int, columns: list[str], skill: float) -> pd.DataFrame:
    """Predictions of a fine-tuning as `trial.outputs` writes them, on images that are the same for every seed."""
    fixed, random = np.random.default_rng(7), np.random.default_rng(seed)
    parts = []
    for split, count in (("id_val", 20), ("ood_val", 20), ("id_test", 300), ("ood_test", 400)):
        label, group = fixed.integers(0, len(CLASSES), count), fixed.integers(0, len(CAMERAS), count)
        part = {"split": split, "image": [f"{split}-{i}" for i in range(count)],
                "label": np.asarray(CLASSES, object)[label], "group": np.asarray(CAMERAS, object)[group]}  # fmt: skip
        hit = skill - (0.3 * (label == 2) if split.startswith("ood") else 0) + 0.05 * (group == 3)
        for column in columns:
            guess = np.where(random.random(count) < hit, label, (label + 1) % len(CLASSES))
            part[column] = np.asarray(CLASSES, object)[guess]
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def write_run(path: Path, grouped: bool = True, upstream_of=lambda row: 0.5, curves=lambda row: None) -> RunFolder:
    """A simulated sweep with predictions, upstream accuracy and learning curves."""
    points = sweep({"num_images=1000": 1.0, "num_images=4000": 4.0}, epochs=(3, 6))
    points["pretrain_method"] = np.where(points["num_images"] > 0, "supervised", "scratch")
    points["pretrain_images_seen"] = np.where(points["num_images"] > 0, 1000, 0)
    points["upstream_accuracy"] = [upstream_of(row) if row["num_images"] else None for _, row in points.iterrows()]
    run = run_folder(path, points)
    for number, ((trial, finetune), own) in enumerate(points.groupby(["trial", "finetune"])):
        skill = 0.6 + 0.05 * own["num_images"].iloc[0] / 4000
        table = predicted(number, [f"epoch_{epoch}" for epoch in own["epoch"]], skill)
        buffer = io.BytesIO()
        (table if grouped else table.drop(columns="group")).to_parquet(buffer, index=False)
        run.trial(trial).storage.write(f"predictions/{finetune}.parquet", buffer.getvalue())
    for trial, own in points.groupby("trial"):
        folder, row = run.trial(trial), own.iloc[0]
        facts = folder.storage.read_json("trial.json") | {
            "labels": {f"label {i}": 50 for i in range(20)}, "held_out": {"images": 200, "most_per_label": 12},
        }  # fmt: skip
        folder.storage.write_json("trial.json", facts)
        if row["num_images"] and (recorded := curves(row)) is not None:
            folder.keep_curves("pretrain", [recorded])
            for finetune in own["finetune"].unique():
                folder.keep_curves(finetune, [recorded])
        folder.finish(json.loads(own.to_json(orient="records")), {"seconds": 12.5})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    falling = tuple(3 * math.exp(-step / 4) + 1 for step in range(100))
    return write_run(tmp_path_factory.mktemp("learned") / "run", curves=lambda row: curve(falling))


def analysed(run: RunFolder):
    table, options = run_points.read_run(run.storage.address)
    analyses = analyse_all(table, options)
    return table, analyses


@pytest.fixture(scope="module")
def made(run):
    table, analyses = analysed(run)
    return table, analyses[0], analyses[0].learned


def chosen_predictions(run: RunFolder, table: Table, group: str) -> list[pd.DataFrame]:
    """What the points with the best id_val of a group's trials predicted: columns split, label, group, guess."""
    own = table.points[table.points["group"] == group]
    best = own.loc[own.groupby("trial")["id_val"].idxmax()].sort_values("seed")
    frames = []
    for row in best.itertuples():
        frame = pd.read_parquet(Path(run.storage.address) / f"trials/{row.trial}/predictions/{row.finetune}.parquet")
        frames.append(frame.assign(guess=frame[f"epoch_{row.epoch}"].astype(str)))
    return frames


# ---- test groups and classes


def test_scores_by_test_group_are_what_pandas_makes_of_the_files(run, made):
    table, _, own = made
    shown = own.test_groups
    accuracies = {}
    for group in table.points["group"].unique():
        accuracies[group] = pd.DataFrame([
            100 * (frame["label"] == frame["guess"])[frame["split"] == "ood_test"].groupby(frame["group"]).mean()
            for frame in chosen_predictions(run, table, group)
        ])  # fmt: skip
    for group, expected in accuracies.items():
        rows = shown[(shown["group"] == group) & (shown["split"] == "ood_test")].set_index("test_group")
        assert set(rows.index) == set(CAMERAS)
        assert rows["score"].to_dict() == pytest.approx(expected.mean().to_dict())
        sizes = predicted(0, [], 0).query("split == 'ood_test'")["group"].value_counts()
        assert rows["images"].to_dict() == sizes.to_dict()
        if group == "scratch":
            assert rows["delta"].isna().all()
            continue
        tests = stats.ttest_rel(expected, accuracies["scratch"])  # the same three seeds
        ends = tests.confidence_interval()
        order = list(expected.columns)
        assert rows.loc[order, "delta"].tolist() == pytest.approx((expected - accuracies["scratch"]).mean().tolist())
        assert rows.loc[order, "p"].tolist() == pytest.approx(list(tests.pvalue))
        assert rows.loc[order, "delta_low"].tolist() == pytest.approx(list(ends.low))
        assert rows.loc[order, "p_adjusted"].tolist() == pytest.approx(holm(rows.loc[order, "p"].to_numpy()).tolist())


def test_without_shared_seeds_differences_are_welchs():
    a, b = np.array([[50.0, 7], [52, 7], [55, 7]]), np.array([[40.0, 5], [47, 5]])
    one, test = shift._differences(a, b, None), stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    ends = test.confidence_interval()
    values = [getattr(one, name)[0] for name in ("value", "p", "df", "low", "high")]
    assert values == pytest.approx([a[:, 0].mean() - b[:, 0].mean(), test.pvalue, test.df, ends.low, ends.high])
    assert (one.value[1], *np.isnan([one.low[1], one.high[1]])) == (2, True, True)  # nothing varies: no spread is seen
    single = shift._means(np.array([[50.0]]))
    assert np.isnan([*one.p[1:], *single.low, *single.p]).all()


def test_every_cell_is_counted_once_however_many_groups(made, monkeypatch):
    """The time of a table grows with what was predicted, not with that times the groups."""
    counted, dense = [], shift._dense

    def count(confusion, cells, *more):
        counted.append(len(cells))
        return dense(confusion, cells, *more)

    monkeypatch.setattr(shift, "_dense", count)
    confusion, _ = run_predictions.count(made[0].runs, made[1].points)
    assert confusion is not None
    right = (confusion.cells["label"] == confusion.cells["guess"]).sum()
    shift.class_table(confusion)
    assert len(counted) == 2 * confusion.units["group"].nunique() > 4
    assert sum(counted) == len(confusion.cells) + right


def test_recall_by_class_and_its_change_are_what_pandas_makes_of_the_files(run, made):
    table, _, own = made
    recalls = {
        split: pd.DataFrame([
            100 * (f["label"] == f["guess"])[f["split"] == split].groupby(f["label"]).mean()
            for f in chosen_predictions(run, table, "num_images=4000")
        ]).mean() for split in ("id_test", "ood_test")
    }  # fmt: skip
    rows = own.classes[own.classes["group"] == "num_images=4000"].set_index("class")
    assert rows["id_recall"].to_dict() == pytest.approx(recalls["id_test"].to_dict())
    assert rows["ood_recall"].to_dict() == pytest.approx(recalls["ood_test"].to_dict())
    assert rows["change"].to_dict() == pytest.approx((recalls["ood_test"] - recalls["id_test"]).to_dict())
    assert rows.index[0] == "owl <b>"  # the planted loss
    assert rows.loc["owl <b>", "high"] < 0
    assert (rows["low"] <= rows["change"]).all()
    assert (rows["change"] <= rows["high"]).all()


def test_confusions_that_grow_are_counted(run, made):
    table, _, own = made
    rows = own.confusions[own.confusions["group"] == "num_images=4000"].reset_index(drop=True)
    first = rows.iloc[0]
    assert (first["class"], first["taken_for"]) == ("owl <b>", "=1+1")
    shares = {}
    for split in ("id_test", "ood_test"):
        frames = [f[(f["split"] == split) & (f["label"] == "owl <b>")] for f in
                  chosen_predictions(run, table, "num_images=4000")]  # fmt: skip
        shares[split] = 100 * np.mean([(f["guess"] == "=1+1").mean() for f in frames])
    assert [first["id_share"], first["ood_share"]] == pytest.approx([shares["id_test"], shares["ood_test"]])
    assert first["change"] == pytest.approx(shares["ood_test"] - shares["id_test"])
    assert first["more_images"] == pytest.approx(first["change"] / 100 * first["ood_images"])
    assert rows["more_images"].is_monotonic_decreasing


def test_the_error_over_test_groups_is_the_jackknife():
    random = np.random.default_rng(0)
    images = random.integers(20, 60, (1, 8)).astype(float)
    hits = np.round(images * random.uniform(0.1, 0.9, 8))
    variance, df = shift._over_images(hits, images, grouped=True)
    left = [(hits.sum() - h) / (images.sum() - n) for h, n in zip(hits[0], images[0], strict=True)]
    assert variance[0] == pytest.approx(7 / 8 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert df[0] == 7
    one_group, _ = shift._over_images(hits[:, :1], images[:, :1], grouped=True)
    assert np.isnan(one_group[0])
    none_right, df = shift._over_images(np.zeros((1, 1)), np.full((1, 1), 5.0), grouped=False)
    assert none_right[0] == pytest.approx((2 / 9) * (7 / 9) / 5)
    assert df[0] == 4


def test_a_task_without_groups_has_classes_alone(tmp_path):
    _, analyses = analysed(write_run(tmp_path / "run", grouped=False))
    own = analyses[0].learned
    assert own.test_groups.empty
    assert len(own.classes) == 3 * len(CLASSES)
    assert own.classes["low"].notna().all()


def test_missing_predictions_are_said(tmp_path):
    run = write_run(tmp_path / "run")
    table, _ = run_points.read_run(run.storage.address)
    for file in Path(run.storage.address).glob("trials/*1000*/predictions/*.parquet"):
        file.write_bytes(b"PAR1")
    confusion, note = run_predictions.count(table.runs, table.points)
    assert confusion is None
    assert "points are missing or damaged" in note


# ---- upstream accuracy and learning curves


def test_upstream_accuracy_stands_beside_chance_with_wilsons_interval(made):
    _, analysis, own = made
    assert own.upstream["group"].tolist() == ["num_images=1000", "num_images=4000"]
    row = own.upstream.iloc[0]
    ends = stats.binomtest(300, 600).proportion_ci(0.95, "wilson")
    assert [row["accuracy"], row["low"], row["high"]] == pytest.approx([50, 100 * ends.low, 100 * ends.high])
    assert [row["chance"], row["per_label"]] == pytest.approx([6.0, 5.0])  # 12 of 200, and 20 labels
    assert not row["hardly_learned"]
    assert not row["still_improving"]
    assert own.warnings == ()
    assert not any("pre-training" in sentence for sentence in analysis.warnings)


def test_one_old_pre_training_at_chance_is_warned_of_without_an_interval():
    trials = pd.DataFrame([("a", "g", "supervised", 0.05, math.nan, 20.0, 0.06)], columns=list(run_curves.UPSTREAM))
    table = upstream.upstream_table(trials, {}, ["g"])
    assert table["low"].isna().all()
    assert table["hardly_learned"].all()


@pytest.mark.slow
def test_a_pre_training_at_chance_is_warned_of(tmp_path, capsys):
    low = write_run(tmp_path / "run", upstream_of=lambda row: 0.065 if row["num_images"] == 1000 else 0.5)
    table, analyses = analysed(low)
    warning = next(w for w in analyses[0].warnings if w.startswith("pre-training hardly learned"))
    assert "num_images=1000 6.5 % (4.8 to 8.8; chance 6.0)" in warning
    assert "num_images=4000" not in warning
    terminal.show(table, analyses, "page")
    printed = capsys.readouterr().out
    assert "note pre-training hardly learned" in printed
    assert "upstream accuracy: num_images=1000 6.5 %" in printed
    made = json.loads(json.dumps(verdict(analyses)))
    jsonschema.validate(made, SCHEMA)
    own = made["learned"]["upstream"]
    assert own["num_images=1000"]["hardly_learned"]
    assert not own["num_images=4000"]["hardly_learned"]
    assert any("left no learning curve" in note for note in made["learned"]["notes"])


WILD = [{"labels": {"a": 10**400}}, {"labels": {"a": True, "b": -5}}, {"labels": [1]}, {"labels": None, "held_out": 3}]
WILD += [{"held_out": {"images": images, "most_per_label": most}} for images, most in (
    (10**400, 1), (10**30, 10**31), (-3, 1), (True, True), (10, 50), (200, -1),
)]  # fmt: skip


@pytest.mark.parametrize("facts", WILD)
def test_wild_facts_of_a_run_without_checksums_end_no_report(tmp_path, facts):
    points = sweep({"num_images=1000": 1.0, "num_images=4000": 4.0}, epochs=(3,))
    wild = dict(zip(points["trial"].unique(), [0.5, 0.5, 0.5, math.inf, -1.0, 2.0, 0.5, 0.5, 0.6], strict=True))
    points["upstream_accuracy"] = points["trial"].map(wild)
    made = run_folder(tmp_path / "run", points)
    for trial in wild:
        made.trial(trial).storage.write_json("trial.json", facts)
    table = run_curves.upstream([made], points)
    assert list(table["accuracy"]) == [0.5] * 5 + [0.6]
    rows = upstream.upstream_table(table, {}, list(points["group"].unique()))
    assert list(rows["group"]) == ["scratch", "num_images=4000"]
    assert rows["accuracy"].between(0, 100).all()
    assert not rows["images"].notna().any()


@pytest.mark.parametrize(("losses", "improving"), [
    ([3 - 0.01 * step for step in range(100)], True),  # a straight fall: half of it came late
    ([3 * math.exp(-step / 8) + 1 for step in range(100)], False),
    ([3 - 0.3 * math.log1p(step) for step in range(100)], False),
])  # fmt: skip
def test_a_loss_that_falls_late_says_that_more_training_would_add(losses, improving):
    fall = upstream.late_fall(curve(losses))
    assert fall is not None
    assert fall.improving is improving
    assert fall.low <= fall.share <= fall.high


def test_the_late_share_of_a_straight_fall_is_a_half():
    assert upstream.late_fall(curve(np.linspace(3, 1, 200).tolist())).share == pytest.approx(0.5, abs=0.04)


def test_noise_widens_the_interval_and_no_fall_is_none():
    random = np.random.default_rng(1)
    assert upstream.late_fall(curve((3 + 0.1 * random.standard_normal(100)).tolist())) is None
    assert upstream.late_fall(curve([3.0, 2.0, 1.0])) is None  # too short to judge
    straight = np.linspace(3, 2, 100)
    bare, noisy = (upstream.late_fall(curve((straight + sd * random.standard_normal(100)).tolist())) for sd in (0, 0.1))
    assert noisy.high - noisy.low > 5 * (bare.high - bare.low)


def test_a_loss_that_falls_while_held_out_accuracy_does_not_is_no_reason_for_more():
    losses = np.linspace(3, 1, 100).tolist()
    assert upstream.late_fall(curve(losses, held_out=(0.3, 0.4))).improving
    assert not upstream.late_fall(curve(losses, held_out=(0.4, 0.4))).improving


@pytest.mark.slow
def test_half_of_a_groups_trainings_must_be_improving(tmp_path):
    straight, done = np.linspace(3, 1, 100).tolist(), [3 * math.exp(-step / 8) + 1 for step in range(100)]
    late = write_run(tmp_path / "run", curves=lambda row: curve(
        straight if (row["num_images"] == 1000 and row["seed"] < 2) or row["seed"] == 0 else done))  # fmt: skip
    _, analyses = analysed(late)
    table = analyses[0].learned.upstream.set_index("group")
    assert table["n_improving"].to_dict() == {"num_images=1000": 2, "num_images=4000": 1}
    assert table["still_improving"].to_dict() == {"num_images=1000": True, "num_images=4000": False}
    warning = next(w for w in analyses[0].warnings if "still improving" in w)
    assert "num_images=1000" in warning
    assert "num_images=4000" not in warning


# ---- the report


@pytest.mark.slow
def test_the_report_has_the_section_and_its_files(run, tmp_path):
    table, analyses = analysed(run)
    output.write(str(tmp_path), table, analyses, verdict(analyses))
    page = (tmp_path / "index.html").read_text("utf-8")
    assert 'id="learned-0"' in page
    assert page.index('id="verdict"') < page.index('id="learned-0"') < page.index('id="checks-0"')
    for file in ("upstream", "learning_curves", "classes", "confusions", "test_groups"):
        assert (tmp_path / f"{file}.csv").exists()
    assert (tmp_path / "export" / "test_groups.svg").exists()
    assert (tmp_path / "export" / "learning.svg").exists()
    assert "owl <b>" not in page
    assert "cam <i>" not in page
    assert "\x1b" not in page
    curves = pd.read_csv(tmp_path / "learning_curves.csv")
    assert set(curves["stage"]) == {"pretrain"}
    assert set(curves["group"]) == {"num_images=1000", "num_images=4000"}


@pytest.mark.slow
def test_a_table_that_no_sweep_wrote_lacks_the_section(tmp_path):
    points = sweep({"num_images=1000": 1.0})[["trial", "group", "id", "ood"]].assign(task="task")
    table = Table("plain", points, ("trial", "group"), pd.DataFrame(columns=["trial", "group", "task", "reason"]))
    analyses = analyse_all(table, Options("scratch"))
    assert analyses[0].learned.upstream.empty
    output.write(str(tmp_path), table, analyses, verdict(analyses))
    assert "learned-0" not in (tmp_path / "index.html").read_text("utf-8")
    assert not (tmp_path / "test_groups.csv").exists()
    assert "learned" not in verdict(analyses)


def test_of_very_many_test_groups_and_curves_the_page_draws_some(made):
    _, analysis, _ = made
    many = pd.DataFrame({"split": "ood_test", "test_group": [f"c{i}" for i in range(323)], "images": 9, "group": "g",
                         "delta": np.arange(323.0)}).reindex(columns=list(shift.TEST_GROUPS))  # fmt: skip
    shown = drawn_test_groups(Learned(test_groups=many, compared="g"))
    assert len(shown) == MOST_TEST_GROUPS
    assert shown["delta"].tolist() == [*range(322, 302, -1), *range(19, -1, -1)]
    one = pd.DataFrame({"trial": "t", "training": "pretrain", "stage": "pretrain", "step": range(200),
                        "images_seen": 0, "epoch": 0, "loss": np.arange(200.0)})  # fmt: skip
    curves = pd.concat([one.assign(trial=f"t{i}", group=f"g{i % 60}") for i in range(120)], ignore_index=True)
    rows = drawn(curves, "pretrain")
    assert rows["curve"].nunique() == MOST_CURVES
    assert rows.groupby("curve")["step"].max().eq(199).all()
    assert len(rows) <= MOST_CURVES * MOST_POINTS
    first = rows[rows["curve"] == rows["curve"].iloc[0]]
    assert first["loss"].tolist()[:2] == [1.5, 5.5]  # means of four
    assert len(of_learned(analysis)["classes"].rows) <= 20
