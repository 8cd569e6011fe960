"""Do the intervals hold what they promise? `python -m bench.coverage [--replicates N] [--only NAME] [--write FILE]`.

Simulates sweeps whose truth is known, analyses each as a real one, and counts: how often 95 % intervals hold the truth,
how often a test finds what is not there, how often equivalence is claimed exactly at the margin. The last line is one
JSON object. With `--write docs/statistics.md` the rows of these scenarios replace theirs between its marks there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from analysis.groups import Counts, scores
from analysis.study import Analysis, analyse
from analysis.table import Options
from bench import show, table_in, write_table

SLOPE, INTERCEPT = 0.76, -0.86  # of the true baseline line, probit scale
RATES = 6  # points of a trial: one per learning rate
LEVELS = (1_000, 10_000, 100_000)
MARGIN = 2.0
DRAWS = 400  # replicates of the bootstrap inside each simulated analysis


@dataclass(frozen=True)
class Truth:
    """What is planted, and how the world scatters. Percentage points of ER at each level of the factor (`er`), or a
    line of its own for every level (`slope`); standard deviations of a trial's OOD offset and of a point's (fractions);
    `cameras` on each side, 0 for none."""

    er: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slope: float = 0.0  # added to the baseline's slope, around the middle of the ID scores
    trials: int = 5
    trial_sd: float = 0.012
    point_sd: float = 0.008
    heavy: bool = False
    cameras: int = 0
    metric: str = "accuracy"


SCENARIOS = {
    "null": Truth(),
    "planted ER": Truth(er=(1.0, 4.0, 7.0)),
    "slope change": Truth(slope=-0.15),
    "camera effects, accuracy": Truth(er=(0.0, 3.0, 6.0), cameras=24),
    "camera effects, macro-F1": Truth(er=(0.0, 3.0, 6.0), cameras=24, metric="macro_f1"),
    "three trials a group": Truth(er=(0.0, 3.0, 6.0), trials=3),
    "three trials, cameras": Truth(er=(0.0, 3.0, 6.0), trials=3, cameras=24),
    "two trials a group": Truth(er=(0.0, 3.0, 6.0), trials=2),
    "heavy tails": Truth(er=(0.0, 3.0, 6.0), heavy=True),
    "at the margin": Truth(er=(MARGIN, MARGIN, MARGIN), trial_sd=0.004, point_sd=0.004),
    "at the margin, cameras": Truth(er=(MARGIN, MARGIN, MARGIN), cameras=24),
}


@dataclass(frozen=True)
class World:
    """One simulated sweep: its points, its counts per camera, and the true ER of every point (percentage points)."""

    points: pd.DataFrame
    counts: dict[str, Counts] | None
    er: np.ndarray


def simulate(truth: Truth, seed: int) -> World:
    """A sweep of one baseline and three levels of a factor, every trial with `RATES` points."""
    random = np.random.default_rng(seed)
    scatter: Callable[..., np.ndarray] = (
        (lambda size=None: random.standard_t(3, size) / np.sqrt(3)) if truth.heavy else random.standard_normal
    )
    rows, er = [], []
    for level, planted in zip((0, *LEVELS), (0.0, *truth.er), strict=True):
        for number in range(truth.trials):
            offset = truth.trial_sd * scatter()
            for rate in range(RATES):
                x = -0.6 + 0.25 * rate + 0.08 * random.standard_normal()
                height = INTERCEPT + SLOPE * x
                own = height + (truth.slope * x if level else 0.0)
                expected = float(ndtr(height))
                er.append(100 * (float(ndtr(own)) - expected) + planted)
                noise = 0.0 if truth.cameras else offset + truth.point_sd * float(scatter())
                rows.append(
                    {"trial": f"{level}-s{number}", "group": f"num_images={level}" if level else "scratch",
                     "num_images": level, "finetune": f"lr{rate}", "metric": truth.metric, "task": "simulated",
                     "id": float(ndtr(x)), "x": x, "offset": offset,
                     "ood": float(np.clip(expected + er[-1] / 100 + noise, 0.001, 0.999))}
                )  # fmt: skip
    points, counts = pd.DataFrame(rows), None
    if truth.cameras:
        points, counts = _seen_by_cameras(points, np.array(er), truth, random)
    return World(points.drop(columns=["x", "offset"]), counts, np.array(er))


CLASSES, IMAGES = 12, 1_500
CAMERA_SD, TOGETHER_SD, IMAGE_SD, CLASS_SD = 0.35, 0.15, 0.6, 0.3  # of the probit, whose whole SD is 1


def _seen_by_cameras(
    points: pd.DataFrame, er: np.ndarray, truth: Truth, random: np.random.Generator
) -> tuple[pd.DataFrame, dict[str, Counts]]:
    """Scores as images on cameras would show them. Each side has cameras of its own, of log-normal sizes, each with a
    few species. An image is right when its probit is positive: the model's, plus the camera's effect on all models, the
    camera's on this level of pre-training, the image's own (shared between models) and a last one of model and image.
    Their variances add up to 1, so that the accuracy over infinitely many cameras is the score that was planted. Under
    macro-F1 some species are harder than others, the same in every simulation."""
    own_sd = np.sqrt(1 - CAMERA_SD**2 - TOGETHER_SD**2 - IMAGE_SD**2)
    harder = CLASS_SD * np.resize([-1, 0, 1], CLASSES) if truth.metric == "macro_f1" else np.zeros(CLASSES)
    level, counts, found = pd.factorize(points["group"])[0], {}, {}
    shift = points["offset"].to_numpy()
    true = {"id": points["id"].to_numpy(), "ood": np.clip(points["ood"].to_numpy() + shift, 0.001, 0.999)}
    for side in ("id", "ood"):
        sizes = random.multinomial(IMAGES, shares(random.lognormal(0, 0.8, truth.cameras)))
        camera = np.repeat(np.arange(truth.cameras), sizes)
        common = 1 / np.arange(1, CLASSES + 1)
        species = np.array([random.dirichlet(4 * common / common.sum()) for _ in range(truth.cameras)])
        label = (random.random(IMAGES)[:, None] > np.cumsum(species, 1)[camera]).sum(1).clip(max=CLASSES - 1)
        seen = CAMERA_SD * random.standard_normal(truth.cameras)[camera]
        seen += harder[label] + IMAGE_SD * random.standard_normal(IMAGES)
        together = TOGETHER_SD * random.standard_normal((level.max() + 1, truth.cameras))
        latent = ndtri(true[side])[:, None] + seen + together[level][:, camera]
        right = latent + own_sd * random.standard_normal((len(points), IMAGES)) > 0
        wrong = (label + 1 + random.integers(0, CLASSES - 1, (len(points), IMAGES))) % CLASSES
        counts[side] = counted(side, camera, label, np.where(right, label, wrong), CLASSES)
        found[side] = right.mean(1)
    if truth.metric != "accuracy":
        found = {side: scores(truth.metric, np.ones((1, len(c.groups))), c)[:, 0] for side, c in counts.items()}
    images = {f"{side}_images": IMAGES for side in counts}
    return points.assign(**found, **images, id_groups=truth.cameras, ood_groups=truth.cameras), counts


def shares(sizes: np.ndarray) -> np.ndarray:
    return sizes / sizes.sum()


def counted(side: str, camera: np.ndarray, label: np.ndarray, guess: np.ndarray, classes: int) -> Counts:
    """Predictions [points, images] as counts, classes and cameras without images left out."""
    there, label_at = np.unique(label, return_inverse=True)
    used, camera_at = np.unique(camera, return_inverse=True)
    place = np.full(classes, -1)
    place[there] = np.arange(len(there))
    points, shape = len(guess), (len(used), len(there))
    truth = np.bincount(camera_at * shape[1] + label_at, minlength=shape[0] * shape[1]).reshape(shape)
    hits, guessed = np.zeros((2, points, truth.size), np.int64)
    for i, own in enumerate(guess):
        right, known = own == label, place[own] >= 0
        hits[i] = np.bincount((camera_at * shape[1] + label_at)[right], minlength=truth.size)
        guessed[i] = np.bincount((camera_at * shape[1] + place[own])[known], minlength=truth.size)
    cells = np.tile(np.arange(truth.size), points)
    starts = np.arange(points + 1) * truth.size
    names = tuple(f"{side} {i}" for i in used), tuple(map(str, there))
    return Counts(*names, truth, truth.sum(1), starts, cells, hits.ravel(), guessed.ravel())


def looked_at(truth: Truth, seed: int) -> dict[str, Any]:
    """What one simulated analysis said, beside what is true: estimates with their ends, and the tests."""
    world = simulate(truth, seed)
    options = Options("scratch", margin=MARGIN, replicates=DRAWS, seed=seed)
    found = analyse("simulated", world.points, options, counts=world.counts)
    er = world.er[: len(world.points)]  # groups come in the order of the simulation
    inside = ~found.points["extrapolated"].to_numpy()
    names = found.points["group"].to_numpy()
    true = {name: float(er[inside & (names == name)].mean()) for name in dict.fromkeys(names)}
    said: dict[str, Any] = {"intervals": [], "tests": [], "equivalent": []}
    for row in found.groups.itertuples():
        if row.group != "scratch":
            said["intervals"].append(("mean ER", row.group, true[row.group], row.er, row.er_low, row.er_high))
    low, high = LEVELS[0], LEVELS[-1]
    contrasts = found.contrasts.set_index(["a", "b"])
    for (a, b), row in contrasts.iterrows():
        first, last = (np.nan if n == "scratch" else _true_between(found, er, n, row) for n in (b, a))
        difference = last - (0.0 if b == "scratch" else first)
        kind = "against the baseline" if b == "scratch" else "pair"
        said["intervals"].append((kind, f"{a}-{b}", difference, row["delta_er"], row["low"], row["high"]))
        if abs(difference) < 1e-9:
            said["tests"].append((kind, row["p"], row["p_adjusted"]))
        if abs(abs(difference) - MARGIN) < 1e-9 or (truth.cameras and abs(difference - MARGIN) < 1e-9):
            said["equivalent"].append(bool(row["equivalent"]))
    for row in found.ancova.itertuples():
        true_slope = truth.slope if row.b == "scratch" else 0.0
        if not truth.cameras and not any(truth.er):  # a constant ER is no parallel line on the probit axis
            said["intervals"].append(
                ("slope", f"{row.a}-{row.b}", true_slope, row.slope_difference, row.slope_low, row.slope_high)
            )
        if true_slope == 0 and not any(truth.er):
            said["tests"].append(("slope", row.slope_p, row.slope_p_adjusted))
    if not truth.slope and len(found.regression.factors) == 1:
        slope = found.regression.factors[0].slope
        tenfolds = np.log10(high / low)
        planted = (true[f"num_images={high}"] - true[f"num_images={low}"]) / tenfolds
        said["intervals"].append(("trend", "num_images", planted, slope.value, slope.low, slope.high))
        if planted == 0:
            said["tests"].append(("trend", slope.p, slope.p))
    return said


def _true_between(found: Analysis, er: np.ndarray, name: str, row: pd.Series) -> float:
    points = found.points
    chosen = (points["group"] == name) & ~points["extrapolated"] & points["id"].between(row["id_low"], row["id_high"])
    return float(er[chosen.to_numpy()].mean())


def run(name: str, replicates: int, processes: int) -> list[dict[str, Any]]:
    """All replicates of a scenario."""
    work = partial(looked_at, SCENARIOS[name])
    seeds = [hash_seed(name, i) for i in range(replicates)]
    if processes == 1:
        return [work(seed) for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(work, seeds, chunksize=8)


def hash_seed(name: str, number: int) -> int:
    """A seed by name, so that a scenario's draws do not depend on which others run."""
    return zlib.crc32(name.encode()) * 1_000 + number


def summary(name: str, said: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all replicates. For a metric without a closed form the truth is the mean of the estimates."""
    intervals = pd.DataFrame([row for one in said for row in one["intervals"]],
                             columns=["kind", "what", "true", "value", "low", "high"])  # fmt: skip
    if SCENARIOS[name].metric != "accuracy":
        intervals["true"] = intervals.groupby(["kind", "what"])["value"].transform("mean")
    given = intervals.dropna(subset=["low", "high"])
    held = given.assign(held=(given["low"] <= given["true"]) & (given["true"] <= given["high"]))
    tests = pd.DataFrame([row for one in said for row in one["tests"]], columns=["kind", "p", "p_adjusted"])
    tests["sweep"] = [i for i, one in enumerate(said) for _ in one["tests"]]
    families = (tests["p_adjusted"] <= 0.05).groupby([tests["kind"], tests["sweep"]]).any().groupby("kind").mean()
    equivalent = [claimed for one in said for claimed in one["equivalent"]]
    return {
        "replicates": len(said),
        "coverage": held.groupby("kind")["held"].mean().round(4).to_dict(),
        "no interval": round(1 - len(given) / max(1, len(intervals)), 4),
        "width": (given["high"] - given["low"]).groupby(given["kind"]).median().round(2).to_dict(),
        "false positives": (tests["p"] <= 0.05).groupby(tests["kind"]).mean().round(4).to_dict(),
        "any false positive after Holm": families.round(4).to_dict(),
        "equivalent at the margin": round(float(np.mean(equivalent)), 4) if equivalent else None,
    }


def rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The table: a line per scenario, coverage by kind of interval, false positives by kind of test."""
    kinds = ("mean ER", "pair", "slope", "trend")
    tests = ("against the baseline", "pair", "slope", "trend")
    yield ("scenario", "replicates", *kinds, *(f"false: {kind}" for kind in tests), "equivalent at the margin",
           "without interval")  # fmt: skip
    for name, one in found.items():
        yield (
            name,
            str(one["replicates"]),
            *(_share(one["coverage"].get(kind)) for kind in kinds),
            *(_share(one["false positives"].get(kind)) for kind in tests),
            _share(one["equivalent at the margin"]),
            _share(one["no interval"] or None),
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def main(argv: list[str]) -> None:
    """Run the scenarios, print the table and the JSON line, write the document's table when asked to."""
    parser = argparse.ArgumentParser("python -m bench.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="these scenarios")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    found: dict[str, dict[str, Any]] = {}
    for name in args.only or SCENARIOS:
        begun = time.perf_counter()
        found[name] = summary(name, run(name, args.replicates, args.processes))
        print(f"{name}: {time.perf_counter() - begun:.0f} s {found[name]}", flush=True)
    header, *lines = rows(found)
    if args.write:
        known = {row[0]: row for row in [*table_in(args.write, "coverage")[1:], *lines]}
        write_table(args.write, "coverage", [header, *(known[name] for name in SCENARIOS if name in known)])
    show(header, lines, found)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
