"""What share of a card's peaks trainings reach: `python -m bench.peaks`.

Compares published rates of training with what `ray_robust.prepare.devices` would give at all of the card's peaks: the
share that `--plan --on CARD` assumes where none was measured goes by these. Needs no GPU.

The rates are images per second of timm's own benchmark in mixed precision and channels-last on an RTX 3090 with PyTorch
1.12 (github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv), at 224 px.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from bench import command_of, show, write_table
from ray_robust.prepare.devices import DEVICES, image_seconds
from ray_robust.spec.sections import ModelSection

PUBLISHED = {  # model: images per second, batch
    "resnet18": (3481.78, 512), "resnet34": (2036.51, 512), "resnet50": (1218.01, 512), "resnet101": (747.89, 256),
    "densenet121": (913.65, 256), "mobilenetv2_100": (2313.10, 512), "efficientnet_lite0": (2079.28, 512),
    "efficientnet_b0": (1751.72, 512), "regnetx_006": (1286.44, 512), "vit_tiny_patch16_224": (2299.56, 512),
    "vit_small_patch16_224": (1057.92, 384), "convnext_tiny": (819.24, 256),
}  # fmt: skip
CARD, PX = "rtx3090", 224


def main(argv: list[str]) -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.peaks", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    rows, shares = [], {}
    for name in args.models:
        published, batch = PUBLISHED[name]
        section = ModelSection(name=name, image_size=PX, precision="bf16", compile=False)
        at_peaks = 1 / image_seconds(DEVICES[CARD], section, batch, True)
        shares[name] = round(published / at_peaks, 3)
        rows.append((name, f"{published:,.0f}", f"{at_peaks:,.0f}", f"{shares[name]:.2f}"))
    header = ("model, 224 px", "published images/s", "at all of its peaks", "share")
    if args.write:
        write_table(args.write, "peaks", [header, *rows], command_of("bench.peaks", argv))
    show(header, rows, {"share": shares, "median": round(median(shares.values()), 3), "least": min(shares.values())})


if __name__ == "__main__":
    main(sys.argv[1:])
