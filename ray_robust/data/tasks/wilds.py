"""The tasks `wilds:<name>`: image classification data sets that the wilds package reads from their official folders.

Owns calling the package and saying what is missing; what each data set is stands in `official`. Never downloads
anything. Source: Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (ICML 2021).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from ray_robust.data.images.files import Folder
from ray_robust.data.pool import SPLITS, Catalog, FileOptions, Task
from ray_robust.data.published import catalog_of_counts
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import ImageFiles, LocalPath, make_listing
from ray_robust.data.tasks.official import DATASETS, UNFIT, Official
from ray_robust.data.tasks.shift_options import ShiftedOptions
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean
from ray_robust.files.regular_file import without_content

OUR_SPLIT = {"train": "train", "id_val": "id_val", "id_test": "id_test", "val": "ood_val", "test": "ood_test"}


class WildsTask(ImageFiles, Task):
    """`wilds:iwildcam` (species, groups are cameras), `wilds:fmow` (land use; regions), `wilds:camelyon17` (tumour;
    slides of hospitals), `wilds:rxrx1` (siRNA; experiments), `wilds:waterbirds` and `wilds:celebA` (pairs of label and
    attribute). Labels are the package's y. Its val and test are ood_val and ood_test unless `official` says otherwise.
    """

    class Options(FileOptions, ShiftedOptions):
        root: LocalPath = Field(
            description="the folder that holds `iwildcam_v2.0/`, `fmow_v1.1/` and the like", examples=["root: ~/data"]
        )

    options: Options

    def __init__(self, name: str, options: FileOptions) -> None:
        super().__init__(name, options)
        self.dataset = name.partition(":")[2]
        self.image_counts: dict[str, int] = {}  # images per split by the package's names, once they are listed
        if self.dataset in UNFIT:
            raise UserError(f"task {name!r}: {UNFIT[self.dataset]}; a task here is image classification")
        if self.dataset not in DATASETS:
            raise UserError(f"task {name!r}: no such WILDS data set here{did_you_mean(self.dataset, DATASETS)}")

    @property
    def own_metric(self) -> str:  # type: ignore[override]  # as its data set has it
        return DATASETS[self.dataset].metric

    @property
    def line_caveat(self) -> str:  # type: ignore[override]  # as its data set has it
        return DATASETS[self.dataset].line_caveat

    @property
    def aside(self) -> tuple[str, ...]:
        return DATASETS[self.dataset].aside

    @property
    def folder(self) -> Path:
        """Where the package looks for the data set."""
        return Path(self.options.root) / f"{self.dataset}_v{DATASETS[self.dataset].version}"

    @property
    def release(self) -> Path:
        """The file by which the package knows a finished download."""
        return self.folder / f"RELEASE_v{DATASETS[self.dataset].version}.txt"

    def published(self) -> Catalog:
        official = DATASETS[self.dataset]
        splits = official.divided or {OUR_SPLIT[name]: size for name, size in official.sizes.items()}
        return catalog_of_counts(self.name, sum(splits.values()), official.classes, official.licence, splits)

    def make_listing(self) -> Listing:
        official = DATASETS[self.dataset]
        folder = self.folder
        self._check(folder, official)
        limit = Image.MAX_IMAGE_PIXELS
        try:
            with warnings.catch_warnings():  # its warnings are for the package's authors
                warnings.simplefilter("ignore")
                wilds = official.load(folder) if official.load else self._by_package()
            frame, classes = official.read(wilds)
            frame["label"] = np.asarray(classes)[np.asarray(wilds.y_array)]
        except UserError:
            raise
        except Exception as error:  # the package asserts, and trusts its files otherwise
            why = f"{type(error).__name__}: {without_content(error)}"
            what = f"the wilds package cannot read it ({why}); is the folder complete?"
            raise UserError(Problem(str(folder), what)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit  # importing fmow lifts it for the whole process
        names = {number: OUR_SPLIT[name] for name, number in wilds.split_dict.items()}
        split = pd.Series(np.asarray(wilds.split_array).astype(int)).map(names)  # -1, in no split: not a number here
        frame = frame.assign(split=split)[split.notna().to_numpy()]
        if official.divide is not None:
            frame["split"] = official.divide(frame)
        counts = frame["split"].value_counts().reindex(list(SPLITS), fill_value=0)
        if empty := [name for name in SPLITS if not counts[name]]:
            raise UserError(Problem(str(folder), f"has no images in {', '.join(empty)}; is the metadata complete?"))
        notes = list(official.notes)
        counted_as = np.asarray(wilds.split_array)
        self.image_counts = {name: int((counted_as == wilds.split_dict[name]).sum()) for name in official.sizes}
        if difference := official.differs(self.image_counts):
            notes.append(f"These are not the official images of {self.dataset} v{official.version}: {difference}.")
        frame = frame[["key", "label", "group", "split"]]
        return make_listing(frame, Folder(str(folder)), official.licence, tuple(notes), classes=classes)

    def _by_package(self) -> Any:
        return _wilds().get_dataset(dataset=self.dataset, root_dir=self.options.root, download=False)

    def absent(self) -> list[str]:
        """Return the keys of images that are not there."""
        lost = np.flatnonzero(self._listing.stamps["size"] < 0)
        return self.keys(lost)

    def _check(self, folder: Path, official: Official) -> None:
        """Look before the package does: it makes empty folders where it finds nothing."""
        absent = [name for name in official.needs if not (folder / name).exists()]
        if absent:
            hint = f"; did you mean root: {folder.parent.parent}?" if folder.parent.name == folder.name else ""
            what = f"has no {', '.join(absent)}{hint or '. ' + official.obtain}"
            raise (UserError if folder.exists() else DataAbsent)(Problem(str(folder), what))
        if not self.release.exists():
            what = (
                "is not there, by which the wilds package knows a finished download; if the folder is complete: touch"
            )
            raise UserError(Problem(str(self.release), f"{what} {self.release}"))


def _wilds() -> Any:
    """Return the package, without the thread in which it asks the network for a newer version of itself."""
    if "wilds" not in sys.modules:
        before = {"outdated": sys.modules["outdated"]} if "outdated" in sys.modules else {}
        sys.modules["outdated"] = None  # type: ignore[assignment]  # importing it now fails, which the package allows for
        try:
            import wilds
        except ImportError as error:
            raise UserError(f"the tasks wilds:... need the wilds package ({error}); pip install wilds") from None
        finally:
            del sys.modules["outdated"]
            sys.modules.update(before)
    import wilds

    return wilds
