"""Plans made before the data is there: from published counts, and named as such."""

from __future__ import annotations

import numpy as np
import pytest

from ray_robust import sweep
from ray_robust.data.published import catalog_of_counts, checkable
from ray_robust.data.tasks.wilds import WildsTask
from ray_robust.errors import UserError
from ray_robust.spec.sections import Pretrain

SPEC = """\
# Question: Can it be planned?
task: {{name: "wilds:iwildcam", root: {root}/wilds}}
pretrain:
  sources: {sources}
  {keys}
  epochs: 1
"""
IMAGENET = "{{imagenet: {{root: {root}/imagenet}}}}"


def planned(tmp_path, capsys, keys: str, sources: str = IMAGENET, flags: tuple[str, ...] = ("--plan",)) -> str:
    file = tmp_path / "x.yaml"
    file.write_text(SPEC.format(root=tmp_path, sources=sources.format(root=tmp_path), keys=keys))
    assert sweep.main([str(file), *flags]) == 0
    return capsys.readouterr().out.replace(str(tmp_path), "ROOT")


def test_a_plan_says_what_is_not_there_and_counts_on(tmp_path, capsys):
    said = planned(tmp_path, capsys, "num_images: {grid: [all, 150k]}")
    absent = [line for line in said.splitlines() if line.startswith("absent")]
    assert absent == [
        "absent  imagenet: the data is not there; planned with the published counts: 1,281,167 images of 1,000 classes",
        "absent  wilds:iwildcam: the data is not there; planned with the published counts of its splits: 203,029 "
        "images of 182 classes",
    ]
    assert "ROOT/imagenet: no such folder. Obtain it: image-net.org/download after registration" in said
    assert "ids will then be others." in said
    assert "3 trials, 2 unique pre-trainings" in said
    assert "images to process: 1,411,167 in pre-training, 4,673,124 in fine-tuning, 878,640 in evaluation" in said


def test_only_a_plan_does_without_the_data(tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        planned(tmp_path, capsys, "num_images: 150k", flags=())
    lines = str(caught.value).replace(str(tmp_path), "ROOT").splitlines()
    assert lines[0].startswith("ROOT/x.yaml:4: ROOT/imagenet: no such folder. Obtain it: ")
    assert lines[1].startswith("ROOT/x.yaml:2: ROOT/wilds/iwildcam_v2.0: has no metadata.csv, train. Obtain it: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "keys",
    [
        "granularity: depth:4",
        "classes: {under: animal}",
        "num_classes: 250\n  images_per_class: 1250",
        "granularity: family\n  subclasses_per_label: 3\n  num_images: 60k",
    ],
)
def test_what_needs_the_classes_waits_for_them(keys, tmp_path, capsys):
    assert "2 trials, 1 unique pre-trainings" in planned(tmp_path, capsys, keys)


def test_more_images_than_were_published_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r"source imagenet needs 2,?000,?000 images, supply is 1,?261,?167"):
        planned(tmp_path, capsys, "num_images: 2M")


def test_a_mix_with_a_source_that_is_there(tmp_path, capsys):
    sources = "{{inaturalist: {{root: {root}/i, version: 2021-mini}}, fractals: 1}}"
    said = planned(tmp_path, capsys, "num_images: 20k", sources)
    assert "inaturalist: the data is not there; planned with the published counts: 500,000 images of 10,000" in said
    assert said.count("the data is not there") == 2


def test_a_folder_without_published_counts_must_be_there(tmp_path, capsys):
    with pytest.raises(UserError, match="no such file or folder"):
        planned(tmp_path, capsys, "num_images: 1k", "{{folder: {{path: {root}/none}}}}")


def test_counted_catalogs_are_near_equal_and_repeatable():
    one, two = (
        catalog_of_counts("x", 1003, 10, "free"),
        catalog_of_counts("x", 1003, 10, "free", {"train": 1000, "ood_test": 3}),
    )
    assert sorted(np.bincount(one.labels).tolist()) == [100] * 7 + [101] * 3
    assert len(set(one.ids.tolist())) == 1003
    assert (
        one.fingerprint
        == catalog_of_counts("x", 1003, 10, "free").fingerprint
        != catalog_of_counts("x", 1002, 10, "free").fingerprint
    )
    assert (len(two.rows("train")), len(two.rows("ood_test")), len(two.rows("id_val"))) == (1000, 3, 0)


def test_official_splits_of_wilds_are_known(tmp_path):
    task = WildsTask("wilds:camelyon17", WildsTask.Options(root=str(tmp_path)))
    known = task.published()
    assert {split: len(known.rows(split)) for split in ("train", "ood_val", "ood_test")} == {
        "train": 302_436, "ood_val": 34_904, "ood_test": 85_054,
    }  # fmt: skip
    assert len(known.rows("id_val")) + len(known.rows("id_test")) == 33_560


def test_a_task_whose_line_is_in_doubt_says_so_with_the_reference(tmp_path, capsys):
    """In a plan, here without the data, and in the summary of what is ingested."""
    spec = SPEC.replace("wilds:iwildcam", "{task}")
    for task, reference in {
        "wilds:camelyon17": "2504.00186", "wilds:waterbirds": "2305.02995", "wilds:celebA": "2305.02995",
    }.items():  # fmt: skip
        file = tmp_path / "x.yaml"
        file.write_text(
            spec.format(root=tmp_path, task=task, sources=IMAGENET.format(root=tmp_path), keys="num_images: all")
        )
        assert sweep.main([str(file), "--plan"]) == 0
        (said,) = [line for line in capsys.readouterr().out.splitlines() if "may make no line here" in line]
        assert said.startswith(f"task {task}: ID and OOD ")
        assert f"arXiv {reference})" in said
    assert "may make no line" not in planned(tmp_path, capsys, "num_images: all")


def test_totals_stay_when_names_are_left_out():
    told = {"sources": {"x": {"kind": "imagenet", "options": None}}, "epochs": 1}
    mixture = Pretrain.model_validate({**told, "granularity": "family", "num_classes": 250, "images_per_class": 1200})
    plain = checkable(mixture)
    assert (plain.granularity, plain.num_images, plain.num_classes) == ("class", 300_000, 250)
