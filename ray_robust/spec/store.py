"""How images are stored for a model: the key `store` of `model`. `data.images` makes the stores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from ray_robust.spec.section import Contradiction, Section
from ray_robust.spec.values import short_repr

WANTED = "must be auto, raw, compact, or a mapping such as {size: 288, quality: 95}"
QUALITY = 95  # of JPEG: at 224 px a fifth of the bytes of decoded squares (docs/performance.md)
MARGIN = 8 / 7  # of the stored side over the models' size: 256 px for 224, what most evaluations are cut from
LARGEST_STORED = 16_384  # px


class Store(Section):
    """The form in which images are stored, and from which each one that a model sees is cut."""

    codec: Literal["jpeg", "raw"] = Field(
        default="jpeg",
        description="`raw`: as decoded squares of `image_size`; `jpeg`: whole, as JPEG, decoded when shown: random "
        "crops are cut from the whole, and evaluation shows the centre in the proportion that the model was published "
        "with",
        examples=["store: raw", "store: {codec: jpeg}"],
    )
    size: int | None = Field(
        default=None,
        ge=8,
        le=LARGEST_STORED,
        description="the stored short side in px, of images with another `fit` than crop both sides, at least "
        "`image_size`; smaller images keep their size, and what is a JPEG then its bytes; not given: 8/7 of "
        "`image_size`",
        examples=["store: {size: 288}"],
    )
    quality: int = Field(
        default=QUALITY, ge=50, le=100, description="of the JPEGs", examples=["store: {size: 288, quality: 90}"]
    )

    def contradictions(self) -> Iterator[Contradiction]:
        if self.codec == "raw" and (self.size is not None or self.quality != QUALITY):
            yield (
                ("codec", "size", "quality"),
                "codec: raw has neither size nor quality; it is stored at image_size",
            )

    def contradicts(self, image_size: int) -> Iterator[Contradiction]:
        """Yield why images of this form are not what models see that ask for so many px: enlarged, in silence."""
        if self.size is not None and self.size < image_size:
            what = f"store.size: {self.size} px are fewer than the {image_size} of image_size that models see"
            yield ("store", "image_size"), f"{what}; store at least as many"

    def side(self, image_size: int) -> int | None:
        """Return the stored side for models that see so many px; None for decoded squares."""
        if self.codec == "raw":
            return None
        return math.ceil(image_size * MARGIN) if self.size is None else self.size


def parse_store(raw: Any) -> Any:
    """Return `model.store` in its long form; None where room decides. Raise ValueError with what would be right."""
    short = {"raw": {"codec": "raw"}, "compact": {}, "auto": None}
    if isinstance(raw, str) and raw in short:
        return short[raw]
    if raw is not None and not isinstance(raw, dict | Store):
        raise ValueError(f"{WANTED}, not {short_repr(raw)}")
    return raw
