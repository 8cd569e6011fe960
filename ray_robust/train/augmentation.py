"""Random variants of a batch of images: the operations behind the names of `spec.augmentation`.

Whole batches on the device, except for torchvision's policies, which draw for one image after the other, and for crops
of images that are stored whole (`crops`). All other randomness comes from torch's default generators, which the
training loop seeds anew from names at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F

from ray_robust.spec.augmentation import steps_of
from ray_robust.train.crops import AREA, RandomCrops
from ray_robust.train.device import constant
from ray_robust.train.images import ImageBank


class Views:
    """A training's random variants of the images of a bank, `count` of each, under a `spec.augmentation`.

    Where the bank has whole images and crops are random, they are cut from these, as from the images' files; all else
    is done to the batch, on the device.
    """

    def __init__(self, bank: ImageBank, augmentation: str, count: int = 1) -> None:
        self.bank, self.augmentation, self.count = bank, augmentation, count
        self._cuts = bank.whole and "strong" in steps_of(augmentation)
        if not self._cuts:
            bank.decode()

    def take(self, positions: torch.Tensor, seed: int) -> torch.Tensor:
        """Return [count * b, size, size, 3] on the device: all images once, then again; see `augment`. The `seed` is
        that of crops: all else is drawn from torch's default generators."""
        images = self.bank.take(positions, self._crops(seed))
        if self._cuts:
            return augment(images, self.augmentation, cropped=True)
        views = [augment(images, self.augmentation) for _ in range(self.count)]
        return torch.cat(views) if self.count > 1 else views[0]

    def prefetch(self, positions: torch.Tensor, seed: int) -> None:
        """Begin to fetch what `take` will be asked for next."""
        self.bank.prefetch(positions, self._crops(seed))

    def _crops(self, seed: int) -> RandomCrops | None:
        return RandomCrops(seed, self.count) if self._cuts else None


def augment(images: torch.Tensor, method: str, cropped: bool = False) -> torch.Tensor:
    """Return a random variant of every image: uint8 [b, s, s, 3] in; uint8 out, or float32 (0-255) where `strong` has
    been done last. `method` is what `spec.augmentation.parse_augmentation` returned; images that are `cropped` at
    random already are not again."""
    for step in steps_of(method):
        images = _strong(images, cropped) if step == "strong" else _OPERATIONS[step](images)
    return images


def _flip(images: torch.Tensor, axis: int = 2) -> torch.Tensor:
    """Half of them turned over, left to right or along another axis: chosen between eight bytes at a time where images
    divide into such, since torch's choice between single bytes is not vectorised and takes longer than all else."""
    flat, flipped = images.flatten(1), images.flip(axis).flatten(1)
    places = (flat.shape[1], flat.stride(0), flat.storage_offset())
    by_eight = flat.stride(1) == 1 and all(place * images.element_size() % 8 == 0 for place in places)
    unit = torch.int64 if by_eight else images.dtype
    return torch.where(_chosen(images), flipped.view(unit), flat.view(unit)).view(images.dtype).view(images.shape)


def _crop(images: torch.Tensor) -> torch.Tensor:
    """Flip and shift by whole pixels, as one gather: on a CPU five times cheaper than padding and slicing."""
    count, size, device = len(images), images.shape[1], images.device
    line, reach = torch.arange(size, device=device), size // 8
    columns, rows = torch.where(_chosen(images), size - 1 - line, line), line.expand(count, size)
    if reach:
        moves = torch.randint(-reach, reach + 1, (2, count, 1), device=device)
        rows, columns = _reflect(rows + moves[0], size), _reflect(columns + moves[1], size)
    return _gather(images, rows[:, :, None] * size + columns[:, None, :])


def _chosen(images: torch.Tensor) -> torch.Tensor:
    """Half of the images, drawn at random: bool [b, 1]."""
    return torch.rand(len(images), 1, device=images.device) < 0.5


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _rotate90(images: torch.Tensor) -> torch.Tensor:
    """One of the eight symmetries of the square: two flips and a transposition, each with probability 1/2."""
    count, size, device = len(images), images.shape[1], images.device
    line = torch.arange(size, device=device)
    upside, mirrored, transposed = torch.rand(3, count, 1, device=device) < 0.5
    rows, columns = torch.where(upside, size - 1 - line, line), torch.where(mirrored, size - 1 - line, line)
    index = rows[:, :, None] * size + columns[:, None, :]
    return _gather(images, torch.where(transposed[:, :, None], index.transpose(1, 2), index))


def _gather(images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return images [b, s, s, 3] with the pixels at `index` [b, s, s] of each, counted row by row."""
    first = torch.arange(len(images), device=images.device)[:, None, None] * images.shape[1] ** 2
    return images.reshape(-1, 3).index_select(0, (first + index).reshape(-1)).view(images.shape)


def _strong(images: torch.Tensor, cropped: bool) -> torch.Tensor:
    x = _flip(images).permute(0, 3, 1, 2).to(torch.float32) if cropped else _resized_crop(images)
    return _coloured(x).permute(0, 2, 3, 1)


def _uniform(images: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return what draws from a range for every image: (low, high, *further axes) -> float32 [b, *axes]."""
    return lambda low, high, *axes: torch.rand(len(images), *axes, device=images.device) * (high - low) + low


def _resized_crop(images: torch.Tensor) -> torch.Tensor:
    """Random-resized crops, flipped or not, of squares: float32 [b, 3, s, s] of uint8 [b, s, s, 3]."""
    count, size, device, uniform = len(images), images.shape[1], images.device, _uniform(images)
    area, ratio = uniform(*AREA), uniform(-0.2877, 0.2877).exp()  # log of 3/4 and 4/3
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    placing = torch.zeros(count, 2, 3, device=device)
    placing[:, 0, 0], placing[:, 1, 1] = width * mirror, height
    placing[:, 0, 2], placing[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(placing, [count, 3, size, size], align_corners=False)
    x = images.permute(0, 3, 1, 2).to(torch.float32)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _coloured(x: torch.Tensor) -> torch.Tensor:
    """What `strong` does beside its crop, of float32 [b, 3, s, s]."""
    size, device, uniform = x.shape[-1], x.device, _uniform(x)
    x = x * uniform(0.6, 1.4, 1, 1, 1)
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, uniform(0.6, 1.4, 1, 1, 1))
    grey = (x * constant((0.299, 0.587, 0.114), device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    keep = torch.where(uniform(0, 1, 1, 1, 1) < 0.2, 0.0, uniform(0.6, 1.4, 1, 1, 1))
    x = torch.lerp(grey.expand_as(x), x, keep).clamp(0, 255)
    line = (torch.arange(size, device=device) + 0.5) / size
    top, left, tall, wide = uniform(0, 1, 1), uniform(0, 1, 1), uniform(0.1, 0.5, 1), uniform(0.1, 0.5, 1)
    wide = torch.where(uniform(0, 1, 1) < 0.25, wide, torch.zeros_like(wide))
    hole = ((line - top).abs() < tall / 2)[:, :, None] & ((line - left).abs() < wide / 2)[:, None, :]
    return torch.where(hole[:, None], torch.full_like(x, 127.5), x)


def _policy(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def each(images: torch.Tensor) -> torch.Tensor:
        whole = images.permute(0, 3, 1, 2)
        if images.is_floating_point():  # after `strong`; equalize and posterize are of whole numbers
            whole = whole.round().to(torch.uint8)
        draw = _torchvision(name)
        return torch.stack([draw(image) for image in whole.contiguous()]).permute(0, 2, 3, 1).contiguous()

    return each


@cache
def _torchvision(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return torchvision's transform with its own defaults, of uint8 [3, s, s]. It holds no state, and draws from
    torch's default generator on the CPU, wherever the image is."""
    from torchvision.transforms import v2

    return {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[name]()


_OPERATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flip": _flip,
    "vflip": partial(_flip, axis=1),
    "rotate90": _rotate90,
    "crop": _crop,
    "randaugment": _policy("randaugment"),
    "trivialaugment": _policy("trivialaugment"),
}
