"""Do the defaults of pre-training learn? `python -m bench.recipes --data DIR [--models NAME...] [--images N...]`.

Pre-trains on photographs (DIR holds a folder per class) without Ray and without a fine-tuning: with the defaults of the
spec, with every learning rate and length of a grid, and with other augmentations at the best of these. Upstream
accuracy is the product's own, on the share of every class that `pretrain.holdout` keeps: the same images whatever the
number trained on. The best recipe stands for a tuned one: it was chosen on the images that it is reported on, so that
the share of it which the defaults reach is, if anything, too low. `--kept FILE` keeps every result as a line of JSON;
the same command again continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import command_of, show, write_table
from ray_robust.spec.sections import EPOCHS, MIN_IMAGES_SEEN

HALF = 0.5  # of the tuned accuracy: what a default must reach
Case = dict[str, Any]  # model, images, classes, px; `recipe`: keys of `pretrain` that are given, none for the defaults


@dataclass
class Results:
    """What was measured, a row per training, kept in a file where there is one."""

    data: str
    folder: Path  # of the decoded images
    kept: Path | None = None
    rows: list[Case] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kept and self.kept.exists():
            self.rows = [json.loads(line) for line in self.kept.read_text("utf-8").splitlines()]

    def of(self, case: Case) -> Case:
        """Return the row of a case, measured now unless it is kept."""
        for row in self.rows:
            if case.items() <= row.items():
                return row
        self.rows.append(case | pretrained(case, self.data, self.folder))
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        if self.kept:
            with self.kept.open("a", encoding="utf-8") as file:
                print(json.dumps(self.rows[-1]), file=file)
        return self.rows[-1]


def main(argv: list[str]) -> int:
    """Train, print the table and the JSON line; return 1 where a default reaches less than half of the tuned one."""
    parser = argparse.ArgumentParser("python -m bench.recipes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs, a folder per class")
    parser.add_argument("--models", nargs="+", default=["test_resnet", "test_byobnet"])
    parser.add_argument("--images", nargs="+", type=int, default=[1000, 4000, 16000])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--px", type=int, default=32)
    parser.add_argument("--lr", nargs="+", default=["3e-3", "1e-2"])
    parser.add_argument("--seen", nargs="+", type=int, default=[72000, 144000], help="lengths in images")
    parser.add_argument("--augment", nargs="*", default=["strong"], help="tried at the best of these, beside crop")
    parser.add_argument("--kept", type=Path, help="a file of results, which are not measured again")
    parser.add_argument("--write", type=Path, help="put the table `recipes` into this document")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        results = Results(args.data, Path(folder), args.kept)
        cases = [{"model": model, "images": images, "classes": args.classes, "px": args.px}
                 for model in args.models for images in args.images]  # fmt: skip
        compared = [compare(results, case, args.lr, args.seen, args.augment) for case in cases]
    header = ("model", "images", "default", "images seen", "tuned", "tuned recipe", "share of tuned")
    rows = [
        (one["model"], f"{one['images']:,}", f"{one['default']:.1%}", f"{one['seen']:,}", f"{one['tuned']:.1%}",
         ", ".join(f"{key} {value}" for key, value in one["recipe"].items()), f"{one['share']:.0%}")
        for one in compared
    ]  # fmt: skip
    if args.write:
        write_table(args.write, "recipes", [header, *rows], command_of("bench.recipes", argv))
    least = min(one["share"] for one in compared)
    show(header, rows, {"least_share": round(least, 3), "compared": compared})
    return int(least < HALF)


def compare(results: Results, case: Case, rates: list[str], lengths: list[int], augmentations: list[str]) -> Case:
    """Return the accuracy of the defaults beside that of the best recipe, for one model and number of images."""
    length = f"{EPOCHS} epochs, at least {MIN_IMAGES_SEEN} images"  # kept results of another default are not this one's
    default = results.of({**case, "recipe": {}, "default": length})
    tried = [results.of({**case, "recipe": {"lr": lr, "images_seen": seen, "augment": "crop"}})
             for lr, seen in itertools.product(rates, lengths)]  # fmt: skip
    best = max(tried, key=lambda row: row["upstream"])["recipe"]
    tried += [results.of({**case, "recipe": {**best, "augment": augment}}) for augment in augmentations]
    tuned = max(tried, key=lambda row: row["upstream"])
    return {**case, "default": default["upstream"], "seen": default["seen"], "tuned": tuned["upstream"],
            "recipe": tuned["recipe"], "share": default["upstream"] / tuned["upstream"]}  # fmt: skip


def pretrained(case: Case, data: str, folder: Path) -> Case:
    """Pre-train as a trial of a sweep does; return upstream accuracy, images processed and seconds."""
    from ray_robust.data.images.store import ImageStore
    from ray_robust.data.mixtures.mixture import draw
    from ray_robust.data.opened import open_pool, usable
    from ray_robust.spec.load import load_spec
    from ray_robust.train.context import Context
    from ray_robust.train.pretrain import PretrainJob, pretrain
    from ray_robust.trial.datasets import Mixture, Shown

    spec_file = folder / "recipe.yaml"
    tree = {
        "task": {"name": "camera-traps"},
        "model": {"name": case["model"], "image_size": case["px"], "store": case.get("store", "raw")},
        "pretrain": {"sources": {"photos": {"kind": "folder", "path": data}}, "num_images": case["images"],
                     "num_classes": case["classes"], **case["recipe"]},
    }  # fmt: skip
    spec_file.write_text(json.dumps(tree), "utf-8")
    spec = load_spec(spec_file)
    model, settings = spec.models[0].section, spec.pretrains[0].section
    pool = open_pool("source", "photos", settings.sources["photos"])
    shown = Shown.to(model)
    store = ImageStore.open(folder / "store", pool, shown.form)
    store.fill(store.missing())
    subset = draw(settings, {"photos": store.pool.catalog}, {"photos": usable(store)}, 1)
    images = Mixture(subset, {"photos": store}, shown.view).images(Context().device, captioned=False)
    _, done = pretrain(PretrainJob(model, settings, case.get("seed", 1), "recipes", Context(), None, images))
    assert done.upstream_accuracy is not None
    return {"upstream": done.upstream_accuracy, "seen": done.images_seen, "seconds": round(done.seconds, 1)}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
