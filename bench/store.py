"""Decoded squares against JPEGs kept whole: `python -m bench.store [--images N] [--models NAME@PX:BATCH] [--data DIR]`.

A set in ImageNet's layout is generated (wnid folders; photo-like JPEGs of 500 px, quality 90, parts of 64 scenes) and
put into both stores: images per second of a core (CPU time of all threads), bytes, and the memory at its peak, each in
a process of its own. Then each model trains from both, with the augmentation `strong`, in turn with the bare step, a
plain loop over the same images already in memory: ratios of images per second, the median over rounds of the rounds'
ratios. With `--data` (photographs, a folder per class) a small model pre-trains on decoded squares, on the compact
store and on the files themselves, with several seeds: upstream accuracy, and whether it differs by more than seeds do.
Their sides should exceed the model's, or the compact store holds the files as they are.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image

from bench import command_of, print_table, show, write_table

FORMS = {"decoded": "raw", "compact": "compact", "files": {"size": 512}}  # files: kept whole up to that
WNIDS = 1000
SCENES = 64


def main(argv: list[str]) -> None:
    """Measure; print the tables and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.store", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--px", type=int, default=224, help="of the models that the generated set is stored for")
    parser.add_argument("--models", nargs="*", metavar="NAME@PX:BATCH", default=["resnet18@224:16"])
    parser.add_argument("--seconds", type=float, default=3.0, help="one measurement of a step, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="photographs, a folder per class")
    parser.add_argument("--accuracy-px", type=int, nargs="+", default=[64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="test_resnet", help="what pre-trains on them")
    parser.add_argument("--seen", type=int, default=64_000, help="images that it is shown")
    parser.add_argument("--kept", type=Path, help="a file of pre-trainings, which are not run again")
    parser.add_argument("--folder", help="where images and stores are written (default: the temporary folder)")
    parser.add_argument("--write", type=Path, help="put the tables into this document")
    parser.add_argument("--fill", nargs=3, metavar=("TREE", "ROOT", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.fill:
        fill(args.fill, args.px)
        return
    found: dict[str, Any] = {"images": args.images}
    tables: dict[str, list[tuple[str, ...]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder) as folder:
        if args.images:
            tree = generated(Path(folder, "images"), args.images)
            tables["stores"] = ingested(tree, Path(folder), args, found)
            if args.models:
                tables["steps from stores"] = steps(tree, Path(folder), args, found)
        if args.data:
            tables["accuracy from stores"] = accuracies(Path(folder), args, found)
    for name, (header, *rows) in tables.items():
        print_table(header, rows)
        if args.write:
            write_table(args.write, name, [header, *rows], command_of("bench.store", argv))
    show((), (), found)


def generated(root: Path, count: int) -> Path:
    """Make a set in ImageNet's layout: `train/<wnid>/<wnid>_<number>.JPEG`; the files are named by what makes them.
    Each image is a part of one of `SCENES`, mirrored or not, of a brightness and contrast of its own: to make noise
    like that of photographs for each of 200,000 would take a day."""
    from tests.make_images import encoded, photo

    scenes = [np.asarray(photo(1200, 1000, seed=i)) for i in range(min(SCENES, count))]
    for i in range(count):
        wnid = f"n{1_440_764 + 37 * (i % WNIDS):08d}"
        path = root / wnid / f"{wnid}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        wide, high = (667, 500) if i % 3 else (500, 667)
        random = np.random.default_rng(i)
        x, y = random.integers(1200 - wide), random.integers(1000 - high)
        part = scenes[i % len(scenes)][y : y + high, x : x + wide]
        levels = np.clip(random.uniform(0.8, 1.2) * (np.arange(256) - 128) + random.uniform(108, 148), 0, 255)
        part = levels.astype(np.uint8)[part[:, :: random.choice([-1, 1])]]
        path.write_bytes(encoded(Image.fromarray(part), quality=90))
    return root


def pool_of(tree: Path) -> Any:
    """A folder as a source."""
    from ray_robust.data.sources.folder import FolderSource

    return FolderSource("pictures", FolderSource.Options(path=str(tree)))


def form_named(name: str, px: int) -> Any:
    """One of FORMS, for models of `px`."""
    from ray_robust.data.images.form import form_of
    from ray_robust.spec.sections import ModelSection

    return form_of(ModelSection(image_size=px, store=FORMS[name]))


def fill(names: list[str], px: int) -> None:
    """Put a set into a store; print the CPU time, the memory at its peak and the bytes on disk."""
    from ray_robust.data.images.store import ImageStore

    tree, root, name = names
    store = ImageStore.open(Path(root), pool_of(Path(tree)), form_named(name, px))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    store.fill(store.missing())
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(file.stat().st_size for file in store.folder.iterdir())
    print(seconds, peak * 1024, (peak - before) * 1024, size)


def ingested(tree: Path, folder: Path, args: argparse.Namespace, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each store."""
    rows = [("store", "images/s of a core", "bytes of an image", "memory at the peak, MB")]
    of_files = sum(file.stat().st_size for file in tree.rglob("*.JPEG"))
    rows.append(("the files", "", f"{of_files / args.images:,.0f}", ""))
    for name in ("decoded", "compact"):
        command = [sys.executable, "-m", "bench.store", "--px", str(args.px), "--fill", str(tree),
                   str(folder / "stores"), name]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ROBUST_STORE": str(folder / "stores")}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        seconds, peak, _, size = map(float, out.split())
        found[name] = {"images_per_core_second": round(args.images / seconds, 1), "bytes": round(size / args.images),
                       "peak_mb": round(peak / 1e6)}  # fmt: skip
        rows.append((f"{name}, {args.px} px", f"{args.images / seconds:,.0f}", f"{size / args.images:,.0f}",
                     f"{peak / 1e6:,.0f}"))  # fmt: skip
    return rows


def steps(tree: Path, folder: Path, args: argparse.Namespace, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model and store."""
    import torch

    from bench.step import CPU, Shape, measured, over, plain_loop, through_fit
    from ray_robust.data.images.store import ImageStore
    from ray_robust.data.opened import images_of
    from ray_robust.spec.training import Training
    from ray_robust.train.context import Context
    from ray_robust.train.images import ImageBank
    from ray_robust.train.models import eval_view

    torch.set_num_threads(1)
    rows, context, found["over_bare_step"] = [("model @ px : batch", "from", "images/s", "over the bare step")], (
        Context(CPU)), {}  # fmt: skip
    for shape in map(Shape.read, args.models):
        settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch, augment="strong")
        ways, pool = {}, pool_of(tree)
        for name in ("decoded", "compact"):
            store = ImageStore.open(folder / "stores", pool, form_named(name, shape.px))
            store.fill(store.missing())
            bank = ImageBank([images_of(store, np.arange(store.n), eval_view(shape.section))], CPU)
            ways[name] = through_fit(shape, shape.section, settings, bank, context)
        few = torch.from_numpy(store.take(np.arange(min(store.n, 1024))))
        ways["bare step"] = plain_loop(shape, settings, few, context)
        rates = measured(ways, shape.batch, args.seconds, args.rounds)
        for name in ("decoded", "compact"):
            ratio = over(rates[name], rates["bare step"])
            found["over_bare_step"][f"{shape} {name}"] = ratio
            rows.append((str(shape), name, f"{sorted(rates[name])[len(rates[name]) // 2]:,.1f}", f"{ratio:.3f}"))
    return rows


def accuracies(folder: Path, args: argparse.Namespace, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each size and store."""
    import torch

    from bench.recipes import Results

    torch.set_num_threads(1)
    results = Results(args.data, folder, args.kept)
    rows = [("px", "from", "upstream accuracy", "sd of seeds", "minus the files", "± of the difference (95 %)")]
    found["accuracy"] = {}
    for px in args.accuracy_px:
        scores: dict[str, list[float]] = {}
        for seed in range(1, args.seeds + 1):
            for name, form in FORMS.items():
                case = {"model": args.model, "images": "all", "classes": "all", "px": px, "store": form, "seed": seed,
                        "recipe": {"images_seen": args.seen, "augment": "strong"}}  # fmt: skip
                scores.setdefault(name, []).append(results.of(case)["upstream"])
        for name, of in scores.items():
            apart = [a - b for a, b in zip(of, scores["files"], strict=True)]
            wide = interval(apart)
            numbers = {"mean": mean(of), "sd": stdev(of), "minus_files": mean(apart), "half_width": wide}
            found["accuracy"][f"{px} {name}"] = {key: round(value, 4) for key, value in numbers.items()}
            rows.append((str(px), name, f"{mean(of):.1%}", f"{stdev(of):.1%}",
                         *(("", "") if name == "files" else (f"{mean(apart):+.1%}", f"{wide:.1%}"))))  # fmt: skip
    return rows


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5)


if __name__ == "__main__":
    main(sys.argv[1:])
