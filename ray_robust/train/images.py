"""Batches of images on the device: gathered as uint8, normalised last; `augmentation` is between the two.

Owns `ImageBank`: the images of a training or a test split.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from ray_robust.data.images.stored_jpegs import StoredJpegs
from ray_robust.train.crops import RandomCrops
from ray_robust.train.device import constant, send

RESIDENT_SHARE = 0.4  # of a GPU's free memory that the images of one training may take; else they stay in RAM
HELD = 1 << 30  # bytes of one training's or split's images that are decoded once, into memory; else at every use
CHUNK = 4096  # images that are decoded into memory at once


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Rows (None: all) of uint8 [m, size, size, 3]."""

    pixels: torch.Tensor
    rows: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.pixels) if self.rows is None else len(self.rows)

    def pick(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the images at these positions, where they are."""
        return self.pixels[send(positions if self.rows is None else self.rows[positions], self.pixels.device)]


class ImageBank:
    """Images addressed by position, of several parts: (uint8 [m, size, size, 3], rows in it or None for all of it), or
    those of a compact store, which are decoded when they are asked for.

    Arrays may be memory-mapped: nothing is copied except to a GPU on which all of it fits.
    """

    def __init__(
        self, parts: Sequence[tuple[np.ndarray, np.ndarray | None] | StoredJpegs], device: torch.device
    ) -> None:
        self.device = device = _numbered(device)
        self._parts = [part if isinstance(part, StoredJpegs) else _decoded(*part) for part in parts]
        first = self._parts[0]
        self.size: int = first.size if isinstance(first, StoredJpegs) else first.pixels.shape[1]
        self.whole = all(isinstance(part, StoredJpegs) for part in self._parts)  # not squares: crops are cut from them
        lengths = [len(part) for part in self._parts]
        self._ends = torch.tensor(lengths).cumsum(0)
        self._length = sum(lengths)
        self._resident: _Decoded | None = None  # all of them, in memory
        self._prefetched: list[tuple[torch.Tensor, RandomCrops | None, Future[torch.Tensor]]] = []  # of each training
        self._fetcher: ThreadPoolExecutor | None = None
        if not self.whole and device.type == "cuda" and self._bytes <= RESIDENT_SHARE * _free(device):
            self._settle(on_gpu=True)

    def __len__(self) -> int:
        return self._length

    @property
    def _bytes(self) -> int:
        return self._length * self.size * self.size * 3

    def decode(self) -> None:
        """Decode all images of a compact store into memory, or onto the GPU, where there is room: they will be asked
        for again and again, without crops. Does nothing where that was done."""
        if self.whole and self._resident is None:
            on_gpu = self.device.type == "cuda" and self._bytes <= RESIDENT_SHARE * _free(self.device)
            if on_gpu or self._bytes <= HELD:
                self._settle(on_gpu)

    def _settle(self, on_gpu: bool) -> None:
        images = torch.empty((self._length, self.size, self.size, 3), dtype=torch.uint8)
        for first in range(0, self._length, CHUNK):
            positions = torch.arange(first, min(first + CHUNK, self._length))
            images[first : first + len(positions)] = self._gather(positions)
        if on_gpu:
            with suppress(torch.OutOfMemoryError):  # another process took the memory: they stay in RAM
                self._resident = _Decoded(images.to(self.device), None)
        if self.whole and self._resident is None:
            self._resident = _Decoded(images, None)

    def take(self, positions: torch.Tensor, crops: RandomCrops | None = None) -> torch.Tensor:
        """Return uint8 [b, size, size, 3] on the device, for int64 positions [b] on the CPU; with `crops`, which needs
        `whole` images, the random crops, [views * b, size, size, 3]."""
        for index, (wanted, cut, images) in enumerate(self._prefetched):
            if cut == crops and torch.equal(wanted, positions):
                del self._prefetched[: index + 1]  # trainings take turns: who asked before that no longer trains
                return self._on_this_stream(images.result())
        if crops is None and self._resident is not None:
            return send(self._resident.pick(positions), self.device)
        return send(self._gather(positions, crops), self.device)

    def prefetch(self, positions: torch.Tensor, crops: RandomCrops | None = None) -> None:
        """Begin to copy images to the GPU that `take` will return later; does nothing where they are there already.

        Trainings that share these images and take turns have a batch ahead each. A thread gathers and pins the images
        while the training continues, and a stream of its own copies them.
        """
        there = crops is None and self._resident is not None and self._resident.pixels.is_cuda
        if self.device.type != "cuda" or there:
            return
        if self._fetcher is None:
            self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="images")
            self._copies = torch.cuda.Stream(self.device)
        self._prefetched.append((positions, crops, self._fetcher.submit(self._to_gpu, positions, crops)))

    def _to_gpu(self, positions: torch.Tensor, crops: RandomCrops | None) -> torch.Tensor:
        held = self._resident if crops is None else None
        images = self._gather(positions, crops) if held is None else held.pick(positions)
        with torch.cuda.stream(self._copies):
            return images.pin_memory().to(self.device, non_blocking=True)

    def _on_this_stream(self, images: torch.Tensor) -> torch.Tensor:
        """Images that the copying stream has copied, for use on the current one."""
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._copies)
        images.record_stream(here)
        return images

    def _gather(self, positions: torch.Tensor, crops: RandomCrops | None = None) -> torch.Tensor:
        """Return the images at these positions on the CPU, uint8 [views * b, size, size, 3]."""
        if len(self._parts) == 1 and isinstance(self._parts[0], _Decoded):
            return self._parts[0].pick(positions)
        which = torch.searchsorted(self._ends, positions, right=True)
        starts = self._ends - torch.tensor([len(part) for part in self._parts])
        shape = (1 if crops is None else crops.views, len(positions), self.size, self.size, 3)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=self.whole and self.device.type == "cuda")
        boxes = None if crops is None else crops.boxes(self._shapes(positions, which, starts))
        for number, part in enumerate(self._parts):
            mine = which == number
            within = positions[mine] - starts[number]
            if isinstance(part, _Decoded):
                images[0, mine] = part.pick(within)
            elif len(self._parts) == 1:
                part.read(within.numpy(), images.numpy(), boxes, _threads(self.device))
            else:
                squares = np.empty((len(images), len(within), *shape[2:]), np.uint8)
                part.read(within.numpy(), squares, None if boxes is None else boxes[:, mine.numpy()],
                          _threads(self.device))  # fmt: skip
                images[:, mine] = torch.from_numpy(squares)
        return images.flatten(0, 1)

    def _shapes(self, positions: torch.Tensor, which: torch.Tensor, starts: torch.Tensor) -> np.ndarray:
        """Return int64 [b, 2], the height and width of these images as they are stored."""
        shapes = np.empty((len(positions), 2), np.int64)
        for number, part in enumerate(self._parts):
            assert isinstance(part, StoredJpegs)
            mine = which == number
            shapes[mine.numpy()] = part.shapes((positions[mine] - starts[number]).numpy())
        return shapes


def _threads(device: torch.device) -> int:
    """How many threads decode: on a CPU those that the training has, which waits meanwhile; beside a GPU its share of
    the cores. No pixel depends on it."""
    own = torch.get_num_threads()
    if device.type == "cpu":
        return own
    return max(own, len(os.sched_getaffinity(0)) // max(1, torch.cuda.device_count()))


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


def _decoded(pixels: np.ndarray, rows: np.ndarray | None) -> _Decoded:
    """The same memory as a tensor. A store is mapped read-only, of which torch warns; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        whole = torch.from_numpy(pixels)
    return _Decoded(whole, None if rows is None else torch.from_numpy(np.asarray(rows, dtype=np.int64)))


def normalise(images: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Return (x - mean) / std per channel, float32 [b, 3, h, w] in channels_last, of uint8 or float [b, h, w, 3]."""
    scale = 1 / constant(tuple(std), images.device)
    shift = -constant(tuple(mean), images.device) * scale
    if images.dtype != torch.uint8:
        return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)
    # whole rows of pixels at once, in place: broadcast over three channels an inner loop has three steps
    width = images.shape[2]
    rows = images.to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
    torch.addcmul(shift.repeat(width), rows, scale.repeat(width), out=rows)
    return rows.view(images.shape).permute(0, 3, 1, 2)
