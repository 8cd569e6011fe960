"""Do intervals hold where seeds are added after a look? `python -m bench.seeds [--replicates N] [--only NAME]
[--write FILE]`.

Simulates sweeps in two stages (`seeds: {first, until, most}`): a baseline and three levels of a factor whose truth is
known, of which the first seeds of each decide how many more there are. Every sweep is planned and analysed as a real
one. Counted are the intervals that hold the truth, tests that find what is not there, and the trials that were run,
beside those of as many seeds for every group. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.options import FirstStage, Options
from analysis.predict.second_stage import Stage, plan_seeds, targets
from analysis.scales import SCALES
from analysis.stats.contrasts import claimed
from analysis.stats.factors import factor_table
from analysis.stats.group_jackknife import Counts
from analysis.stats.group_means import mean_er
from analysis.stats.resampling import jackknife_scores
from analysis.stats.task_points import TaskPoints
from bench import show, write_rows
from bench.simulated import BASELINE, INTERCEPT, LEVELS, SLOPE, Truth, simulate
from ray_robust.run.seed_plan import BONFERRONI, TREND, SeedRule

MARGIN, POINTS, POINT_SD = 2.0, 6, 0.008
GROUPS = tuple(f"num_images={level}" for level in LEVELS)


@dataclass(frozen=True)
class Setting:
    """A world and what is asked of it: the true ER of three groups, percentage points; the standard deviation of a
    trial's OOD score in the baseline and in each of them, and of what a seed does to all alike, fractions."""

    rule: SeedRule
    er: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sd: tuple[float, float, float, float] = (0.012, 0.012, 0.012, 0.012)
    together: float = 0.0
    cameras: int = 0


UNEVEN = (0.008, 0.004, 0.012, 0.024)
SETTINGS = {
    "4 points wide, null": Setting(SeedRule(4, 16, 4.0)),
    "4 points wide, planted": Setting(SeedRule(4, 16, 4.0), (0.0, 4.0, 8.0)),
    "4 points wide, groups scatter unevenly": Setting(SeedRule(4, 16, 4.0), (0.0, 4.0, 8.0), UNEVEN),
    "4 points wide, seeds alike in all groups": Setting(SeedRule(4, 16, 4.0), together=0.012),
    "4 points wide, 3 seeds first": Setting(SeedRule(3, 16, 4.0)),
    "8 points wide, 24 cameras": Setting(SeedRule(4, 16, 8.0), (0.0, 3.0, 6.0), cameras=24),
    "trend 2 points wide, null": Setting(SeedRule(4, 16, 2.0, TREND)),
    "trend 2 points wide, planted": Setting(SeedRule(4, 16, 2.0, TREND), (0.0, 4.0, 8.0)),
    "margin, null": Setting(SeedRule(4, 16, None), sd=(0.006, 0.006, 0.006, 0.006)),
    "margin, wide scatter, null": Setting(SeedRule(4, 16, None)),
    "margin, planted": Setting(SeedRule(4, 16, None), (0.0, 4.0, 8.0)),
    "margin, at the margin": Setting(SeedRule(4, 16, None), (MARGIN, -MARGIN, MARGIN), (0.006,) * 4),
    "margin, seeds alike in all groups": Setting(SeedRule(4, 16, None), together=0.012),
    "margin of a trend, null": Setting(SeedRule(4, 16, None, TREND)),
}  # fmt: skip


def drawn(setting: Setting, seed: int) -> tuple[pd.DataFrame, dict[str, Counts] | None]:
    """A sweep with as many seeds of every group as there may be, from 1 on."""
    if setting.cameras:
        world = simulate(Truth(er=setting.er, trials=setting.rule.most, cameras=setting.cameras), seed)
        return world.points.assign(seed=world.points["seed"] + 1), world.counts
    random, rows = np.random.default_rng(seed), []
    common = setting.together * random.standard_normal(setting.rule.most)
    levels = (0, *LEVELS)
    for group, level, er, sd in zip((BASELINE, *GROUPS), levels, (0.0, *setting.er), setting.sd, strict=True):
        for trial in range(setting.rule.most):
            x = -0.6 + 0.25 * np.arange(POINTS) + 0.08 * random.standard_normal(POINTS)
            offset = er / 100 + common[trial] + sd * random.standard_normal()
            ood = ndtr(INTERCEPT + SLOPE * x) + offset + POINT_SD * random.standard_normal(POINTS)
            rows.append(pd.DataFrame({"trial": f"{group}-{trial}", "group": group, "seed": trial + 1,
                                      "num_images": level, "task": "simulated", "id": ndtr(x),
                                      "ood": np.clip(ood, 0.001, 0.999)}))  # fmt: skip
    return pd.concat(rows, ignore_index=True), None


def taken(
    points: pd.DataFrame, counts: dict[str, Counts] | None, rows: np.ndarray
) -> tuple[pd.DataFrame, dict[str, Counts] | None]:
    """Some of the points, bool, with their counts."""
    some = None if counts is None else {side: _of_points(one, np.flatnonzero(rows)) for side, one in counts.items()}
    return points.loc[rows].reset_index(drop=True), some


def _of_points(counts: Counts, points: np.ndarray) -> Counts:
    cells = np.concatenate([np.arange(counts.starts[i], counts.starts[i + 1]) for i in points])
    starts = np.concatenate([[0], np.cumsum(np.diff(counts.starts)[points])])
    return replace(counts, starts=starts, cells=counts.cells[cells], hits=counts.hits[cells],
                   guessed=counts.guessed[cells])  # fmt: skip


def sweep(name: str, seed: int) -> dict[str, Any]:
    """One sweep in two stages: seeds of every group, intervals, tests, and claims."""
    setting = SETTINGS[name]
    rule = setting.rule
    points, counts = drawn(setting, 1_000 * (list(SETTINGS).index(name) + 1) + seed)
    bonferroni = BONFERRONI["late"] if rule.until is None else 1.0
    options = Options(BASELINE, margin=MARGIN, first_stage=FirstStage(BASELINE, rule.first, rule.first, bonferroni))
    names = (BASELINE, *GROUPS)
    stage = Stage(*(dict.fromkeys(names, value) for value in (rule.first, rule.most, 1.0)), MARGIN)
    first, first_counts = taken(points, counts, (points["seed"] <= rule.first).to_numpy())
    seeds, _ = plan_seeds(targets(first, options, rule, first_counts), rule, stage)
    both, both_counts = taken(points, counts, (points["seed"] <= points["group"].map(seeds)).to_numpy())
    made = TaskPoints.of(both, options, jackknife_scores(both, both_counts, options)[0])
    compared = made.compare(SCALES[options.scale], of_factors=rule.of == TREND)
    assert compared is not None
    true = dict(zip(names, (0.0, *setting.er), strict=True))
    intervals, tests, equivalent = [], [], []
    for group in GROUPS:
        mean = mean_er(compared.groups[group], compared.baseline, 0.0, 1.0)
        assert mean is not None
        one = mean.quantity.estimate
        intervals.append(("group", true[group], one.low, one.high))
    for row in compared.contrasts.to_dict("records"):
        apart, pair = true[row["a"]] - true[row["b"]], row["b"] != BASELINE
        if pair:
            intervals.append(("pair", apart, row["low"], row["high"]))
        if abs(apart) < 1e-9:
            tests.append(("pair" if pair else "group", row["p"], claimed(row) == "differs"))
        if abs(apart) > MARGIN - 1e-9:
            equivalent.append(bool(row["equivalent"]))
    table = factor_table(compared.regression, MARGIN).to_dict("records")
    steps = np.diff(setting.er)
    if table and np.ptp(steps) < 1e-9:
        intervals.append(("trend", float(steps[0]), table[0]["low"], table[0]["high"]))
        if steps[0] == 0:
            tests.append(("trend", table[0]["p"], claimed(table[0]) == "differs"))
    decided = [claimed(row) != "open" for row in compared.contrasts.to_dict("records") if row["b"] == BASELINE]
    wide = [high - low for kind, _, low, high in intervals if kind == ("trend" if rule.of == TREND else "group")]
    return {"seeds": list(seeds.values()), "intervals": intervals, "tests": tests, "equivalent": equivalent,
            "decided": decided, "wide": wide}  # fmt: skip


def rows_of(name: str, replicates: int, each: Callable[..., Any]) -> dict[str, Any]:
    """What became of every sweep of a setting."""
    made, rule = list(each(partial(sweep, name), range(replicates))), SETTINGS[name].rule
    intervals = pd.DataFrame([row for one in made for row in one["intervals"]], columns=["kind", "true", "low", "high"])
    held = (intervals["low"] <= intervals["true"]) & (intervals["true"] <= intervals["high"])
    coverage = held.groupby(intervals["kind"]).mean().to_dict()
    tests = pd.DataFrame([(i, *row) for i, one in enumerate(made) for row in one["tests"]],
                         columns=["sweep", "kind", "p", "claimed"])  # fmt: skip
    false = (tests["p"] <= 0.05).groupby(tests["kind"]).mean().to_dict()
    any_claim = tests.groupby(["kind", "sweep"])["claimed"].any().groupby("kind").mean().to_dict()
    seeds = np.array([one["seeds"] for one in made])
    equal = np.array([one["seeds"] for one in made]).max(1) * seeds.shape[1]
    equivalent = [claim for one in made for claim in one["equivalent"]]
    return {
        "sweep": name,
        "sweeps": replicates,
        **{f"{kind}: coverage": coverage.get(kind) for kind in ("group", "pair", "trend")},
        **{f"false: {kind}": false.get(kind) for kind in ("group", "pair", "trend")},
        "any false after Holm: group": any_claim.get("group"),
        "false no effect": float(np.mean(equivalent)) if equivalent else None,
        "as narrow as asked": None if rule.until is None else
        float(np.mean([wide <= rule.until + 1e-9 for one in made for wide in one["wide"]])),
        "groups decided": float(np.mean([decided for one in made for decided in one["decided"]])),
        "trials": float(seeds.sum(1).mean()),
        "with as many seeds each": float(equal.mean()),
    }  # fmt: skip


def main(argv: list[str]) -> None:
    """Simulate, print the table and the JSON line, write the document's table when asked to."""
    parser = argparse.ArgumentParser("python -m bench.seeds", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", action="append", choices=list(SETTINGS), help="these settings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    found = []
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for name in args.only or SETTINGS:
            begun = time.perf_counter()
            found.append(rows_of(name, args.replicates, partial(pool.imap, chunksize=5)))
            print(f"{time.perf_counter() - begun:.0f} s {found[-1]}", flush=True)
            if args.write:
                header, *lines = table(found)
                write_rows(args.write, "seeds", header, lines, list(SETTINGS))
    print("\n".join(f"| {' | '.join(line)} |" for line in table(found)))
    show([], [], {"replicates": args.replicates, "sweeps": found})


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table of the document: a header, and a line per setting."""
    return [tuple(rows[0]), *(tuple(_cell(key, value) for key, value in row.items()) for row in rows)]


def _cell(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if key in ("trials", "with as many seeds each") else f"{100 * value:.1f} %"


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
