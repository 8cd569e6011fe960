"""The source `folder`: anyone's labelled images, to pre-train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ray_robust.data.labels.wordnet import HierarchyOption
from ray_robust.data.pool import Source
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import FolderOptions, ImageFiles, column_of_csv, list_folder


class FolderSource(ImageFiles, Source):
    """Images in class folders, or listed by a CSV beside a folder or zip; see FolderOptions."""

    class Options(FolderOptions):
        hierarchy: HierarchyOption | None = Field(
            default=None,
            description="in place of the CSV's columns: `wordnet`, WordNet's dict folder, or a file of "
            "parent-child pairs; classes are its nodes (n02084071) or words that one node alone has",
            examples=["hierarchy: wordnet"],
        )

    options: Options

    def make_listing(self) -> Listing:
        listing = list_folder(self.options, splits=False)
        if self.options.hierarchy is None:
            return listing
        from ray_robust.data.labels.hierarchy import attach_hierarchy

        return replace(listing, catalog=attach_hierarchy(listing.catalog, self.options.hierarchy))

    def values(self, column: str) -> Sequence[Any]:
        path = Path(self.options.path)
        if path.is_dir() or path.suffix.lower() == ".zip":
            return super().values(column)
        return column_of_csv(path, column, self.where, self.keys(np.arange(len(self.catalog))))
