"""Facts about the image classification data sets of the wilds package, and why its other data sets are not supported.

Official sizes, licences and archives, how the package's objects become a table of keys, labels and groups, and where
our splits differ from the package's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from ray_robust.data.pool import mix_bits, seed_of
from ray_robust.data.readers.archive import PublishedArchive
from ray_robust.data.readers.folder import key_ids

Read = Callable[[Any], tuple[pd.DataFrame, tuple[str, ...]]]


@dataclass(frozen=True)
class Official:
    """What is known of one data set.

    needs    files and folders without which it is not there
    sizes    images per split, by the package's names of splits
    read     the columns key, group and what `divide` needs, from the package's object; and the classes in order of y
    divide   the split of every image, where the package's are not ours; gets `read`'s columns, label and split
    divided  images per split after it
    load     reads the folder where the package does not
    aside    groups that the official worst group leaves out
    line_caveat  why ID and OOD scores may make no straight line, with the reference
    archive  the download, where its hash is known
    """

    version: str
    needs: tuple[str, ...]
    sizes: dict[str, int]
    classes: int
    metric: str
    licence: str
    obtain: str
    read: Read
    notes: tuple[str, ...] = ()
    divide: Callable[[pd.DataFrame], pd.Series] | None = None
    divided: Mapping[str, int] = field(default_factory=dict)
    load: Callable[[Path], Any] | None = None
    aside: tuple[str, ...] = ()
    line_caveat: str = ""
    archive: PublishedArchive | None = None

    def differs(self, counts: Mapping[str, int]) -> str:
        """Return how these images per split differ from the official ones (`train 6 of 129,809, ...`), or ""."""
        differences = ", ".join(f"{name} {counts[name]:,} of {size:,}" for name, size in self.sizes.items())
        return "" if dict(counts) == self.sizes else differences


def _halve(dataset: str, whole: str, half: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return a rule that moves half of the split `whole`, by a hash of each key, to `half`, which the package lacks."""

    def divide(frame: pd.DataFrame) -> pd.Series:
        chosen = mix_bits(key_ids(frame["key"]), seed_of(dataset, half)) & np.uint64(1)
        return frame["split"].mask((frame["split"] == whole) & (chosen == 1), half)

    return divide


def _with_and_against(frame: pd.DataFrame) -> pd.Series:
    """Val and test divided by whether label and attribute (the column of that name) go together in training.

    ID: pairs that training holds at least as often as it would if the two were independent. OOD: the others, for which
    what the attribute suggests is wrong.
    """
    train = frame[frame["split"] == "train"]
    labels, attributes, pairs = (train.value_counts(of) for of in ("label", "attribute", ["label", "attribute"]))
    usual = {(a, b) for (a, b), count in pairs.items() if count * len(train) >= labels[a] * attributes[b]}
    with_it = [pair in usual for pair in zip(frame["label"], frame["attribute"], strict=True)]
    return frame["split"].mask(with_it, frame["split"].str.replace("ood_", "id_"))


def _column(wilds: Any, field: str) -> np.ndarray:
    return wilds.metadata_array[:, wilds.metadata_fields.index(field)].numpy()


def _iwildcam(wilds: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    frame = pd.DataFrame({"key": "train/" + pd.Series(wilds._input_array, dtype="str")})
    frame["group"] = [f"camera {camera:03d}" for camera in _column(wilds, "location")]
    classes = [f"species {y:03d}" for y in range(wilds.n_classes)]
    path = Path(wilds.data_dir) / "categories.csv"
    if path.exists():
        listed = pd.read_csv(path)
        if {"y", "name"} <= set(listed.columns):
            named = listed[listed["y"].between(0, wilds.n_classes - 1)].drop_duplicates("y").set_index("y")["name"]
            if not named.duplicated().any():
                classes = [str(named.get(y, name)) for y, name in enumerate(classes)]
    return frame, tuple(classes)


def _fmow(wilds: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    from wilds.datasets.fmow_dataset import categories

    frame = pd.DataFrame({"key": [f"images/rgb_img_{i}.png" for i in wilds.full_idxs]})
    frame["group"] = np.asarray(wilds.metadata_map["region"], dtype=object)[_column(wilds, "region")]
    return frame, tuple(categories)


def _camelyon17(wilds: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    frame = pd.DataFrame({"key": pd.Series(wilds._input_array, dtype="str")})
    where = zip(_column(wilds, "hospital"), _column(wilds, "slide"), strict=True)
    frame["group"] = [f"hospital {hospital}, slide {slide:02d}" for hospital, slide in where]
    return frame, ("normal", "tumor")


def _load_rxrx1(folder: Path) -> Any:
    """Return what of the package's object is read here, from metadata.csv by its rule: site 2 of the training
    experiments is id_test. The package itself writes into an array that pandas 3 gives out read-only."""
    table = pd.read_csv(folder / "metadata.csv")
    names = {"train": 0, "val": 1, "test": 2, "id_test": 3}
    part = table["dataset"].mask((table["dataset"] == "train") & (table["site"] == 2), "id_test")
    labels = table["sirna_id"].to_numpy()
    return SimpleNamespace(table=table, y_array=labels, n_classes=int(labels.max()) + 1, split_dict=names,
                           split_array=part.map(names).to_numpy())  # fmt: skip


def _rxrx1(wilds: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    t = wilds.table.astype("str")
    keys = "images/" + t["experiment"] + "/Plate" + t["plate"] + "/" + t["well"] + "_s" + t["site"] + ".png"
    frame = pd.DataFrame({"key": keys, "group": t["experiment"]})
    return frame, tuple(f"siRNA {y:04d}" for y in range(wilds.n_classes))


def _pairs(classes: tuple[str, str], field: str, names: tuple[str, str], below: str = "") -> Read:
    """Return a reader of a data set with two classes and one binary attribute; images lie in the folder `below`."""

    def read(wilds: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
        frame = pd.DataFrame({"key": below + pd.Series(wilds._input_array, dtype="str")})
        frame["attribute"] = np.asarray(names, dtype=object)[_column(wilds, field)]
        frame["group"] = np.asarray(classes, dtype=object)[wilds.y_array.numpy()] + ", " + frame["attribute"]
        return frame, classes

    return read


_BY_PACKAGE = (
    "Obtain it: python wilds/download_datasets.py --root_dir ROOT --datasets {0} (github.com/p-lambda/wilds), or "
    "python -m ray_robust.ingest wilds:{0} --download --root DIR"
)
IWILDCAM = PublishedArchive(11_957_415_473, "05c872f46eee44315f79bc90f4098c69ae3799a2b95116db02292ea1b4e370d2")
_BENT = (
    "ID and OOD scores may make no line here: with a spurious attribute, accuracy on the minority is a bent curve of "
    "that on the majority (Liang et al. 2023, arXiv 2305.02995)"
)
_AGAINST = (
    "It has no OOD split: pairs of label and {} that go together in training are the ID half of val and test, the "
    "others, for which it misleads, the OOD half; training holds both."
)
DATASETS = {
    "iwildcam": Official(
        version="2.0",
        needs=("metadata.csv", "train"),
        sizes={"train": 129_809, "id_val": 7_314, "id_test": 8_154, "val": 14_961, "test": 42_791},
        classes=182,
        metric="macro_f1",
        licence="CDLA-Permissive-1.0 (iWildCam 2020, Beery et al.)",
        obtain="Obtain it: the official link is down (wilds issues 173, 174, 175); the mirror "
        f"emmilly/iwildcam-wilds-v2 on the Hugging Face hub holds the archive ({IWILDCAM.size:,} bytes, sha256 "
        f"{IWILDCAM.sha256}); to check and unpack it: "
        "python -m ray_robust.ingest wilds:iwildcam --archive FILE --root DIR; "
        "to download it too: --download in the place of --archive",
        read=_iwildcam,
        archive=IWILDCAM,
    ),
    "fmow": Official(
        version="1.1",
        needs=("rgb_metadata.csv", "country_code_mapping.csv", "images"),
        sizes={"train": 76_863, "id_val": 11_483, "id_test": 11_327, "val": 19_915, "test": 22_108},
        classes=62,
        metric="accuracy",
        licence="FMoW Challenge Public License",
        obtain=_BY_PACKAGE.format("fmow"),
        read=_fmow,
        notes=("The shift is in time (OOD: 2013 and later); groups are regions.",),
        aside=("Other",),
    ),
    "camelyon17": Official(
        version="1.0",
        needs=("metadata.csv", "patches"),
        sizes={"train": 302_436, "id_val": 33_560, "val": 34_904, "test": 85_054},
        classes=2,
        metric="accuracy",
        licence="CC0 1.0 (CAMELYON17, Bandi et al.)",
        obtain=_BY_PACKAGE.format("camelyon17"),
        read=_camelyon17,
        divide=_halve("camelyon17", "id_val", "id_test"),
        divided={"train": 302_436, "id_val": 16_780, "id_test": 16_780, "ood_val": 34_904, "ood_test": 85_054},
        line_caveat="ID and OOD accuracy may make no line here: they correlate less than on other data sets (Miller et "
        "al. 2021, arXiv 2107.04649), and among the more accurate models the line is lost (Salaudeen et al. 2025, "
        "arXiv 2504.00186)",
        notes=(
            "camelyon17 has no ID test split: half of its id_val, drawn by a hash of the path, is used as id_test.",
        ),
    ),
    "rxrx1": Official(
        version="1.0",
        needs=("metadata.csv", "images"),
        sizes={"train": 40_612, "id_test": 40_612, "val": 9_854, "test": 34_432},
        classes=1_139,
        metric="accuracy",
        licence="CC BY-NC-SA 4.0 (RxRx1, Recursion)",
        obtain=_BY_PACKAGE.format("rxrx1"),
        read=_rxrx1,
        load=_load_rxrx1,
        divide=_halve("rxrx1", "id_test", "id_val"),
        divided={"train": 40_612, "id_val": 20_306, "id_test": 20_306, "ood_val": 9_854, "ood_test": 34_432},
        notes=(
            "rxrx1 has no ID validation split: half of its id_test, drawn by a hash of the path, is used as id_val.",
        ),
    ),
    "waterbirds": Official(
        version="1.0",
        needs=("metadata.csv",),
        sizes={"train": 4_795, "val": 1_199, "test": 5_794},
        classes=2,
        metric="accuracy",
        licence="non-commercial research and education (Waterbirds, Sagawa et al. 2020)",
        obtain=_BY_PACKAGE.format("waterbirds"),
        read=_pairs(("landbird", "waterbird"), "background", ("on land", "on water")),
        divide=_with_and_against,
        divided={"train": 4_795, "id_val": 600, "id_test": 2_897, "ood_val": 599, "ood_test": 2_897},
        line_caveat=f"{_BENT}; on Waterbirds accuracy in one pair of label and background is all but "
        "uncorrelated with ID accuracy (Salaudeen et al. 2025, arXiv 2504.00186)",
        notes=(_AGAINST.format("background"),),
    ),
    "celebA": Official(
        version="1.0",
        needs=("list_attr_celeba.csv", "list_eval_partition.csv", "img_align_celeba"),
        sizes={"train": 162_770, "val": 19_867, "test": 19_962},
        classes=2,
        metric="accuracy",
        licence="non-commercial research (CelebA, Liu et al. 2015)",
        obtain=_BY_PACKAGE.format("celebA"),
        read=_pairs(("not blond", "blond"), "male", ("female", "male"), "img_align_celeba/"),
        divide=_with_and_against,
        divided={"train": 162_770, "id_val": 11_150, "id_test": 10_015, "ood_val": 8_717, "ood_test": 9_947},
        line_caveat=_BENT,
        notes=(_AGAINST.format("sex"),),
    ),
}
UNFIT = {  # data sets of the package that are no single-label image classification
    "amazon": "amazon is reviews, hence text",
    "bdd100k": "bdd100k has several labels per image",
    "civilcomments": "civilcomments is comments, hence text",
    "domainnet": "of DomainNet use the task domainnet, which reads its own layout",
    "encode": "encode is genomic sequences",
    "globalwheat": "globalwheat is object detection",
    "ogb-molpcba": "ogb-molpcba is molecules, hence graphs",
    "poverty": "poverty is regression",
    "py150": "py150 is source code",
    "sqf": "sqf is a table of police stops",
    "yelp": "yelp is reviews, hence text",
}
