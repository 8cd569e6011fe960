"""In what form a node stores images: decoded at the size that models see, or as JPEG, from which crops are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_robust.spec.store import QUALITY

if TYPE_CHECKING:
    from ray_robust.spec.sections import ModelSection


@dataclass(frozen=True)
class Form:
    """A form that images are stored in.

    size     px of the square that models see
    side     px of what is stored as JPEG: its short side, of images with another `fit` than crop both sides; images
             that are smaller keep their size. None: decoded squares of `size`
    quality  of the JPEGs
    """

    size: int
    side: int | None = None
    quality: int = QUALITY

    @property
    def px(self) -> int:
        """The size at which images are read to be stored."""
        return self.size if self.side is None else self.side

    @property
    def name(self) -> str:
        """What names it in a store's folder."""
        return f"{self.size}" if self.side is None else f"jpeg-q{self.quality}-{self.side}"

    def bytes_of(self, images: int) -> int:
        """Return about how many bytes so many images take on disk, of photographs."""
        if self.side is None:
            return images * self.size * self.size * 3
        return int(images * self.side * self.side * 1.4 * _bytes_per_pixel(self.quality))


def as_form(form: Form | int) -> Form:
    """Return a form as it is; of a number the decoded squares of that size."""
    return form if isinstance(form, Form) else Form(form)


def form_of(model: ModelSection) -> Form:
    """Return the form in which images are stored for a model."""
    quality = QUALITY if model.store is None else model.store.quality
    return Form(model.image_size, model.stored_side, quality)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """An image as it is stored: an upright JPEG in RGB, and its height and width."""

    data: bytes | memoryview
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """How a square is cut from an image.

    part           of the short side that the square has
    interpolation  bilinear or bicubic
    squash         both sides are cut to that part of themselves, and what is left is squeezed to the square
    """

    part: float = 1.0
    interpolation: str = "bilinear"
    squash: bool = False


def _bytes_per_pixel(quality: int) -> float:
    """Return bytes of JPEG per pixel of a photograph, in 4:2:0."""
    return 0.45 * 2.0 ** ((quality - 95) / 10)
