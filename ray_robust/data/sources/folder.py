"""The source `folder`: anyone's labelled images, to pre-train on."""

from __future__ import annotations

from ray_robust.data.folder import FolderOptions, ImageFiles, Listing, list_folder
from ray_robust.data.pool import Source


class FolderSource(ImageFiles, Source):
    """Images in class folders, or listed by a CSV beside a folder or zip; see FolderOptions."""

    Options = FolderOptions

    def make_listing(self) -> Listing:
        return list_folder(self.options, splits=False)
