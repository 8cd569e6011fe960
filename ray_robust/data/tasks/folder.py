"""The task `folder`: anyone's labelled images, divided into the five splits by folders or by a CSV's column."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_robust.data.pool import Task, TaskOptions
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import FolderOptions, ImageFiles, list_folder


class FolderTask(ImageFiles, Task):
    """Images in `<split>/<class>/`, or listed by a CSV with a column `split`; see FolderOptions.

    The splits are train, id_val, id_test, ood_val and ood_test, and every one must hold images.
    """

    class Options(FolderOptions, TaskOptions):
        unseen: Literal["fail", "drop"] = Field(
            default="fail",
            description="labels that train lacks end the sweep, or their images are left out",
            examples=["unseen: drop"],
        )

    options: Options

    own_metric = "macro_f1"

    def make_listing(self) -> Listing:
        return list_folder(self.options, splits=True, drop_unseen=self.options.unseen == "drop")
