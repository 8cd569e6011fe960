"""The tasks wilds:<name>, on small trees in the official layouts, against the wilds package's own objects."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from make_pools import open_pool

from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.data.samples import describe
from ray_robust.data.tasks.wilds import OUR_SPLIT, _wilds
from ray_robust.errors import UserError
from ray_robust.metrics import accuracy, class_accuracy, macro_f1, tally, worst_group
from ray_robust.run.run_folder import RunFolder
from tests import make_images as make
from tests import make_tasks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of the wilds package, where a test uses it directly
BUILD = {
    "iwildcam": make.iwildcam,
    "fmow": make.fmow,
    "camelyon17": make.camelyon17,
    "rxrx1": make_tasks.rxrx1,
    "waterbirds": make_tasks.waterbirds,
    "celebA": make_tasks.celeba,
}
OTHERWISE = {
    "camelyon17": {"id_test"},
    "rxrx1": {"id_val"},
    "waterbirds": {"id_val", "id_test"},
    "celebA": {"id_val", "id_test"},
}


def task(name: str, root, **options):
    return open_pool("task", f"wilds:{name}", {"root": str(root), **options})


def mistake(name: str, root) -> str:
    with pytest.raises(UserError) as caught:
        _ = task(name, root).catalog
    return str(caught.value)


@pytest.fixture(autouse=True)
def _writable(monkeypatch):
    """The package's rxrx1 writes into a column, which pandas 3 gives out read-only."""
    import pandas as pd

    monkeypatch.setattr(pd.Series, "values", property(lambda self: np.array(self.to_numpy())))


@pytest.mark.parametrize("name", BUILD)
def test_labels_splits_and_pixels_are_those_of_the_package(name, tmp_path):
    pool = task(name, BUILD[name](tmp_path), fit="squash")
    official = _wilds().get_dataset(dataset=name, root_dir=str(tmp_path), download=False)
    split_names = {number: OUR_SPLIT[split] for split, number in official.split_dict.items()}
    ours = dict(zip(pool.keys(np.arange(len(pool.catalog))), range(len(pool.catalog)), strict=True))
    listed = [i for i, number in enumerate(official.split_array) if number >= 0]
    assert len(ours) == len(listed)
    for i in listed:
        below = {"iwildcam": "train/", "celebA": "img_align_celeba/"}.get(name, "")
        key = f"images/rgb_img_{official.full_idxs[i]}.png" if name == "fmow" else below + official._input_array[i]
        row = ours[key]
        assert pool.catalog.labels[row] == int(official.y_array[i])
        split = SPLITS[pool.catalog.split[row]]
        assert split == split_names[official.split_array[i]] or split in OTHERWISE.get(name, ())
        pixels = np.asarray(official.get_input(i).convert("RGB").resize((20, 20)), int)
        assert np.abs(pool.read(np.array([row]), 20).images[0] - pixels).mean() < 6
    assert all(len(pool.catalog.rows(split)) for split in SPLITS)


def test_iwildcam_has_species_and_cameras(tmp_path):
    pool = task("iwildcam", make.iwildcam(tmp_path))
    seen = pool.catalog
    assert seen.classes == ("empty", "tayassu pecari", "puma")
    assert seen.groups == tuple(f"camera {i:03d}" for i in range(6))
    assert set(seen.group[seen.rows("ood_test")]).isdisjoint(seen.group[seen.rows("train")])
    assert pool.metric == "macro_f1"
    assert seen.licence.startswith("CDLA-Permissive-1.0")
    assert seen.notes[-1].startswith("These are not the official images of iwildcam v2.0: train 6 of 129,809, id_val 6")


def test_iwildcam_without_names_of_species(tmp_path):
    root = make.iwildcam(tmp_path)
    (root / "iwildcam_v2.0" / "categories.csv").unlink()
    assert task("iwildcam", root).catalog.classes == ("species 000", "species 001", "species 002")


def test_fmow_has_regions_and_leaves_out_unused_images(tmp_path):
    pool = task("fmow", make.fmow(tmp_path))
    assert pool.catalog.groups == ("Asia", "Europe", "Other")
    assert len(pool.catalog.classes) == 62
    assert len(pool.catalog) == 30  # of 54: the others are sequestered, or of a year that their split does not use
    assert pool.metric == "accuracy"


def test_camelyon17_divides_id_val_by_a_hash(tmp_path):
    pool = task("camelyon17", make.camelyon17(tmp_path))
    seen = pool.catalog
    assert {split: len(seen.rows(split)) for split in ("train", "ood_val", "ood_test")} == {
        "train": 24, "ood_val": 16, "ood_test": 16,
    }  # fmt: skip
    assert len(seen.rows("id_val")) + len(seen.rows("id_test")) == 24
    assert {seen.groups[g] for g in seen.group[seen.rows("ood_test")]} == {
        "hospital 2, slide 04",
        "hospital 2, slide 05",
    }
    assert "half of its id_val" in seen.notes[0]


def test_the_doubt_about_a_line_goes_into_the_report(tmp_path):
    """The entry of data.json, which the report's warnings are read from."""
    pool = task("waterbirds", make_tasks.waterbirds(tmp_path))
    store = ImageStore.open(tmp_path / "store", pool, 8)
    entry = describe(RunFolder(tmp_path / "run"), "task", store)
    (said,) = [warning for warning in entry["warnings"] if "may make no line here" in warning]
    assert "with a spurious attribute" in said
    assert "all but uncorrelated" in said
    assert task("fmow", make.fmow(tmp_path)).line_caveat == ""


def test_rxrx1_divides_id_test_by_a_hash(tmp_path):
    pool = task("rxrx1", make_tasks.rxrx1(tmp_path))
    seen = pool.catalog
    assert len(seen.rows("id_val")) + len(seen.rows("id_test")) == len(seen.rows("train")) == 8
    assert seen.groups == ("HEPG2-01", "HEPG2-02", "U2OS-01", "U2OS-02")
    assert seen.classes == ("siRNA 0000", "siRNA 0001")
    assert "half of its id_test" in seen.notes[0]


@pytest.mark.parametrize(
    ("name", "ood"),
    [
        ("waterbirds", {"landbird, on water", "waterbird, on land"}),
        ("celebA", {"not blond, male", "blond, female"}),
    ],
)
def test_where_groups_are_shared_the_pairs_against_the_correlation_are_ood(name, ood, tmp_path):
    pool = task(name, BUILD[name](tmp_path))
    seen = pool.catalog
    assert len(seen.rows("train")) == sum(make_tasks.PAIRS.values())
    for split in ("val", "test"):
        against, within = ({seen.groups[g] for g in seen.group[seen.rows(f"{side}_{split}")]} for side in ("ood", "id"))
        assert against == ood
        assert within == set(seen.groups) - ood
    assert seen.notes[0].startswith("It has no OOD split: pairs of label and ")


@pytest.fixture
def _mean_over_groups(monkeypatch):
    """The package wants torch_scatter for one mean over groups; this is that mean."""
    import torch

    def mean(v, g, n_groups):
        counts = torch.bincount(g, minlength=n_groups)
        return torch.bincount(g, weights=v, minlength=n_groups) / counts.clamp(min=1), counts

    _wilds()
    monkeypatch.setattr("wilds.common.metrics.metric.avg_over_groups", mean)


@pytest.mark.usefixtures("_mean_over_groups")
@pytest.mark.parametrize("name", ["iwildcam", "fmow", "camelyon17", "rxrx1"])
def test_scores_are_those_of_the_packages_eval(name, tmp_path):
    import torch

    pool = task(name, BUILD[name](tmp_path, **({"per_split": 40} if name == "iwildcam" else {})))
    seen, official = pool.catalog, _wilds().get_dataset(dataset=name, root_dir=str(tmp_path), download=False)
    position = dict(zip(pool.keys(np.arange(len(seen))), range(len(seen)), strict=True))
    random = np.random.default_rng(0)
    for split in ("val", "test"):
        listed = np.flatnonzero(official.split_array == official.split_dict[split])
        if name == "fmow":
            keys = [f"images/rgb_img_{official.full_idxs[i]}.png" for i in listed]
        else:
            keys = [("train/" if name == "iwildcam" else "") + official._input_array[i] for i in listed]
        rows = np.array([position[key] for key in keys])
        predicted = np.where(random.random(len(rows)) < 0.6, seen.labels[rows], random.integers(0, 3, len(rows)))
        aside = tuple(i for i, group in enumerate(seen.groups) if group in pool.aside)
        ours = tally(seen.labels[rows], predicted, seen.group[rows], aside)
        told, _ = official.eval(torch.from_numpy(predicted), official.y_array[listed], official.metadata_array[listed])
        assert accuracy(ours) == pytest.approx(told["acc_avg"], abs=1e-6)  # the package computes in single precision
        if name == "iwildcam":
            assert macro_f1(ours) == pytest.approx(told["F1-macro_all"], abs=1e-6)
            assert class_accuracy(ours) == pytest.approx(told["recall-macro_all"], abs=1e-6)
        elif name != "rxrx1":  # whose official groups are cell types
            field = {"fmow": "acc_worst_region", "camelyon17": "acc_wg"}[name]
            assert worst_group(ours) == pytest.approx(told[field], abs=1e-6)


def test_missing_data_are_said_with_where_to_get_them(tmp_path):
    said = mistake("iwildcam", tmp_path)
    assert said.startswith(
        f"{tmp_path}/iwildcam_v2.0: has no metadata.csv, train. Obtain it: the official link is down"
    )
    assert "05c872f46eee44315f79bc90f4098c69ae3799a2b95116db02292ea1b4e370d2" in said
    assert "\n" not in said
    assert "download_datasets.py --root_dir ROOT --datasets fmow" in mistake("fmow", tmp_path)
    assert list(tmp_path.iterdir()) == []  # the package would have made empty folders


def test_a_root_one_folder_too_deep_is_said(tmp_path):
    root = make.iwildcam(tmp_path) / "iwildcam_v2.0"
    assert mistake("iwildcam", root).endswith(f"has no metadata.csv, train; did you mean root: {tmp_path}?")


def test_a_missing_release_file_is_said(tmp_path):
    root = make.camelyon17(tmp_path)
    release = root / "camelyon17_v1.0" / "RELEASE_v1.0.txt"
    release.unlink()
    assert mistake("camelyon17", root).endswith(f"if the folder is complete: touch {release}")
    release.write_text("")
    assert len(task("camelyon17", root).catalog) == 80


def test_damaged_metadata_are_said(tmp_path):
    root = make.iwildcam(tmp_path)
    (root / "iwildcam_v2.0" / "metadata.csv").write_text("a,b\n1,2\n")
    assert "the wilds package cannot read it (KeyError: '...'); is the folder complete?" in mistake("iwildcam", root)


def test_an_unknown_name_is_said(tmp_path):
    with pytest.raises(UserError, match=r"'wilds:iwildcan': no such WILDS data set here; did you mean iwildcam\?"):
        task("iwildcan", tmp_path)
    with pytest.raises(UserError, match=r"no such WILDS data set here; did you mean celebA\?"):
        task("celeba", tmp_path)
    with pytest.raises(UserError, match=r"'wilds:poverty': poverty is regression; a task here is image classification"):
        task("poverty", tmp_path)
    with pytest.raises(UserError, match=r"known: camelyon17, celebA, fmow, iwildcam, rxrx1, waterbirds"):
        open_pool("task", "wilds", {"root": str(tmp_path)})


@pytest.mark.slow
def test_the_package_is_imported_late_and_starts_no_thread(tmp_path):
    make.iwildcam(tmp_path)
    code = f"""
import sys, threading
from ray_robust import registry
cls = registry.find("task", "wilds:iwildcam")
pool = cls("wilds:iwildcam", cls.Options(root={str(tmp_path)!r}))
assert "wilds" not in sys.modules and "torch" not in sys.modules
pool.catalog
assert "wilds" in sys.modules and "outdated" not in sys.modules
print(threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
