"""How large the report's page is and how soon it stands: `python -m bench.page [--points 2000] [--out DIR]`.

Writes the report of a simulated study with that many points (four metrics, three scales, 100 trials) and opens it in a
Chromium without a window, where there is one. Time runs from the start of the navigation until the last chart is drawn,
as the page itself measures it; the best of five, since other programs only ever add to it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.input.run_points import RUN_KEYS
from analysis.input.table import Table
from analysis.options import Options
from analysis.report import output
from analysis.study import analyse_all
from analysis.verdict import verdict
from bench import browser, show

GROUPS = ("scratch", "num_images=1000", "num_images=4000", "num_images=16000", "num_images=64000")
TRIALS, RATES, TIMES = 20, 4, 5


def main(argv: list[str]) -> None:
    """Write the page, open it, print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.page", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2_000)
    parser.add_argument("--out", metavar="DIR", help="keep the report here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(args.out or folder)
        table = simulated(args.points)
        begun = time.monotonic()
        analyses = analyse_all(table, Options(baseline="scratch"))
        output.write(str(target), table, analyses, verdict(analyses))
        seconds = time.monotonic() - begun
        size = (target / "index.html").stat().st_size
        drawn = opened(target / "index.html")
    found = {"points": len(table.points), "megabytes": round(size / 1e6, 2), "seconds_to_write": round(seconds, 1),
             "seconds_to_open": min(drawn) if drawn else None}  # fmt: skip
    shown = "no Chromium here" if not drawn else " ".join(f"{s:.2f}" for s in drawn)
    show(("points", "page, MB", "analysed and written, s", "opened, s"),
         [(str(len(table.points)), f"{size / 1e6:.2f}", f"{seconds:.1f}", shown)], found)  # fmt: skip


def opened(page: Path) -> list[float]:
    """Seconds from the start of the navigation to the last chart, several times; empty without a browser."""
    program = browser.find()
    if program is None:
        return []
    found = []
    with browser.browser(program) as tab:
        for _ in range(TIMES):
            tab.look()
            tab.open(page)
            found.append(int(tab.ask("document.documentElement.dataset.drawn")) / 1000)
        if tab.errors:
            raise RuntimeError(tab.errors[0])
    return found


def simulated(count: int) -> Table:
    """A study of so many points in five groups: 20 trials each, four learning rates, as many epochs as it takes."""
    random = np.random.default_rng(0)
    epochs = -(-count // (len(GROUPS) * TRIALS * RATES))
    rows = []
    for g, group in enumerate(GROUPS):
        for trial in range(TRIALS):
            offset = 0.012 * random.standard_normal()
            for rate in range(RATES):
                for epoch in range(1, epochs + 1):
                    x = -0.9 + 0.3 * rate + 1.2 * epoch / epochs + 0.08 * random.standard_normal()
                    ood = ndtr(-0.86 + 0.76 * x) + 0.02 * g + offset + 0.008 * random.standard_normal()
                    rows.append(
                        {"trial": f"quantity-{g}-s{trial}-{trial:010x}", "group": group, "model": "resnet50",
                         "seed": trial, "subset_seed": trial, "num_images": 1000 * 4 ** (g - 1) if g else 0,
                         "num_classes": 200 if g else 0, "images_per_class": None, "granularity": "species",
                         "sources": '{"species": 1.0}' if g else "{}", "finetune": f"lr{rate}", "finetune_lr": rate,
                         "epoch": epoch, "step": 31 * epoch, "metric": "macro_f1", "task": "camera-traps",
                         "id": ndtr(x), "ood": np.clip(ood, 0.001, 0.999), "id_val": ndtr(x), "ood_val": ood}
                    )  # fmt: skip
    points = pd.DataFrame(rows[:count])
    for i, metric in enumerate(("accuracy", "class_accuracy", "worst_group")):
        points[f"id_{metric}"] = np.clip(points["id"] + 0.02 * (i - 1), 0.001, 0.999)
        points[f"ood_{metric}"] = np.clip(points["ood"] + 0.03 * (i - 1), 0.001, 0.999)
    nothing = pd.DataFrame(columns=["trial", "group", "task", "reason"])
    return Table("simulated", points, RUN_KEYS, nothing)


if __name__ == "__main__":
    main(sys.argv[1:])
