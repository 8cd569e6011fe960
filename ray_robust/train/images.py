"""Batches of images on the device: gathered as uint8, normalised last; `augmentation` is between the two.

Owns `ImageBank`: the images of a training or a test split.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch

RESIDENT_SHARE = 0.4  # of a GPU's free memory that the images of one training may take; else they stay in RAM


class ImageBank:
    """Images addressed by position, of several arrays: (uint8 [m, size, size, 3], rows in it or None for all of it).

    Arrays may be memory-mapped: nothing is copied except to a GPU on which all of it fits.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray | None]], device: torch.device) -> None:
        self.device = device = _numbered(device)
        self.size = parts[0][0].shape[1]
        self._parts = [
            (_tensor(pixels), None if rows is None else torch.from_numpy(np.asarray(rows, dtype=np.int64)))
            for pixels, rows in parts
        ]
        lengths = [len(pixels) if rows is None else len(rows) for pixels, rows in self._parts]
        self._ends = torch.tensor(lengths).cumsum(0)
        self._length = sum(lengths)
        self._prefetched: tuple[torch.Tensor, Future[torch.Tensor]] | None = None
        self._fetcher: ThreadPoolExecutor | None = None
        if device.type == "cuda" and self._length * self.size * self.size * 3 <= RESIDENT_SHARE * _free(device):
            whole = torch.cat([self._gather(torch.arange(i, min(i + 4096, len(self))))
                               for i in range(0, len(self), 4096)])  # fmt: skip
            with suppress(torch.OutOfMemoryError):  # another process took the memory: they stay in RAM
                self._parts, self._ends = [(whole.to(device), None)], self._ends[-1:]

    def __len__(self) -> int:
        return self._length

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """Return uint8 [b, size, size, 3] on the device, for int64 positions [b] on the CPU."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None and torch.equal(prefetched[0], positions):
            return self._on_this_stream(prefetched[1].result())
        images = self._gather(positions)
        if images.device == self.device:
            return images
        return (images.pin_memory() if self.device.type == "cuda" else images).to(self.device, non_blocking=True)

    def prefetch(self, positions: torch.Tensor) -> None:
        """Begin to copy images to the GPU that `take` will return next; does nothing where they are there already.

        A thread gathers and pins them while the training continues, and a stream of its own copies them.
        """
        if self.device.type != "cuda" or self._parts[0][0].is_cuda:
            return
        if self._fetcher is None:
            self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="images")
            self._copies = torch.cuda.Stream(self.device)
        self._prefetched = positions, self._fetcher.submit(self._to_gpu, positions)

    def _to_gpu(self, positions: torch.Tensor) -> torch.Tensor:
        images = self._gather(positions).pin_memory()
        with torch.cuda.stream(self._copies):
            return images.to(self.device, non_blocking=True)

    def _on_this_stream(self, images: torch.Tensor) -> torch.Tensor:
        """Images that the copying stream has copied, for use on the current one."""
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._copies)
        images.record_stream(here)
        return images

    def _gather(self, positions: torch.Tensor) -> torch.Tensor:
        if len(self._parts) == 1:
            return _pick(*self._parts[0], positions)
        which = torch.searchsorted(self._ends, positions, right=True)
        images = torch.empty((len(positions), self.size, self.size, 3), dtype=torch.uint8)
        for part, (pixels, rows) in enumerate(self._parts):
            mine = which == part
            start = int(self._ends[part - 1]) if part else 0
            images[mine] = _pick(pixels, rows, positions[mine] - start)
        return images


def _numbered(device: torch.device) -> torch.device:
    """The same device with its number: `cuda` alone equals no tensor's device, and has no share of memory."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _free(device: torch.device) -> float:
    """Bytes of a GPU that this process may still take: what is free, within its own share of the whole."""
    free, whole = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free, share * whole - torch.cuda.memory_reserved(device))


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor. A store is mapped read-only, of which torch warns; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _pick(pixels: torch.Tensor, rows: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
    return pixels[(positions if rows is None else rows[positions]).to(pixels.device)]


def normalise(images: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Return (x - mean) / std per channel, float32 [b, 3, h, w] in channels_last, of uint8 or float [b, h, w, 3]."""
    scale = 1 / torch.tensor(std, device=images.device)
    shift = -torch.tensor(mean, device=images.device) * scale
    return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)
