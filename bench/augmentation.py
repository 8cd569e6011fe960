"""What each augmentation costs: `python -m bench.augmentation [--px 32 64] [--batch N] [--rounds N] [--write FILE]`.

Batches of noise through every name of `augment` in turn, on one thread or the first GPU; the rate of each is the median
of the rounds, its ratio to `strong` the median of the rounds' ratios. A training step comes on top.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

from bench import command_of, show, write_table


def main(argv: list[str]) -> None:
    """Measure every name at every size and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.augmentation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--px", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, help="put the table `augmentations` into this document")
    args = parser.parse_args(argv)
    import torch

    from ray_robust.spec.augmentation import AUGMENTATIONS

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = [name for name in AUGMENTATIONS if name != "none"]
    seconds = {(px, name): [] for px in args.px for name in names}
    for px in args.px:
        images = torch.randint(0, 256, (args.batch, px, px, 3), dtype=torch.uint8, device=device)
        for turn in range(args.rounds + 1):
            for name in names:
                taken = _seconds(images, name)
                if turn:  # the first round warms imports and caches
                    seconds[px, name].append(taken)
    rate = {key: args.batch / median(times) for key, times in seconds.items()}
    ratio = {(px, name): median(strong / own for strong, own in zip(seconds[px, "strong"], times, strict=True))
             for (px, name), times in seconds.items()}  # fmt: skip
    header = ("augment", *(text for px in args.px for text in (f"images/s at {px} px", "over strong")))
    rows = [
        (f"`{name}`", *(text for px in args.px for text in (f"{rate[px, name]:,.0f}", f"{ratio[px, name]:.2f}")))
        for name in names
    ]
    if args.write:
        write_table(args.write, "augmentations", [header, *rows], command_of("bench.augmentation", argv))
    over = {name: {str(px): round(ratio[px, name], 3) for px in args.px} for name in names}
    show(header, rows, {"device": str(device), "over_strong": over})


def _seconds(images, name: str) -> float:
    import torch

    from ray_robust.train.augmentation import augment

    begun = time.perf_counter()
    augment(images, name)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
