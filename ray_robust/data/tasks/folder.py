"""The task `folder`: anyone's labelled images, divided into the five splits by folders or by a CSV's column."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ray_robust.data.pool import Task
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import FolderOptions, ImageFiles, list_folder
from ray_robust.data.tasks.shift_options import ESTIMABLE, NOT_ESTIMABLE, ShiftedOptions


class FolderTask(ImageFiles, Task):
    """Images in `<split>/<class>/`, or listed by a CSV with a column `split`; see FolderOptions.

    The splits are train, id_val, id_test, ood_val and ood_test, and every one must hold images.
    """

    class Options(FolderOptions, ShiftedOptions):
        unseen: Literal["fail", "drop"] = Field(
            default="fail",
            description="labels that train lacks end the sweep, or their images are left out",
            examples=["unseen: drop"],
        )
        labels: Literal["none"] | None = Field(
            default=None,
            description="none: images of `ood_test` have no labels (in folders, they lie directly in `ood_test/`, and "
            "`ood_val` may be absent); OOD accuracy is estimated by agreement, and the metric is accuracy",
            examples=["labels: none"],
        )

        @model_validator(mode="after")
        def _estimable(self) -> Self:
            if self.labels == "none" and self.metric not in (None, ESTIMABLE):
                raise PydanticCustomError("labels", "{what}", {"what": f"labels: none: {NOT_ESTIMABLE}"})
            return self

    options: Options

    own_metric = "macro_f1"

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        if options.labels == "none":
            self.own_metric = ESTIMABLE

    def make_listing(self) -> Listing:
        o = self.options
        return list_folder(o, splits=True, drop_unseen=o.unseen == "drop", unlabelled=o.labels == "none")
