"""The tasks `wilds:<name>`: iwildcam, fmow and camelyon17, read by the wilds package from the official folder layout.

Owns the map from the package's splits and metadata to ours, and saying what is missing. Never downloads anything.
Source: Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (ICML 2021).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ray_robust.data.files import Folder
from ray_robust.data.folder import ImageFiles, Listing, Place, key_ids, make_listing
from ray_robust.data.pool import SPLITS, Catalog, FileOptions, Metric, Task, TaskOptions, mix_bits, seed_of
from ray_robust.data.published import counted
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean

OUR_SPLIT = {"train": "train", "id_val": "id_val", "id_test": "id_test", "val": "ood_val", "test": "ood_test"}


@dataclass(frozen=True)
class Official:
    """What is known of one data set. `read` makes the columns key, label and group, and the classes in order of y."""

    version: str
    needs: tuple[str, ...]
    sizes: dict[str, int]  # images per split, by the package's names of splits
    classes: int
    metric: Metric
    licence: str
    obtain: str
    read: Callable[[Any], tuple[pd.DataFrame, tuple[str, ...]]]
    notes: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()  # groups that its official worst group leaves out


class WildsTask(ImageFiles, Task):
    """`wilds:iwildcam` (species, groups are cameras), `wilds:fmow` (land use; regions), `wilds:camelyon17` (tumour;
    slides of hospitals). Labels are the package's y. The package's val and test are ood_val and ood_test."""

    class Options(FileOptions, TaskOptions):
        """root  the folder that holds `iwildcam_v2.0/`, `fmow_v1.1/` or `camelyon17_v1.0/`."""

        root: Place

    def __init__(self, name: str, options: FileOptions) -> None:
        super().__init__(name, options)
        self.dataset = name.partition(":")[2]
        if self.dataset not in KNOWN:
            raise UserError(f"task {name!r}: no such WILDS data set here{did_you_mean(self.dataset, KNOWN)}")

    @property
    def own_metric(self) -> Metric:  # type: ignore[override]
        return KNOWN[self.dataset].metric

    @property
    def aside(self) -> tuple[str, ...]:
        return KNOWN[self.dataset].aside

    def published(self) -> Catalog:
        official = KNOWN[self.dataset]
        splits = {OUR_SPLIT[name]: size for name, size in official.sizes.items()}
        if "id_test" not in splits:
            splits["id_test"] = splits["id_val"] // 2
            splits["id_val"] -= splits["id_test"]
        return counted(self.name, sum(splits.values()), official.classes, official.licence, splits)

    def make_listing(self) -> Listing:
        official = KNOWN[self.dataset]
        folder = Path(self.options.root) / f"{self.dataset}_v{official.version}"
        self._check(folder, official)
        limit = Image.MAX_IMAGE_PIXELS
        try:
            with warnings.catch_warnings():  # its warnings are for the package's authors
                warnings.simplefilter("ignore")
                wilds = _wilds().get_dataset(dataset=self.dataset, root_dir=self.options.root, download=False)
            frame, classes = official.read(wilds)
            frame["label"] = np.asarray(classes)[np.asarray(wilds.y_array)]
        except UserError:
            raise
        except Exception as error:  # the package asserts, and trusts its files otherwise
            what = f"the wilds package cannot read it ({type(error).__name__}: {error}); is the folder complete?"
            raise UserError(Problem(str(folder), what)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit  # importing fmow lifts it for the whole process
        names = {number: OUR_SPLIT[name] for name, number in wilds.split_dict.items()}
        split = pd.Series(np.asarray(wilds.split_array).astype(int)).map(names)  # -1, in no split: not a number here
        frame = frame.assign(split=split, mark="")[split.notna().to_numpy()]
        if self.dataset == "camelyon17":
            frame["split"] = _halve_id_val(frame)
        counts = frame["split"].value_counts().reindex(list(SPLITS), fill_value=0)
        if empty := [name for name in SPLITS if not counts[name]]:
            raise UserError(Problem(str(folder), f"has no images in {', '.join(empty)}; is the metadata complete?"))
        notes = list(official.notes)
        found = {name: int((np.asarray(wilds.split_array) == wilds.split_dict[name]).sum()) for name in official.sizes}
        if found != official.sizes:
            told = ", ".join(f"{name} {found[name]:,} of {size:,}" for name, size in official.sizes.items())
            notes.append(f"These are not the official images of {self.dataset} v{official.version}: {told}.")
        return make_listing(frame, Folder(str(folder)), official.licence, tuple(notes), classes=classes)

    def _check(self, folder: Path, official: Official) -> None:
        """Look before the package does: it makes empty folders where it finds nothing."""
        absent = [name for name in official.needs if not (folder / name).exists()]
        if absent:
            hint = f"; did you mean root: {folder.parent.parent}?" if folder.parent.name == folder.name else ""
            what = f"has no {', '.join(absent)}{hint or '. ' + official.obtain}"
            raise (UserError if folder.exists() else DataAbsent)(Problem(str(folder), what))
        release = folder / f"RELEASE_v{official.version}.txt"
        if not release.exists():
            what = (
                "is not there, by which the wilds package knows a finished download; if the folder is complete: touch"
            )
            raise UserError(Problem(str(release), f"{what} {release}"))


def _halve_id_val(frame: pd.DataFrame) -> pd.Series:
    """camelyon17 has no ID test: a hash of each image's key gives it half of id_val."""
    chosen = mix_bits(key_ids(frame["key"]), seed_of("camelyon17", "id_test")) & np.uint64(1)
    return frame["split"].mask((frame["split"] == "id_val") & (chosen == 1), "id_test")


def _wilds() -> Any:
    """The package, without the thread in which it asks the network for a newer version of itself."""
    if "wilds" not in sys.modules:
        kept = {"outdated": sys.modules["outdated"]} if "outdated" in sys.modules else {}
        sys.modules["outdated"] = None  # type: ignore[assignment]  # importing it now fails, which the package allows for
        try:
            import wilds
        except ImportError as error:
            raise UserError(f"the tasks wilds:... need the wilds package ({error}); pip install wilds") from None
        finally:
            del sys.modules["outdated"]
            sys.modules.update(kept)
    import wilds

    return wilds


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


_BY_PACKAGE = "Obtain it: python wilds/download_datasets.py --root_dir ROOT --datasets {} (github.com/p-lambda/wilds)"
KNOWN = {
    "iwildcam": Official(
        version="2.0",
        needs=("metadata.csv", "train"),
        sizes={"train": 129_809, "id_val": 7_314, "id_test": 8_154, "val": 14_961, "test": 42_791},
        classes=182,
        metric="macro_f1",
        licence="CDLA-Permissive-1.0 (iWildCam 2020, Beery et al.)",
        obtain="Obtain it: the official link is down (wilds issues 173, 174, 175); the mirror "
        "emmilly/iwildcam-wilds-v2 on the Hugging Face hub holds the archive (11,957,415,473 bytes, sha256 "
        "05c872f46eee44315f79bc90f4098c69ae3799a2b95116db02292ea1b4e370d2): check it, then unpack it here",
        read=_iwildcam,
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
        notes=(
            "camelyon17 has no ID test split: half of its id_val, drawn by a hash of the path, is used as id_test.",
        ),
    ),
}
