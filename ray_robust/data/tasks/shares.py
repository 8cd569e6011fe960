"""The shares of images that tasks make their splits by, where no split is published."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(gt=0, lt=0.5)]
TestShare = Annotated[
    Share,
    Field(
        description="share of them that is id_test; OOD images are divided between val and test in the same proportion",
        examples=["test: 0.3"],
    ),
]


def ood_val_share(val: float, test: float) -> float:
    """Return the share of the OOD images that is ood_val, where these are the shares of id_val and id_test."""
    return val / (val + test)
