"""What a table holds more than once, and rows that belong together: counted, reported, never a narrower interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from make_tables import in_percent, models, read, refused

from analysis.input.dependence import candidates, is_named
from analysis.options import Options
from analysis.study import analyse_all
from analysis.verdict import verdict
from bench.dependence import null_sweep, replicate, summary

COLUMNS = {"id": "id", "ood": "ood", "group": "group", "baseline": "scratch"}


def interval_of(frame: pd.DataFrame, folder) -> tuple[list[float], list[str]]:
    """Mean ER of `clip` with its interval, and the warnings beside it."""
    table = read(frame, folder)
    verdict_ = verdict(analyse_all(table, Options("standard", unit="row")))
    return [verdict_["groups"]["clip"][key] for key in ("er", "er_low", "er_high")], verdict_["warnings"]


@pytest.mark.parametrize("columns", [["model", "type", "val", "v2"], ["type", "val", "v2"]])
def test_rows_pasted_twice_count_once(columns, tmp_path):
    once, _ = interval_of(models()[columns], tmp_path)
    pasted = pd.concat([models()[columns]] * 3)
    again, warnings = interval_of(pasted, tmp_path)
    assert again == once
    assert warnings[0] == (
        "84 rows of 126, copies of another in every column, left out; runs that happen to score the same need a column "
        "that tells them apart (lines 44, 45, 46 and 81 more)"
    )


def test_copies_under_other_names_make_no_interval_narrower(tmp_path):
    once, _ = interval_of(models(), tmp_path)
    pasted = pd.concat([models().assign(model=lambda f, k=k: f["model"] + f"-v{k}") for k in range(3)])
    again, warnings = interval_of(pasted, tmp_path)
    assert again[0] == pytest.approx(once[0])
    assert np.diff(again[1:]) >= np.diff(once[1:]) * 0.97  # other draws of the bootstrap
    assert warnings[0].startswith("84 rows of 126 with the very scores of another row of the group: rows with the same")


def test_clusters_under_other_names_count_once(tmp_path):
    frame = null_sweep(0.7, 1)
    pasted = pd.concat([frame, frame.assign(trial="copy of " + frame["trial"])])
    table = read(pasted, tmp_path, **COLUMNS, cluster="trial")
    assert table.points["trial"].nunique() == 20
    assert table.warnings[0] == (
        "20 clusters of 40 with all the scores of another, such as 'copy of scratch-0' of 'scratch-0': clusters with "
        "the same scores count as one"
    )


def test_a_group_that_is_a_copy_of_another_is_reported(tmp_path):
    frame = models()
    copied = frame[:12].assign(type="copied", model=lambda f: "c" + f["model"])
    assert read(pd.concat([frame, copied]), tmp_path).warnings == (
        "'copied' and 'standard' have 12 rows with the very same scores, of 12 and 30: were they copied? Groups are "
        "compared as if they were independent",
    )
    assert read(pd.concat([frame, copied[:2]]), tmp_path).warnings == ()


def test_a_row_that_scores_as_another_is_reported(tmp_path):
    frame = models()
    frame.loc[5, ["val", "v2"]] = frame.loc[4, ["val", "v2"]]
    table = read(frame, tmp_path)
    assert table.points["trial"].nunique() == 41
    assert table.warnings[0].endswith("(line 7)")


def test_id_and_ood_of_one_column(tmp_path):
    same = (
        "t.csv:1: --id val and --ood v2 hold the same scores in every row: there is no shift between them to measure; "
        "name the column of the shifted test"
    )
    frame = models()
    assert refused(frame.assign(v2=frame["val"]), tmp_path) == [same]
    assert refused(in_percent(frame.assign(v2=frame["val"]), "v2"), tmp_path, units={"v2": "percent"}) == [same]
    line = frame["v2"].mask(frame["type"] == "standard", frame["val"])
    assert "in every row of the baseline 'standard'" in refused(frame.assign(v2=line), tmp_path)[0]
    assert refused(frame, tmp_path, ood="val") == [
        "t.csv: --id and --ood name the same column 'val': there is no shift to measure"
    ]
    some = frame["v2"].mask(frame["type"] == "clip", frame["val"])
    notes = read(frame.assign(v2=some), tmp_path).warnings
    assert notes == (
        "val and v2 are the same in 12 of 12 rows of 'clip': were the scores copied? (lines 32, 33, 34 and 9 more)",
    )


def test_ood_that_follows_from_id(tmp_path):
    frame = models().assign(v2=lambda f: (0.9 * f["val"]).round(4))
    assert read(frame, tmp_path).warnings == (
        "--ood v2 is 0.9 x val in every row, without any scatter: was it measured?",
    )


def test_id_sets_that_are_copies(tmp_path):
    frame = models().assign(same=lambda f: f["val"], half=lambda f: (f["val"] / 2 + 0.1).round(4))
    assert refused(frame, tmp_path, id=["val", "same", "half"]) == [
        "t.csv:1: --id same is a copy of val in every row: they are one ID set; name one of them",
        "t.csv:1: --id half is 0.5 x val + 0.1 in every row: they are one ID set; name one of them",
        "t.csv:1: --id half is 0.5 x same + 0.1 in every row: they are one ID set; name one of them",
    ]


@pytest.mark.parametrize("column", ["trial", "seed", "run", "Run ID", "model_id", "checkpoint", "subsetSeed", "fold"])
@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_a_column_that_names_trainings_is_asked_for(column, effect, tmp_path):
    """By its name alone, whether or not its rows are alike."""
    frame = null_sweep(effect, 1).rename(columns={"trial" if column != "seed" else "seed": column})
    frame = frame[["group", column, "id", "ood"]]
    said = refused(frame, tmp_path, **COLUMNS)
    assert said[0].startswith(f"t.csv:1: column '{column}' puts 120 rows into 20 sets within groups")
    assert ("lie off the line together" in said[0]) == bool(effect)
    assert said[0].rpartition("say --cluster ")[2] == (f"'{column}'" if " " in column else column)
    assert said[1] == "t.csv: if every row is a training of its own, say --cluster none"
    assert read(frame, tmp_path, **COLUMNS, cluster=column).points["trial"].nunique() in (5, 20)
    assert read(frame, tmp_path, **COLUMNS, cluster="none").points["trial"].nunique() == 120


@pytest.mark.parametrize("name", ["trial", "seed"])
def test_a_column_of_any_name_whose_rows_are_alike_is_asked_for(name, tmp_path):
    frame = null_sweep(0.7, 1).rename(columns={name: "folder"})[["group", "folder", "rate", "id", "ood"]]
    said = refused(frame, tmp_path, **COLUMNS)
    assert said[0].startswith("t.csv:1: column 'folder' puts 120 rows into 20 sets within groups, whose rows lie off")
    assert len(said) == 2
    notes = read(frame, tmp_path, **COLUMNS, cluster="none").warnings
    assert len(notes) == 1
    assert "taken as independent, as asked; if they are not, intervals are about" in notes[0]


@pytest.mark.parametrize("column", ["model", "net", "architecture"])
def test_names_that_lie_within_one_group_and_repeat_are_asked_for(column, tmp_path):
    """Whatever the column is called, and although its rows are as independent as any."""
    frame = null_sweep(0.0, 1).rename(columns={"trial": column})[["group", column, "id", "ood"]]
    assert refused(frame, tmp_path, **COLUMNS) == [
        f"t.csv:1: column '{column}' puts 120 rows into 20 sets within groups, and none of its values lies in two "
        f"groups: if each set comes from one training, say --cluster {column}",
        "t.csv: if every row is a training of its own, say --cluster none",
    ]
    assert read(frame, tmp_path, **COLUMNS, cluster=column).points["trial"].nunique() == 20
    assert read(frame, tmp_path, **COLUMNS, cluster="none").points["trial"].nunique() == 120


def test_names_that_lie_within_one_group_are_no_factor(tmp_path):
    """A model of one group less one of another is the difference of the groups, and no effect of a model."""
    frame = null_sweep(0.0, 1).rename(columns={"trial": "model"})
    frame = frame.loc[frame["seed"] < 3, ["group", "model", "id", "ood"]]
    found = analyse_all(read(frame, tmp_path, **COLUMNS, cluster="none"), Options("scratch", unit="row"))[0]
    assert found.factor_table.empty
    assert found.scores.factors.empty
    assert "model" in found.points  # still shown
    crossed = frame.assign(model=frame["model"].str[-1] + " layers")  # models that every group has are one
    found = analyse_all(read(crossed, tmp_path, **COLUMNS, cluster="none"), Options("scratch", unit="row"))[0]
    assert list(found.factor_table["factor"]) == ["model=1 layers", "model=2 layers"]


def test_labels_of_a_whole_group_and_settings_of_several_name_no_trainings(tmp_path):
    frame = null_sweep(0.0, 1)
    frame = frame.assign(colour="c" + frame["group"], optimiser=np.where(frame["rate"] % 2, "sgd", "adam"))
    read(frame[["group", "colour", "optimiser", "id", "ood"]], tmp_path, **COLUMNS)


def test_settings_are_no_trainings(tmp_path):
    """What was varied in every group alike may move points off the line: a note, if it has no known name."""
    frame = null_sweep(0.0, 1)
    frame["ood"] = (frame["ood"] + 0.03 * (frame["rate"] % 2)).round(5)
    setting = frame.rename(columns={"rate": "augmentation"})[["group", "augmentation", "id", "ood"]]
    notes = read(setting, tmp_path, **COLUMNS).warnings
    assert len(notes) == 1
    assert "in every group alike: a setting that moves points off the line" in notes[0]
    known = frame.rename(columns={"rate": "lr"})[["group", "lr", "id", "ood"]]
    (note,) = read(known, tmp_path, **COLUMNS).warnings
    assert "'lr' is not called finetune_lr" in note  # nothing about trainings


def test_columns_that_say_nothing_are_left_alone(tmp_path):
    frame = models().assign(
        note="", seed=0, year=2020, num_runs=3, params=lambda f: 10.0 + f.index, kind=lambda f: f.index % 3
    )
    assert read(frame, tmp_path).warnings == ()


def test_clusters_too_fine_are_pointed_out(tmp_path):
    frame = null_sweep(0.7, 1).assign(run=lambda f: f.index // 2)
    notes = read(
        frame.rename(columns={"trial": "folder"}).drop(columns="seed"), tmp_path, **COLUMNS, cluster="run"
    ).warnings
    assert any("'folder'" in note and "parted by --cluster run" in note for note in notes)


@pytest.mark.slow
def test_everything_is_told_in_one_run(tmp_path):
    """100,000 rows with copies, two units in one group, a column `seed`, blanks in names, and names that look alike."""
    frame = in_percent(models(60_000, 40_000)).assign(seed=lambda f: f.index % 40)
    frame["type"] = frame["type"].mask(frame.index % 1000 == 0, frame["type"] + " ").mask(frame.index == 99_999, "Clip")
    half = (frame["type"] == "clip") & (frame.index % 2 == 0)
    frame.loc[half, ["val", "v2"]] = (frame.loc[half, ["val", "v2"]] / 100).round(6)
    frame.loc[7, "v2"] = np.nan
    told = "\n".join(refused(pd.concat([frame, frame[:300]]), tmp_path, percent=True))
    for sentence in (
        "t.csv:60004: val ",
        "rows of 'clip' lie nearer to the others when read as fractions",
        "column 'seed' puts ",
        "note: 300 rows of 100,300, copies of another in every column, left out",
        "note: type: blanks and what cannot be seen are left out of names, as of 'standard '",
        "note: type: 'clip' (39,999 rows) and 'Clip' (1 row) look alike and are taken as 2 different names",
    ):
        assert sentence in told, told


def test_names_of_trainings():
    assert all(
        map(is_named, ["trial", "Seed", "run_id", "RunID", "model_id", "ckpt", "pretrain seed", "wandb-run", "fold"])
    )
    assert not any(
        map(is_named, ["num_trials", "seconds per run", "model", "prune", "speed", "runtime", "reproduced", "id"])
    )


def test_a_weak_correlation_is_hinted_at(tmp_path):
    """Somewhere between chance and certainty the column is named in a note; the p-value is that of the F-test."""
    for seed in range(30):
        frame = null_sweep(0.1, seed).assign(folder=lambda f: pd.factorize(f["trial"])[0])
        frame = frame[["group", "folder", "id", "ood"]]  # numbers: of text in one group each is always asked
        points = frame.assign(task="task", trial=frame.index)
        (one,) = candidates(points, frame[["folder"]])
        if 0.05 < one.p <= 0.25 and one.icc >= 0.1:
            break
    (note,) = read(frame, tmp_path, **COLUMNS).warnings
    assert note.startswith("column 'folder' puts 120 rows into 20 sets within groups, whose rows may lie off the line")
    assert note.endswith("if each set comes from one training, say --cluster folder")


def test_the_f_test_is_that_of_statsmodels():
    anova_lm = pytest.importorskip("statsmodels.stats.anova").anova_lm
    import statsmodels.formula.api as smf
    from scipy.special import ndtri

    frame = null_sweep(0.3, 5)
    frame = frame.assign(x=ndtri(frame["id"]), y=ndtri(frame["ood"]))
    frame["e"] = smf.ols("y ~ x * group", frame).fit().resid
    (one,) = candidates(
        frame.assign(task="task", trial=frame.index), frame[["trial"]].rename(columns={"trial": "folder"})
    )
    table = anova_lm(smf.ols("e ~ group", frame).fit(), smf.ols("e ~ trial", frame).fit())
    assert one.p == pytest.approx(table["Pr(>F)"].iloc[1], rel=1e-9)


@pytest.mark.slow
def test_the_simulation_counts_what_it_says():
    said = pd.DataFrame([replicate(0.7, seed) for seed in range(2)])
    found = summary(said)
    assert found["asked for trial"] == found["asked for seed"] == 1
    assert found["left trial"] == found["left seed"] == 0
    assert found["rows"] >= found["trainings"]
