"""`bench.weights`: published weights classify images of ImageNet classes, or are seen not to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import nn

from bench import weights
from ray_robust.errors import UserError
from tests.make_efficientnet import EfficientNet, disturbed
from tests.make_weights import write

NAMES = ImageNetInfo().label_names()


LABELS = (3, 70, 71, 285, 500, 999)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[str, Path]:
    """Weights of the reference implementation whose head tells six images apart, and these."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    theirs: Any = disturbed(EfficientNet(lite=True, classes=1000))
    head, theirs._fc = theirs._fc, nn.Identity()
    rng, seen = np.random.default_rng(0), []
    for number, label in enumerate(LABELS):
        coarse = Image.fromarray(rng.integers(0, 256, (2 + number, 2 + number, 3), dtype=np.uint8))
        below = folder / "images" / NAMES[label]
        below.mkdir(parents=True)
        (image := coarse.resize((256, 256))).save(below / f"{number}.png")
        seen.append(torch.from_numpy(np.asarray(image).copy())[16:-16, 16:-16].permute(2, 0, 1))
    with torch.no_grad():
        features = theirs((torch.stack(seen) - 127.5) / 127.5)
        apart = nn.functional.normalize(features - features.mean(0)) * 1e3
        head.weight.zero_()[list(LABELS)] = apart
        head.bias.fill_(-1.0)[list(LABELS)] = -apart @ features.mean(0)
    theirs._fc = head
    return write(folder / "w.pth", theirs.state_dict()), folder / "images"


def test_what_the_reference_sees_is_seen_and_another_model_sees_less(published, capsys):
    file, images = published
    assert weights.main([file, "--model", "tf_efficientnet_lite0", "--images", str(images)]) == 0
    out = capsys.readouterr()
    (row,) = json.loads(out.out.splitlines()[-1])["rows"]
    assert (row["right"], row["images"], row["px"], row["mean"]) == (6, 6, 224, 0.5)
    assert "placed right: 100% of 6 images of ImageNet classes; chance is 0.1%" in out.err
    for image in list(images.rglob("*.png")):  # taken for what they are not
        other = images.parent / "wrong" / NAMES[NAMES.index(image.parent.name) - 1]
        other.mkdir(parents=True, exist_ok=True)
        (other / image.name).write_bytes(image.read_bytes())
    assert weights.main([file, "--model", "tf_efficientnet_lite0", "--images", str(images.parent / "wrong")]) == 1


def test_images_are_found_by_their_wordnet_id_in_a_folder_or_a_name(tmp_path):
    names = ("n01440764/1.JPEG", "n01440764/images/2.JPEG", "n01443537_goldfish.JPEG", "n01443537/x.txt",
             "n99999999/1.png", "train/n01440764/n01440764_7.png", "n014437/3.png")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = weights.labelled(tmp_path, each=9)
    assert [(str(one.file.relative_to(tmp_path)), one.label) for one in listed] == [
        ("n01440764/1.JPEG", 0), ("n01440764/images/2.JPEG", 0), ("train/n01440764/n01440764_7.png", 0),
        ("n01443537_goldfish.JPEG", 1),
    ]  # fmt: skip
    assert len(weights.labelled(tmp_path, each=1)) == 2
    assert [one.label for one in weights.labelled(tmp_path, each=1, stride=2)] == [0]
    with pytest.raises(UserError, match="holds no images below or named by a WordNet id of ImageNet"):
        weights.labelled(tmp_path / "train" / "n01440764" / "none", each=1)


def test_weights_without_a_head_or_of_another_model_are_refused(published, tmp_path):
    file, images = published
    whole = torch.load(file, weights_only=True)
    listed = weights.labelled(images, 1)
    timms = weights.build_model(weights.ModelSection(name="test_resnet"), 1000, 1).state_dict()
    other = {k.replace("fc.", "classifier.9."): v for k, v in timms.items()}
    lacking = {k: v for k, v in whole.items() if k != "_fc.bias"}
    none = "holds no head of 1,000 classes, so that nothing can be classified by it"
    for name, tensors, what in (
        ("tf_efficientnet_lite0", {k: v for k, v in whole.items() if "_fc" not in k}, none),
        ("tf_efficientnet_lite0", {k: v[:10] if "_fc" in k else v for k, v in whole.items()}, none),
        ("tf_efficientnet_lite0", lacking, r"295 of 296 tensors \(classifier.bias missing\)"),
        ("test_resnet", other, "only 90 of 92 tensors"),
        ("tf_efficientnet_lite1", whole, "but fits tf_efficientnet_lite1 in "),
    ):
        with pytest.raises(UserError, match=what):
            weights.measured(write(tmp_path / "x.pth", tensors), name, 64, listed)
    with pytest.raises(UserError, match="timm has no model 'tf_lite'"):
        weights.measured(file, "tf_lite", 64, listed)
    with pytest.raises(UserError, match=r"resnet18\.a1_in1k is a tag, of which timm places every tensor itself"):
        weights.measured("resnet18.a1_in1k", "resnet18", 64, listed)


PHOTOGRAPHS, LITE0 = (Path(os.environ.get(name, "-")) for name in ("IMAGENET_PHOTOGRAPHS", "LITE0_WEIGHTS"))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(
    not (PHOTOGRAPHS.is_dir() and LITE0.is_file()),
    reason="needs IMAGENET_PHOTOGRAPHS, of ImageNet's classes, and LITE0_WEIGHTS, EfficientNet-Lite0 as published",
)
def test_published_weights_score_from_a_compact_store_what_they_score_from_the_files(capsys):
    command = [str(LITE0), "--model", "tf_efficientnet_lite0", "--images", str(PHOTOGRAPHS), "--stride", "5"]
    assert weights.main([*command, "--store", "256", "288", "512"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    of_files, *stored = (row["accuracy"] for row in rows)
    assert of_files > 0.75  # published: 75.5 % of the validation images
    assert [abs(accuracy - of_files) < 0.03 for accuracy in stored] == [True] * 3
