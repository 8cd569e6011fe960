"""How long a training is, in steps. No torch: a plan says it too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Duration:
    """How long a training is. The last, smaller batch of an epoch is left out: every epoch draws another order."""

    images: int
    batch_size: int
    steps: int

    @classmethod
    def of(
        cls, images: int, batch_size: int, epochs: int | None, images_seen: int | None, least: int | None = None
    ) -> Duration:
        """Return the duration of a number of epochs, with `least` images to process at least, or of images to process
        in all."""
        batch = min(batch_size, images)
        if epochs is not None:
            return cls(images, batch, max(epochs * max(1, images // batch), round((least or 0) / batch)))
        return cls(images, batch, max(1, round((images_seen or 0) / batch)))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the images."""
        return max(1, self.images // self.batch_size)

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch, or the training, is over after so many steps."""
        return step % self.steps_per_epoch == 0 or step == self.steps
