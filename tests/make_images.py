"""Makes images, good and broken, folders of them, and small trees in the official layouts of WILDS, for tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def picture(wide: int = 40, high: int = 40, seed: int = 0) -> Image.Image:
    """A smooth RGB image: a slope of red from left to right, of green from top to bottom, blue by the seed."""
    across, down = np.meshgrid(np.linspace(0, 255, wide), np.linspace(0, 255, high))
    blue = np.full_like(across, seed * 37 % 256)
    return Image.fromarray(np.stack([across, down, blue], -1).astype(np.uint8))


def photo(wide: int = 667, high: int = 500, seed: int = 0) -> Image.Image:
    """Noise with the spectrum of photographs, amplitude about 1/frequency, mostly in brightness: what a JPEG of a real
    scene costs to decode."""
    random = np.random.default_rng(seed)
    image = np.zeros((high, wide, 3), np.float32)
    for octave in range(2, 9):
        grid = random.normal(size=(max(2, high * 2**octave // 512), max(2, wide * 2**octave // 512), 4))
        planes = [
            np.asarray(Image.fromarray(plane.astype(np.float32)).resize((wide, high), Image.Resampling.BICUBIC))
            for plane in np.moveaxis(grid, -1, 0)
        ]
        image += 0.62 ** (octave - 2) * (48 * planes[0][..., None] + 20 * np.stack(planes[1:], -1))
    return Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}) | how)
    return file.getvalue()


def write(path: Path, data: bytes | None = None, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed=seed)) if data is None else data)
    return path


def tree(root: Path, counts: dict[str, int]) -> Path:
    """`counts` images in each of these folders below `root`."""
    for f, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write(root / folder / f"{i:03d}.jpg", seed=f * 10 + i)
    return root


def table(path: Path, rows: list[dict[str, str]], images: bool = True) -> Path:
    """A CSV of these rows, and the images they name beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    for i, row in enumerate(rows if images else []):
        write(path.parent / row["path"], seed=i)
    return path


def iwildcam(root: Path, per_split: int = 6) -> Path:
    """iwildcam_v2.0 in small: three species, two cameras per domain."""
    folder = root / "iwildcam_v2.0"
    rows = []
    for s, split in enumerate(("train", "id_val", "id_test", "val", "test")):
        for i in range(per_split):
            camera = i % 2 + (0 if s < 3 else 2 * (s - 2))
            rows.append({"split": split, "filename": f"{split}-{i}.jpg", "y": i % 3, "location_remapped": camera})
            write(folder / "train" / rows[-1]["filename"], seed=i)
    frame = pd.DataFrame(rows)
    frame["sequence_remapped"] = range(len(frame))
    frame["datetime"] = "2013-06-05 05:44:19.000"
    frame.to_csv(folder / "metadata.csv")
    names = {"y": [0, 1, 2, 99999], "category_id": [0, 2, 3, 4], "name": ["empty", "tayassu pecari", "puma", "unused"]}
    pd.DataFrame(names).to_csv(folder / "categories.csv", index=False)
    (folder / "RELEASE_v2.0.txt").write_text("")
    return root


def fmow(root: Path) -> Path:
    """fmow_v1.1 in small: two land uses, three countries, with sequestered and unused images among them."""
    folder = root / "fmow_v1.1"
    years = {"2010": ("train", "val", "test", "seq"), "2014": ("train", "val", "seq"), "2016": ("test", "val")}
    rows = [
        {"split": split, "category": category, "country_code": country, "timestamp": f"{year}-03-04T10:00:00Z"}
        for year, splits in years.items()
        for split in splits
        for category in ("zoo", "airport")
        for country in ("FRA", "CHN", "XXX")
    ]
    for i in range(len(rows)):
        write(folder / "images" / f"rgb_img_{i}.png", encoded(picture(seed=i), "PNG"))
    pd.DataFrame(rows).to_csv(folder / "rgb_metadata.csv")
    codes = pd.DataFrame({"alpha-3": ["FRA", "CHN"], "region": ["Europe", "Asia"]})
    codes.to_csv(folder / "country_code_mapping.csv", index=False)
    (folder / "RELEASE_v1.1.txt").write_text("")
    return root


def camelyon17(root: Path, per_slide: int = 8) -> Path:
    """camelyon17_v1.0 in small: five hospitals with two slides each."""
    folder = root / "camelyon17_v1.0"
    rows = [
        {"patient": f"{center * 20 + node:03d}", "node": node, "x_coord": 96 * i, "y_coord": 96, "tumor": i % 2}
        | {"slide": center * 2 + node, "center": center, "split": int(i >= per_slide // 2)}
        for center in range(5)
        for node in range(2)
        for i in range(per_slide)
    ]
    for i, row in enumerate(rows):
        slide = f"patient_{row['patient']}_node_{row['node']}"
        name = f"patch_{slide}_x_{row['x_coord']}_y_{row['y_coord']}.png"
        write(folder / "patches" / slide / name, encoded(picture(seed=i), "PNG"))
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
    (folder / "RELEASE_v1.0.txt").write_text("")
    return root
