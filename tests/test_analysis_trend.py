"""The lines: against numpy, against published reference fits, and at the edges of the scales."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from analysis.__main__ import Request, report_on
from analysis.input.plain_table import read_csv
from analysis.options import Options
from analysis.scales import SCALES, clip
from analysis.stats.robustness import effective_robustness
from analysis.stats.trend import fit
from analysis.study import analyse_all
from ray_robust.run.analysis_settings import ScaleName, settings_of
from ray_robust.spec.load import load_spec

DATA = Path(os.environ.get("RAY_ROBUST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TESTBED = DATA / "imagenet-testbed"
needs_data = pytest.mark.skipif(not TESTBED.is_dir(), reason="the published tables are not beside the checkout")


def test_line_agrees_with_numpy():
    random = np.random.default_rng(0)
    x = random.normal(size=50)
    y = 0.7 * x - 0.4 + 0.1 * random.normal(size=50)
    line = fit(x, y)
    assert [line.slope, line.intercept] == pytest.approx(np.polyfit(x, y, 1), abs=1e-12)
    assert line.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-12)
    assert line.at([0.0, 1.0]) == pytest.approx([line.intercept, line.intercept + line.slope])


@pytest.mark.parametrize(("x", "y"), [([0.1, 0.2], [0.1, 0.2]), ([0.3] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])])
def test_no_line_through_too_little(x, y):
    assert fit(np.array(x), np.array(y)) is None


def test_a_flat_line_explains_nothing():
    assert fit(np.arange(5.0), np.full(5, 0.3)).r2 == 0.0


@pytest.mark.parametrize("name", SCALES)
def test_scales_invert(name):
    scores = np.linspace(0.01, 0.99, 25)
    assert SCALES[name].inverse(SCALES[name].h(scores)) == pytest.approx(scores, abs=1e-12)


def test_zero_and_one_move_by_half_an_example():
    assert clip(np.array([0.0, 0.4, 1.0]), 50) == pytest.approx([0.01, 0.4, 0.99])
    assert clip(np.array([0.0, 1.0]), None) == pytest.approx([1 / 2000, 1 - 1 / 2000])


def _references() -> list[dict[str, str]]:
    file = TESTBED / "reference_fits.csv"
    return list(csv.DictReader(file.open())) if file.is_file() else []


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("row", _references(), ids=lambda r: f"{r['id']}-{r['ood']}-{r['scale']}")
def test_published_fits_are_reproduced(row):
    floor = None if "eighth" in row["id"] else 0.55
    options = Options("standard", row["scale"], id_min=floor)
    table = read_csv(
        str(TESTBED / "table.csv"), id=row["id"], ood=row["ood"], group="type", options=options, percent=True
    )
    trends = analyse_all(table, options)[0].trends
    found = trends.loc[(trends["group"] == "standard") & (trends["scale"] == row["scale"])].iloc[0]
    assert found["n"] == int(row["n"])
    for column in ("slope", "intercept", "r2"):
        assert found[column] == pytest.approx(float(row[column]), abs=1e-6)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("file", "id_", "ood"), [("val_v2", "val", "v2"), ("val_sketch", "val", "sketch"),
                                                  ("objectnet", "val_objectnet", "objectnet")])  # fmt: skip
def test_the_ready_tables_need_no_floor(file, id_, ood, tmp_path):
    published = Request(
        (str(TESTBED / f"{file}.csv"),), id="id", ood="ood", group="type", baseline="standard", percent=True,
        out=str(tmp_path),
    )  # fmt: skip
    report_on(published, quiet=True)
    trends = pd.read_csv(tmp_path / "trends.csv").set_index(["group", "scale"])
    for row in _references():
        if (row["id"], row["ood"]) == (id_, ood):
            found = trends.loc[("standard", row["scale"])]
            assert [found["slope"], found["intercept"], found["r2"]] == pytest.approx(
                [float(row["slope"]), float(row["intercept"]), float(row["r2"])], abs=1e-6
            )


@pytest.mark.data
@needs_data
def test_fewer_images_against_fewer_classes_runs_through_to_a_verdict(tmp_path):
    """Nine ResNet-50s on parts of ImageNet (Taori et al. 2020): the smallest lie below the range of the fit."""
    models = pd.read_csv(TESTBED / "table.csv")
    parts = models["train_images"] < 1e6
    models["arm"] = models["type"].mask(parts & (models["train_classes"] == 1000), "fewer images")
    models["arm"] = models["arm"].mask(parts & (models["train_classes"] < 1000), "fewer classes")
    chosen = models.loc[parts | (models["type"] == "standard")].rename(
        columns={"train_images": "num_images", "train_classes": "num_classes"}
    )
    chosen.to_csv(tmp_path / "study.csv", index=False)
    study = Request(
        (str(tmp_path / "study.csv"),), id="val_eighth", ood="v2_eighth", group="arm", baseline="standard",
        percent=True, out=str(tmp_path / "out"),
    )  # fmt: skip
    report_on(study, quiet=True)
    points = pd.read_csv(tmp_path / "out/robustness.csv").set_index("model")
    outside = {name.split("subsample_")[1].split("_batch")[0] for name in points.index[points["extrapolated"]]}
    assert outside == {"1_of_8", "1_of_16", "1_of_32"}
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert verdict["groups"]["fewer images"]["extrapolated"] == 3
    contrast = pd.read_csv(tmp_path / "out/contrasts.csv").set_index(["a", "b"])
    tests = pd.read_csv(tmp_path / "out/equivalence.csv").set_index(["a", "b"])
    assert tests.loc[("fewer classes", "standard"), "smallest_provable"] < 2  # three points, all near the line, but
    assert not contrast.loc[("fewer classes", "standard"), "equivalent"]  # not after Holm, beside the other group
    assert not contrast.loc[("fewer images", "standard"), "equivalent"]  # two points are left: not established


def test_probit_is_the_normal_quantile():
    assert SCALES["probit"].h(np.array([0.975])) == pytest.approx(ndtri(0.975))


def test_every_way_to_ask_for_an_analysis_has_the_same_defaults(tmp_path):
    (tmp_path / "spec.yaml").write_text(
        "task: {name: camera-traps}\npretrain: {sources: {fractals: 1}, num_images: 80, epochs: 1}\n"
    )
    settings, spec = settings_of({}), load_spec(str(tmp_path / "spec.yaml"))
    assert settings_of({"baseline": {"name": "x"}, "analysis": {"margin": 3.0, "scale": None}}) == replace(
        settings, baseline="x", margin=3.0
    )
    assert {f.name: getattr(Options(settings.baseline), f.name) for f in fields(settings)} == asdict(settings)
    assert asdict(settings) == {"baseline": spec.baseline.name, **spec.analysis.model_dump()}
    assert list(SCALES) == list(get_args(ScaleName))


@pytest.mark.parametrize("scale", SCALES)
def test_effective_robustness_is_what_lies_above_the_height_of_the_line(scale):
    height = SCALES[scale].h(np.array([0.2, 0.5, 0.8]))
    er = effective_robustness([0.3, 0.5, 0.7], height, SCALES[scale])
    assert er == pytest.approx([10.0, 0.0, -10.0], abs=1e-12)
    assert effective_robustness(0.3, height, SCALES[scale], unit=1.0)[0] == pytest.approx(0.1)
