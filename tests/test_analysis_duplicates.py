"""ER without test images that occur elsewhere: recounted from a run's predictions, and shown beside the plain ER."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import duplicates
from analysis.__main__ import Request, report_on
from analysis.input.join_runs import read_runs
from analysis.input.run_points import read_run
from analysis.scores.sentences import summary
from analysis.study import Analysis, analyse_all
from ray_robust.metrics import METRICS, tally
from ray_robust.run.run_folder import RunFolder
from tests.fake_run import run_folder, sweep

pytestmark = pytest.mark.slow  # of one report or trial that takes seconds to make

TASK = "camera-traps"
HEAD = {"name": f"task {TASK} in source web", "pool": {"name": TASK, "fingerprint": "4f1c"}, "note": "",
        "among": {"name": "web", "fingerprint": "77aa"}, "rule": "identical: equal pixels at 32 px"}  # fmt: skip
GROUP, IMAGES, LEAKED, CLASSES = "num_images=1000", 400, 80, 4


def predicted(random: np.random.Generator, truth: np.ndarray, rate: float, sure: np.ndarray) -> np.ndarray:
    """Classes of which a share of `rate` is right, exactly, besides those that are `sure`."""
    guess = (truth + random.integers(1, CLASSES, len(truth))) % CLASSES
    open_ = random.permutation(np.flatnonzero(~sure))
    right = open_[: round(rate * len(open_))]
    guess[right], guess[sure] = truth[right], truth[sure]
    return guess


def write_run(
    path: Path, metric: str = "accuracy", cameras: int = 0, leaks: int = LEAKED, variant: str = ""
) -> tuple[RunFolder, dict[str, set[str]]]:
    """A run whose pre-trained models know `leaks` of the OOD test images by heart and are else no better than scratch;
    what the run folder lists as duplicates."""
    points = sweep({GROUP: 0.0}, trial_sd=0.002, noise_sd=0.002).assign(metric=metric, task=TASK + variant)
    random = np.random.default_rng(0)
    truth = {split: np.arange(IMAGES) % CLASSES for split in ("id_test", "ood_test")}
    sites = {split: np.arange(IMAGES) // CLASSES % cameras for split in truth} if cameras else {}
    leaked = np.arange(IMAGES) < leaks
    files = {}
    for (trial, finetune), own in points.groupby(["trial", "finetune"], sort=False):
        parts = {}
        for split, side in (("id_test", "id"), ("ood_test", "ood")):
            part = {"split": split, "image": [f"{split}/{i}.jpg" for i in range(IMAGES)], "label": truth[split]}
            part |= {"group": [f"{split} {site}" for site in sites[split]]} if cameras else {}
            for at, point in own.iterrows():
                sure = leaked & (point["group"] == GROUP) & (split == "ood_test")
                guess = predicted(random, truth[split], float(point[side]), sure)
                part[f"epoch_{point['epoch']}"] = guess
                points.loc[at, side] = METRICS[metric].score(tally(truth[split], guess, sites.get(split)))
            parts[split] = pd.DataFrame(part)
        tests = pd.concat(parts.values())
        files[trial, finetune] = pd.concat([tests.head(7).assign(split="id_val"), tests])
    run = run_folder(path, points.assign(id_groups=cameras or None, ood_groups=cameras or None))
    for (trial, finetune), frame in files.items():
        names = [c for c in frame if c == "label" or c.startswith("epoch_")]
        frame = frame.assign(**{c: "class " + frame[c].astype(str) for c in names})
        buffer = io.BytesIO()
        frame.astype(dict.fromkeys(["split", *names], "category")).to_parquet(buffer, index=False)
        run.trial(trial).storage.write(f"predictions/{finetune}.parquet", buffer.getvalue())
    listed = {"ood_test": {f"ood_test/{i}.jpg" for i in range(leaks)}}
    entry = write_entry(run, listed) if leaks else {**HEAD, "line": "", "counts": [], "affected": {}}
    run.write("data.json", json.dumps({**run.data(), "duplicates": [entry]}))
    return run, listed


def write_entry(run: RunFolder, listed: dict[str, set[str]], images: int = IMAGES) -> dict:
    rows = [{"split": split, "image": key, "label": "class 0", "where": "source web", "other": f"web/{key}",
             "other_label": "<b>bold</b>", "kind": "identical", "bits": 0, "likeness": 1.0}
            for split, keys in listed.items() for key in sorted(keys)]  # fmt: skip
    run.write("duplicates/web.csv", pd.DataFrame(rows).to_csv(index=False))
    picture = io.BytesIO()
    Image.new("RGB", (198, 96), (200, 30, 30)).save(picture, "PNG")
    run.write("duplicates/web-01.png", picture.getvalue())
    return {
        **HEAD,
        "images": {"train": 10, "id_test": images, "ood_test": images},
        "affected": {split: len(keys) for split, keys in listed.items()}, "counts": [],
        "line": f"{LEAKED} of {IMAGES} ood_test images are also in source web", "file": "duplicates/web.csv",
        "list": rows[:5], "pictures": [{"file": "duplicates/web-01.png", **rows[0]}],
    }  # fmt: skip


def analysed(run: RunFolder) -> Analysis:
    return analyse_all(*read_run(run.storage.address))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "leak")[0]


@pytest.fixture(scope="module")
def analysis(run) -> Analysis:
    return analysed(run)


def test_a_gain_that_is_all_leakage_is_gone_without_it(analysis):
    both = duplicates.with_and_without(analysis).set_index("group").loc[GROUP]
    assert both["er"] > 8  # the images known by heart are a fifth of the test
    assert both["er_low"] > 0
    assert abs(both["er_without"]) < 1.5
    assert both["er_without_low"] < 0 < both["er_without_high"]
    assert both["change"] == both["er_without"] - both["er"]
    without = analysis.without_duplicates
    row = without.contrasts.set_index(["a", "b"]).loc[(GROUP, "scratch")]
    assert row["low"] < 0 < row["high"]
    raw = analysis.scores.difference(GROUP)
    assert raw["delta"] > 8
    assert "duplicates" in raw["not_robust_to"]
    assert abs(without.scores.difference(GROUP)["delta"]) < abs(raw["delta"]) / 2
    sentence = summary(analysis).deployment
    assert sentence.kind == "fragile"
    assert "without duplicate test images" in sentence.text
    assert analysis.warnings[0] == (
        "80 of 400 ood_test images occur in another split, in a source or under another label too; "
        "the checks have ER without them"
    )
    assert without.warnings == [w for w in without.warnings if "occur in another split" not in w]


def test_scores_are_those_of_the_images_that_are_left(run, analysis):
    again = analysis.recount.points
    trial = again.iloc[40]
    frame = pd.read_parquet(run.trial(trial["trial"]).storage.local(f"predictions/{trial['finetune']}.parquet"))
    right = frame["label"].astype(str) == frame[f"epoch_{trial['epoch']}"].astype(str)
    left = ~frame["image"].isin([f"ood_test/{i}.jpg" for i in range(LEAKED)])
    assert trial["ood"] == right[(frame["split"] == "ood_test") & left].mean()
    assert trial["id"] == right[frame["split"] == "id_test"].mean()
    assert (trial["id_images"], trial["ood_images"]) == (IMAGES, IMAGES - LEAKED)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["macro_f1", "class_accuracy"])
@pytest.mark.parametrize("cameras", [0, 20])
def test_every_metric_with_and_without_groups(tmp_path, metric, cameras):
    run, listed = write_run(tmp_path / "run", metric, cameras)
    analysis = analysed(run)
    again = analysis.recount
    assert (again.counts is not None) == bool(cameras)
    point = again.points.iloc[-1]
    frame = pd.read_parquet(run.trial(point["trial"]).storage.local(f"predictions/{point['finetune']}.parquet"))
    frame = frame[(frame["split"] == "ood_test") & ~frame["image"].isin(listed["ood_test"])]
    names = [f"class {i}" for i in range(CLASSES)]
    truth, guess = (
        pd.Categorical(frame[c], categories=names).codes.astype(int) for c in ("label", f"epoch_{point['epoch']}")
    )
    assert point["ood"] == pytest.approx(METRICS[metric].score(tally(truth, guess)), abs=1e-12)
    assert abs(duplicates.with_and_without(analysis).set_index("group").loc[GROUP, "er_without"]) < 2


def test_without_duplicates_nothing_is_made_again(tmp_path):
    run, _ = write_run(tmp_path / "run", leaks=0)
    analysis = analysed(run)
    assert analysis.recount is None
    assert analysis.without_duplicates is None
    assert duplicates.with_and_without(analysis).empty
    run.storage.delete("data.json")  # of an older run
    assert analysed(run).recount is None


@pytest.mark.slow
def test_what_cannot_be_made_again_says_why(tmp_path):
    run, listed = write_run(tmp_path / "run")
    first = read_run(run.storage.address)[0].points.iloc[0]

    def note() -> str:
        analysis = analysed(run)
        assert analysis.without_duplicates is None
        assert analysis.recount.sentence in analysis.warnings
        return analysis.recount.note

    everything = {"ood_test": {f"ood_test/{i}.jpg" for i in range(IMAGES)}}
    write_entry(run, everything)
    assert note() == "all of ood_test is affected"
    write_entry(run, listed)
    rows = run.trial(first["trial"]).rows()
    named = {"finetunings": sorted({row["finetune"] for row in rows})}
    run.trial(first["trial"]).storage.write_json("done", named)  # an earlier version's, which proves nothing
    run.trial(first["trial"]).storage.write(
        "rows.jsonl", "".join(json.dumps({**row, "ood": row["ood"] + 0.01}) + "\n" for row in rows)
    )
    assert note() == "the predictions do not give the ood scores"
    run.trial(first["trial"]).storage.delete(f"predictions/{first['finetune']}.parquet")
    assert note() == f"predictions are missing of {first['trial']}"
    for trial in read_run(run.storage.address)[0].points["trial"].unique():
        for name in run.trial(trial).storage.names("predictions"):
            run.trial(trial).storage.delete(f"predictions/{name}")
    assert re.fullmatch(r"predictions are missing of \S+, \S+, \S+ and \d+ more trials", note())


@pytest.mark.slow
def test_joined_runs_leave_out_what_either_lists(tmp_path):
    one, _ = write_run(tmp_path / "one")
    other, _ = write_run(tmp_path / "other", leaks=0)
    joined = analyse_all(*read_runs([one.storage.address, other.storage.address]))[0]
    assert joined.recount.affected == {"ood_test": LEAKED}
    assert len(joined.recount.points) == len(joined.points)
    assert abs(duplicates.with_and_without(joined).set_index("group").loc[GROUP, "er_without"]) < 1.5


@pytest.mark.slow
def test_a_variant_of_the_task_has_duplicates_of_its_own(tmp_path):
    run, listed = write_run(tmp_path / "run", variant="[shift=0]")
    assert analysed(run).recount.affected == {"ood_test": LEAKED}
    clean = {**HEAD, "name": f"task {TASK}", "among": HEAD["pool"], "line": "", "counts": [], "affected": {},
             "images": {"id_test": IMAGES, "ood_test": IMAGES}}  # fmt: skip
    others = write_entry(run, listed, images=IMAGES + 1)
    run.write("data.json", json.dumps({"duplicates": [clean, others]}))
    assert analysed(run).recount is None
    run.write("data.json", json.dumps({"duplicates": [others]}))
    assert analysed(run).warnings[0] == (
        "images that occur more than once are listed, but of other test images than the predictions have: ER without "
        "them is not known"
    )


@pytest.mark.slow
def test_each_draw_of_a_task_has_its_own_duplicates(tmp_path):
    """Draws of one task have one name and as many images; what results call them tells whose comparison is whose."""
    run, listed = write_run(tmp_path / "run", variant="[split_seed=1]")
    entry = write_entry(run, listed)
    clean = {**HEAD, "pool": {"name": TASK, "fingerprint": "9e9e"}, "images": entry["images"], "affected": {}}
    own, other = [f"{TASK}[split_seed=1]"], [f"{TASK}[split_seed=2]"]
    run.write("data.json", json.dumps({"duplicates": [entry | {"tasks": other}, clean | {"tasks": own}]}))
    assert analysed(run).recount is None
    run.write("data.json", json.dumps({"duplicates": [entry | {"tasks": own}, clean | {"tasks": other}]}))
    assert analysed(run).recount.affected == {"ood_test": LEAKED}
    run.write("data.json", json.dumps({"duplicates": [entry, clean]}))
    assert analysed(run).recount.sentence == (
        "images that occur more than once are listed, but not of which draw of the task, in this run of an earlier "
        "version: ER without them is not known"
    )


@pytest.mark.slow
def test_the_report_shows_both_and_the_pictures(run):
    report_on(Request((run.storage.address,)), quiet=True)
    report = Path(run.storage.address) / "report"
    table = pd.read_csv(report / "duplicates.csv")
    assert tuple(table) == duplicates.COLUMNS
    assert table["group"].tolist() == ["scratch", GROUP]
    page = (report / "index.html").read_text("utf-8")
    section = page[page.index("Images that occur more than once") :]
    assert "<bdi>80 of 400 ood_test images are also in source web</bdi>" in section
    image = re.search(r'<img src="data:image/png;base64,[^"]+" alt="Two images side by side, identical"', section)
    assert image
    assert "<bdi>web/ood_test/0.jpg</bdi> (<bdi>&lt;b&gt;bold&lt;/b&gt;</bdi>)" in section
    assert "Without images that occur elsewhere" in page
    assert (report / "export/duplicates.tex").exists()
    verdict = json.loads((report / "verdict.json").read_text())
    assert verdict["duplicates"]["affected"] == {"ood_test": LEAKED}
    assert verdict["duplicates"]["groups"][GROUP]["er"] == pytest.approx(table["er_without"].iloc[1])


@pytest.mark.slow
def test_a_report_says_what_was_not_looked_for(tmp_path):
    run, _ = write_run(tmp_path / "run", leaks=0)
    skipped = {"name": f"task {TASK}", "pool": {"name": TASK, "fingerprint": "4f1c"}, "skipped": "it is drawn",
               "among": {"name": TASK, "fingerprint": "4f1c"}}  # fmt: skip
    run.write("data.json", json.dumps({"pools": [], "duplicates": [skipped]}))
    report_on(Request((run.storage.address,)), quiet=True)
    assert "Not looked for: <bdi>it is drawn</bdi>." in (tmp_path / "run/report/index.html").read_text("utf-8")
    run.write("data.json", json.dumps({"pools": []}))
    report_on(Request((run.storage.address,)), quiet=True)
    assert "This run has not looked for any." in (tmp_path / "run/report/index.html").read_text("utf-8")
    assert not (tmp_path / "run/report/duplicates.csv").exists()
