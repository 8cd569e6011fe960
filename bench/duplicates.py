"""What the search for duplicates finds, misses and costs: `python -m bench.duplicates [POOL.csv ...] [--size PX]`

Changes some photographs of each pool in known ways and looks whether their originals are still near-identical to them;
counts the pairs of different photographs that are; searches 50,000 images among 1.28 million, with hashes made from
those of the photographs. The last line has the shares by change, near pairs, seconds and microseconds per image.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from bench import command_of, show, write_table
from ray_robust.data.duplicates import phash
from ray_robust.data.sources.folder import FolderSource
from ray_robust.errors import UserError

LANCZOS = Image.Resampling.LANCZOS
FLIPPED = 0.15  # of a hash's bits, in the images that are made up


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def _resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * share),) * 2, LANCZOS).resize(image.size, LANCZOS)


def _cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        edge = round(image.width * share)
        return image.crop((edge, edge, image.width - edge, image.height - edge)).resize(image.size, LANCZOS)

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": _jpeg(75),
    "JPEG, quality 30": _jpeg(30),
    "JPEG, quality 10": _jpeg(10),
    "to 3/4 of its size and back": _resized(0.75),
    "to half and back": _resized(0.5),
    "30 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "30 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "30 % less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "3 % cut off every side": _cropped(0.03),
    "6 % cut off every side": _cropped(0.06),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main(argv: list[str]) -> None:
    """Measure, print the tables and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.duplicates", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("pools", nargs="+", metavar="POOL.csv", help="photographs, as the source `folder` reads them")
    add("--size", type=int, default=64)
    add("--changed", type=int, default=1_500, help="photographs of each pool that are changed in every way")
    add("--many", type=int, default=1_280_000)
    add("--queries", type=int, default=50_000)
    add("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    rows, all_hashes, found = [], [], {}
    shares, pairs, seconds = {}, {}, []
    for pool in args.pools:
        images, name = photographs(pool, args.size), Path(pool).stem if Path(pool).is_dir() else Path(pool).parent.name
        begun = time.perf_counter()
        hashes = np.concatenate([phash.hashes(images[i : i + 512])[0] for i in range(0, len(images), 512)])
        seconds.append((time.perf_counter() - begun) / len(images))
        shares[name], pairs[name] = recall(images, hashes, args.changed), near_pairs(images, hashes)
        all_hashes.append(hashes)
    for change in CHANGES:
        rows.append((change, *(f"{shares[name][change]:.1%}" for name in shares)))
    for what in ("pairs of different photographs", "near-identical ones", "images in them"):
        rows.append((what, *(f"{pairs[name][what]:,}" for name in pairs)))
    search = searched(np.concatenate(all_hashes), args.many, args.queries)
    found = {"recall": shares, "pairs": pairs, "us_per_image": round(1e6 * max(seconds), 1), **search}
    header = ("change, at " + f"{args.size} px", *shares)
    show(header, rows, found)
    if args.write:
        write_table(args.write, "duplicates", [header, *rows], command_of("bench.duplicates", argv))


def photographs(path: str, size: int) -> np.ndarray:
    """All of a pool's images, uint8 [n, size, size, 3]."""
    pool = FolderSource("photographs", FolderSource.Options(path=path))
    pixels = pool.read(np.arange(len(pool.catalog)), size)
    if pixels.broken:
        raise UserError(f"{path}: {len(pixels.broken)} images are broken")
    return pixels.images


def recall(images: np.ndarray, hashes: np.ndarray, count: int) -> dict[str, float]:
    """By change the share of images that are near-identical with what it makes of them."""
    rows = np.random.default_rng(0).choice(len(images), min(count, len(images)), replace=False)
    thumbs, shares = phash.thumbnails(images[rows]), {}
    for change, make in CHANGES.items():
        changed = np.stack([np.asarray(make(Image.fromarray(images[row]))) for row in rows])
        likeness = np.einsum("ij,ij->i", thumbs, phash.thumbnails(changed))
        bits = np.bitwise_count(hashes[rows] ^ phash.hashes(changed)[0])
        shares[change] = round(float(((bits <= phash.RADIUS) & (likeness >= phash.LIKENESS)).mean()), 4)
    return shares


def near_pairs(images: np.ndarray, hashes: np.ndarray) -> dict[str, int]:
    """How many pairs of a pool are near-identical; some of them are copies, others are not."""
    one, other, _ = phash.Index(hashes).near(hashes, most=len(hashes))
    one, other = one[one < other], other[one < other]
    likeness = np.einsum("ij,ij->i", phash.thumbnails(images[one]), phash.thumbnails(images[other]))
    near = likeness >= phash.LIKENESS
    return {
        "pairs of different photographs": len(images) * (len(images) - 1) // 2,
        "near-identical ones": int(near.sum()),
        "images in them": len(np.union1d(one[near], other[near])),
    }


def searched(hashes: np.ndarray, many: int, queries: int) -> dict[str, float | int]:
    """Seconds and peak memory of a search of so many images among so many others."""
    random = np.random.default_rng(0)

    def drawn(count: int) -> np.ndarray:
        flips = random.random((count, 64)) < FLIPPED
        return hashes[random.integers(0, len(hashes), count)] ^ np.packbits(flips, axis=1).view(">u8")[:, 0].astype(
            np.uint64
        )

    others, asked = drawn(many), drawn(queries)
    begun = time.perf_counter()
    index = phash.Index(others)
    between = time.perf_counter()
    pairs = len(index.near(asked)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "many": many, "queries": queries, "seconds_index": round(between - begun, 2),
        "seconds_search": round(time.perf_counter() - between, 2), "candidates": pairs, "peak_gb": round(peak, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
