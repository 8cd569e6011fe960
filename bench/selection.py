"""What selecting images does where the answer is planted: `python -m bench.selection [--seeds N] [--out DIR]`

Renders animals of the built-in world into a folder, blurs seven images in ten, and writes a CSV with two columns: the
sharpness of each image as it is measured (variance of the Laplacian), and random numbers. A sweep then pre-trains on
the top 30 % of each class by either column, on as many at random, and on the sharp ones with half of the labels wrong,
each with all else equal. Prints how many images each group has, and how many a few lines of pandas take; the share that
is blurred, mean ER, and the difference of each choice from the random control as the report's regressions give it: of
ER, and of the raw scores. The last line has the same.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

import ray_robust
from bench import command_of, print_table, show, write_table
from ray_robust.data.sources.species import Species

PX, SPECIES, EACH, BLURRED, TOP = 32, 50, 160, 0.7, 0.3
RADIUS = 3.0  # px of the Gaussian blur
COLUMNS = {"sharp": "sharpness", "noise": "noise"}
SCORES = {"er": "ER", "id": "ID score", "ood": "OOD score"}
WRONG = 0.5  # share of wrong labels


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m bench.selection", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/selection"), help="for the images and the run")
    parser.add_argument("--write", type=Path, help="a document, for the table")
    args = parser.parse_args(argv)
    table = make_folder(args.out / "images")
    run = args.out / "run"
    ray_robust.sweep(spec_of(table, args.seeds), out=str(run))
    report(pd.read_csv(table), run, args.write, command_of("bench.selection", argv))


def make_folder(root: Path) -> Path:
    """Write the images and index.csv; return its path. What is there already is used."""
    table = root / "index.csv"
    if table.exists():
        return table
    source = Species("species", Species.Options(species=SPECIES, images_per_class=EACH))
    keys, images = source.keys(np.arange(len(source.catalog))), source.read(np.arange(len(source.catalog)), PX).images
    random, rows = np.random.default_rng(0), []
    for key, pixels in zip(keys, images, strict=True):
        image, blurred = Image.fromarray(pixels), bool(random.random() < BLURRED)
        if blurred:
            image = image.filter(ImageFilter.GaussianBlur(RADIUS))
        path = root / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        rows.append({"path": f"{key}.png", "label": key.partition("/")[0], "blurred": int(blurred),
                     "sharpness": sharpness(np.asarray(image, float).mean(2)), "noise": random.random()})  # fmt: skip
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian, less where an image is blurred (Pech-Pacheco et al., ICPR 2000)."""
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


def spec_of(table: Path, seeds: int) -> dict[str, Any]:
    """The sweep of `sweeps/quickstart.yaml` with four ways to choose the images."""
    how = {"top": TOP, "per_class": True}
    by = {name: {"column": column, **how} for name, column in COLUMNS.items()}
    points: list[dict[str, Any]] = [{"select": {**by["sharp"], "random": True}}]  # first: what levels are compared with
    points += [{"select": by["sharp"]}, {"select": by["noise"]}, {"select": by["sharp"], "label_noise": WRONG}]
    tests = {"train_images": 2000, "id_val_images": 400, "id_test_images": 800, "ood_val_images": 400,
             "ood_test_images": 800}  # fmt: skip
    return {
        "question": "Do sharp images make better models than as many at random?",
        "task": {"name": "camera-traps", **tests},
        "model": {"name": "test_byobnet", "image_size": PX},
        "pretrain": {"sources": {"photos": {"kind": "folder", "path": str(table), "parents": []}}, "holdout": 0,
                     "images_seen": 72_000, "points": points},
        "finetune": {"epochs": 6, "batch_size": 64, "lr": {"grid": [1e-3, 3e-3]}, "evaluate_every": 2},
        "seeds": seeds,
        "baseline": {"name": "scratch", "spread": "auto"},
    }  # fmt: skip


def report(frame: pd.DataFrame, run: Path, write: Path | None, command: str) -> None:
    """Print the tables of a run, and write the last into a document; `frame` is the CSV of its images."""
    results, scores = pd.read_parquet(run / "results.parquet"), pd.read_csv(run / "report/robustness.csv")
    blurred, rows, groups = frame.set_index("path")["blurred"], [], {}
    for group, own in results[results["group"] != "scratch"].groupby("group"):
        drawn = [pd.read_parquet(run / "trials" / name / "subset.parquet") for name in own["trial"].unique()]
        column = COLUMNS["noise"] if str(group).startswith(f"select={COLUMNS['noise']}") else COLUMNS["sharp"]
        parts = [part for _, part in frame.groupby("label")]
        wanted = sum(len(part.nlargest(math.ceil(TOP * len(part)), column)) for part in parts)
        counts = sorted({len(subset) for subset in drawn})
        share = float(np.mean([blurred[subset["image"]].mean() for subset in drawn]))
        er = float(scores.loc[scores["group"] == group, "er"].mean())
        groups[str(group)] = {"images": counts, "pandas": wanted, "blurred": share, "er": er, "trials": len(drawn)}
        shown = " ".join(f"{count:,}" for count in counts)
        rows.append([str(group), str(len(drawn)), shown, f"{wanted:,}", f"{share:.0%}", f"{er:+.1f}"])
    print_table(["group", "trials", "images", "pandas", "blurred", "ER"], rows)
    tables = {"er": pd.read_csv(run / "report/factors.csv").assign(score="er")}
    tables |= dict(iter(pd.read_csv(run / "report/score_factors.csv").groupby("score")))
    effects: dict[str, dict[str, Any]] = {}
    for score, table in tables.items():
        for row in table[table["factor"].str.startswith(("select=", "label_noise="))].itertuples():
            effect = {"value": row.slope, "low": row.low, "high": row.high, "p_adjusted": row.p_adjusted}
            level = f"{str(row.factor).partition('=')[2]} less {row.against}".replace(f" top {TOP} per class", "")
            name = f"{'wrong labels ' if str(row.factor).startswith('label') else ''}{level}"
            effects.setdefault(name, {})[str(score)] = effect
    lines = [[name, *(_text(by_score.get(score)) for score in SCORES)] for name, by_score in effects.items()]
    columns = ["pre-training images", *SCORES.values()]
    if write is not None:
        write_table(write, "selection", [columns, *lines], command)
    show(columns, lines, {"groups": groups, "effects": effects})


def _text(effect: dict[str, float] | None) -> str:
    return "" if effect is None else f"{effect['value']:+.1f} ({effect['low']:.1f} to {effect['high']:.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
