"""Is OOD accuracy that is estimated without labels right? `python -m bench.agreement [RUN...] [--sweeps N]`

Simulated sweeps: every model predicts every image, right where a latent variable that models share lies below its
accuracy. How alike models are under shift puts agreement on the line of accuracy, as the method assumes, or (last
worlds) does not. The interval of each group's mean ER is compared with the true one, with labels and without.

Of finished runs, with labels, these are hidden: the estimates of ALine-D are compared with the scores, beside those of
ATC (Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", ICLR 2022): the share of OOD
images whose confidence exceeds a threshold that as many ID images exceed as are predicted right.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, owens_t

from analysis.input import run_agreement, run_shifts
from analysis.input.run_points import read_run
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.agreement import Estimated, Test, estimate_ood
from analysis.stats.group_means import mean_er
from analysis.stats.task_points import TaskPoints
from bench import show, write_table
from bench.worlds import arguments, simulate_worlds
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import OWN, tests_of

BASELINE, POINTS = "scratch", 4
GROUPS = {BASELINE: 0.0, "none": 0.0, "some": 0.2, "more": 0.45}  # ER on the probit axis
SLOPE, INTERCEPT = 0.8, -0.5
SIMULATED, HIDDEN = "agreement simulated", "agreement hidden"


@dataclass(frozen=True)
class World:
    """A sweep: trials of the baseline and of each group, images of each test, cameras of each (0: none), luck of a
    trial on the probit axis, the correlation of models on one image, in and out of distribution (None: as much as puts
    their agreement on the line of accuracy), and the share of wrong answers that coincide in and out of
    distribution."""

    name: str
    trials: int = 5
    of_group: int = 5
    images: int = 1000
    cameras: int = 0
    luck: float = 0.05
    shared: float = 0.7
    shared_ood: float | None = None
    common: float = 0.0
    common_ood: float = 0.0


WORLDS = (
    World("5 trials, 1,000 images"),
    World("10 trials, 1,000 images", trials=10, of_group=10),
    World("10 trials, 2 of each group", trials=10, of_group=2),
    World("10 trials, 1 of each group", trials=10, of_group=1),
    World("5 trials, 4,000 images", images=4000),
    World("5 trials, 24 cameras", cameras=24),
    World("5 trials of much luck", luck=0.12),
    World("models are as alike at any accuracy", shared_ood=0.75),
    World("models are less alike under shift", shared_ood=0.4),
    World("a fifth of wrong answers coincide", shared_ood=0.75, common=0.2, common_ood=0.2),
    World("wrong answers coincide under shift", shared_ood=0.75, common_ood=0.25),
)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A simulated sweep: points, what they predict, and the true mean ER of each group in percentage points."""

    points: pd.DataFrame
    tests: dict[str, Test]
    true: dict[str, float]


def simulate(world: World, seed: int) -> Sweep:
    """Return a sweep of this world."""
    random = np.random.default_rng(seed)
    rows, x, y = [], [], []
    for group, er in GROUPS.items():
        for trial in range(world.trials if group == BASELINE else world.of_group):
            luck = world.luck * random.standard_normal()
            for look in range(POINTS):
                at = -0.6 + 0.45 * look + 0.05 * random.standard_normal()
                x.append(at)
                y.append(INTERCEPT + SLOPE * at + er + luck)
                rows.append({"trial": f"{group}-{trial}", "group": group, "finetune": f"lr{look}", "epoch": 1,
                             "metric": "accuracy", "id_images": world.images, "ood_images": world.images})  # fmt: skip
    points = pd.DataFrame(rows)
    trial, _ = pd.factorize(points["trial"])
    alike = np.full(len(x), world.shared)
    fixed = world.shared_ood
    alike_ood = _on_the_line(np.array(x), np.array(y), world.shared) if fixed is None else np.full(len(y), fixed)
    tests = {
        "id": _test(np.array(x), trial, alike, world.common, world, random),
        "ood": _test(np.array(y), trial, alike_ood, world.common_ood, world, random),
    }
    scores = {side: (test.predicted == test.labels).mean(1) for side, test in tests.items()}
    expected = INTERCEPT + SLOPE * np.array(x)
    planted = points["group"].map(GROUPS).to_numpy()
    gain = pd.Series(100 * (ndtr(expected + planted) - ndtr(expected)))
    return Sweep(points.assign(**scores), tests, gain.groupby(points["group"]).mean().to_dict())


def _on_the_line(x: np.ndarray, y: np.ndarray, shared: float) -> np.ndarray:
    """Return the correlation on one OOD image with which two models of each point's accuracies (probit, ID x and OOD y)
    have their agreement on the line of accuracy, float [points]: y - h(agreement) is SLOPE times that of x, by
    bisection."""
    low, high = np.zeros_like(y), np.ones_like(y)
    for _ in range(40):
        middle = (low + high) / 2
        apart = y - _agreement(y, middle) > SLOPE * (x - _agreement(x, np.full_like(x, shared)))
        low, high = np.where(apart, middle, low), np.where(apart, high, middle)
    return (low + high) / 2


def _agreement(height: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Return h of the share of images that two such models get right: normal variables of this correlation are both
    below `height` (Owen 1956)."""
    return ndtri(ndtr(height) - 2 * owens_t(height, np.sqrt((1 - shared) / (1 + shared))))


def _test(
    heights: np.ndarray, trial: np.ndarray, shared: np.ndarray, common: float, world: World, random: np.random.Generator
) -> Test:
    """What models of these accuracies (probit) and correlations predict: label 0 where the latent variable is below it,
    else an answer of their own, or one that is common to all."""
    images, models = world.images, len(heights)
    group = np.sort(np.arange(images) % max(world.cameras, 1))
    camera = random.standard_normal(max(world.cameras, 1))[group] if world.cameras else random.standard_normal(images)
    image = np.sqrt(0.1) * camera + np.sqrt(0.9) * random.standard_normal(images)
    own = 0.5 * random.standard_normal((trial.max() + 1, images))[trial]
    own += np.sqrt(0.75) * random.standard_normal((models, images))
    right = np.sqrt(shared)[:, None] * image + np.sqrt(1 - shared)[:, None] * own < heights[:, None]
    wrong = np.where(random.random(images) < common, 1, 2 + np.arange(models)[:, None])
    names = tuple(f"c{i:02d}" for i in range(world.cameras))
    return Test(np.where(right, 0, wrong).astype(np.int32), np.zeros(images, np.int32), group if names else None, names)


def means_of(points: pd.DataFrame, options: Options, estimated: Estimated | None) -> dict[str, tuple[float, ...]]:
    """Return mean ER with its interval of every group but the baseline, with labels or estimated."""
    replicates = [] if estimated is None else list(estimated.replicates)
    scored = points if estimated is None else points.assign(ood=estimated.ood)
    comparison = TaskPoints.of(scored, options, replicates).compare(SCALES[options.scale], of_factors=False)
    if comparison is None:
        return {}
    line = comparison.baseline
    means = {name: mean_er(group, line, line.low, line.high) for name, group in comparison.groups.items()}
    ends = {name: mean.quantity.estimate for name, mean in means.items() if mean is not None and name != line.name}
    return {name: (one.value, one.low, one.high) for name, one in ends.items()}


def looked_at(world: World, seed: int) -> list[tuple[float, ...]]:
    """Return of every group of one sweep: true, estimated and labelled ER, whether the estimate's interval and that
    with labels hold it, and how wide the first is; empty where nothing is estimated."""
    sweep, options = simulate(world, seed), Options(BASELINE, margin=1.0)
    trial, _ = pd.factorize(sweep.points["trial"])
    groups = sweep.points["group"].to_numpy(object)
    estimated = estimate_ood(sweep.tests, trial, groups, BASELINE, SCALES["probit"], options.min_r2)
    if estimated.refused:
        return []
    without, labelled = means_of(sweep.points, options, estimated), means_of(sweep.points, options, None)
    return [
        (true, without[group][0], labelled[group][0], without[group][1] <= true <= without[group][2],
         labelled[group][1] <= true <= labelled[group][2], without[group][2] - without[group][1])
        for group, true in sweep.true.items() if group in without and group in labelled
    ]  # fmt: skip


def simulated(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Print the table of the simulated worlds."""
    head = ("world", "sweeps", "refused", "bias", "error (RMS)", "error with labels", "coverage", "with labels",
            "width")  # fmt: skip

    def row(world: World, each: Callable[..., list]) -> tuple[Sequence[str], dict[str, float]]:
        parts = each(partial(looked_at, world), range(args.sweeps), chunksize=1)
        refused = float(np.mean([not part for part in parts]))
        cells, made = ["–"] * 6, {"refused": refused}
        if refused < 1:
            true, without, labelled, holds, held, width = np.array([one for part in parts for one in part], float).T
            made |= {
                "bias": float((without - true).mean()), "rms": _rms(without - true), "labelled": _rms(labelled - true),
            }  # fmt: skip
            cells[:3] = f"{made['bias']:+.2f}", f"{made['rms']:.2f}", f"{made['labelled']:.2f}"
            if (wide := np.isfinite(width)).any():  # a single trial has no interval
                made |= {"coverage": float(holds[wide].mean()), "coverage_labelled": float(held[wide].mean())}
                made |= {"width": float(width[wide].mean())}
                cells[3:] = [f"{100 * made[each]:.1f} %" for each in ("coverage", "coverage_labelled")]
                cells.append(f"{made['width']:.1f}")
        return (str(args.sweeps), f"{100 * refused:.1f} %", *cells), made

    return simulate_worlds(args, SIMULATED, head, WORLDS, row)


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean()))


@dataclass(frozen=True)
class Hidden:
    """One group on one shift of a run: mean ER in percentage points with labels, with its interval, and as ALine-D,
    with its interval, and ATC estimate it; `level` and `atc_level` are by how much they miss its mean OOD accuracy."""

    shift: str
    group: str
    labelled: float
    low: float
    high: float
    estimate: float
    estimate_low: float
    estimate_high: float
    atc: float
    level: float
    atc_level: float

    @property
    def held(self) -> bool:
        """Whether the estimate's interval holds the ER with labels."""
        return self.estimate_low <= self.labelled <= self.estimate_high


def hidden(address: str) -> tuple[list[Hidden], list[str], list[str]]:
    """Return what estimates give of a finished run whose OOD labels are hidden, by group and shift; the shifts that
    they were refused on, and those that have no line with labels."""
    table, options = read_run(address)
    made: list[Hidden] = []
    refused, without_line = [], []
    for task, points in table.points.groupby("task", sort=False):
        points = points.reset_index(drop=True)
        own = points.assign(id=points["id_accuracy"], ood=points["ood_accuracy"], metric="accuracy")
        shifts = {OWN: (own, tests_of(OWN, False))}
        for one in run_shifts.read(table.runs, points):
            if not one.part and one.points["shift_classes"].isna().all():
                scores = {side: one.points[f"{side}_accuracy"] for side in ("id", "ood")}
                shifts[one.name] = one.points.assign(**scores, metric="accuracy"), tests_of(one.name, False)
        for name, (scored, splits) in shifts.items():
            label = f"{task}, {name}" if len(set(table.points["task"])) > 1 else name
            labelled = means_of(scored, options, None)
            if not labelled:
                without_line.append(label)
                continue
            estimated = run_agreement.estimated(table.runs, scored, options, splits)
            if estimated.refused:
                refused.append(f"{label}: {estimated.refused}")
                continue
            made += _compared(label, scored, options, labelled, estimated, _atc(table.runs, scored, splits))
    return made, refused, without_line


def _compared(
    shift: str, points: pd.DataFrame, options: Options, labelled: dict[str, tuple[float, ...]],
    estimated: Estimated, atc: np.ndarray,
) -> Iterator[Hidden]:  # fmt: skip
    without = means_of(points, options, estimated)
    by_confidence = means_of(points.assign(ood=atc), options, None)
    for group, ends in labelled.items():
        if group in without and group in by_confidence:
            own = (points["group"] == group).to_numpy()
            true = points["ood"].to_numpy(float)[own]
            levels = (100 * float((values[own] - true).mean()) for values in (estimated.ood, atc))
            yield Hidden(shift, group, *ends, *without[group], by_confidence[group][0], *levels)


def _atc(runs: Sequence[RunFolder], points: pd.DataFrame, splits: Mapping[str, str]) -> np.ndarray:
    """OOD accuracy of every point by its confidence, float [points]."""
    scores = np.full(len(points), np.nan)
    for (trial, finetune), own in points.groupby(["trial", "finetune"], sort=False):
        data = runs[0].trial(str(trial)).storage.recall(f"predictions/{finetune}.parquet")
        frame = pd.read_parquet(io.BytesIO(data or b""))
        parts = {side: frame[frame["split"] == split] for side, split in splits.items()}
        for index, epoch in own["epoch"].items():
            confidence = {side: part[f"confidence_{epoch}"].to_numpy(float) for side, part in parts.items()}
            wrong = 1 - points.loc[index, "id"]
            scores[index] = (confidence["ood"] > np.quantile(confidence["id"], wrong)).mean()
    return scores


def of_runs(addresses: Sequence[str], write: Path | None) -> dict[str, dict[str, float]]:
    """Print the table of finished runs."""
    head = ("run", "shifts", "refused", "groups", "ER, RMS", "ALine-D: ER off by (RMS)", "its interval holds ER",
            "OOD accuracy off by", "ATC: ER off by (RMS)", "OOD accuracy off by")  # fmt: skip
    rows, numbers = [], {}
    for address in addresses:
        made, refused, without_line = hidden(address)
        for reason in refused:
            print(f"{address}: {reason}")
        for one in made:
            print(f"{one.shift}, {one.group}: ER {one.labelled:+.1f} ({one.low:.1f} to {one.high:.1f}), estimated "
                  f"{one.estimate:+.1f} ({one.estimate_low:.1f} to {one.estimate_high:.1f}), ATC {one.atc:+.1f}; OOD "
                  f"accuracy off by {one.level:+.1f}, ATC {one.atc_level:+.1f}")  # fmt: skip
        name, shifts = Path(address).name, len({one.shift for one in made})
        if not made:
            numbers[name] = {"groups": 0, "refused": len(refused)}
            rows.append((name, str(len(refused) + len(without_line)), str(len(refused)), *["–"] * 7))
            continue
        true, estimate, atc, level, atc_level = (
            np.array([getattr(one, key) for one in made])
            for key in ("labelled", "estimate", "atc", "level", "atc_level")
        )
        held = [one.held for one in made if np.isfinite(one.estimate_low)]  # a single trial has no interval
        numbers[name] = {
            "er": _rms(true), "aline": _rms(estimate - true), "atc": _rms(atc - true), "held": sum(held),
            "intervals": len(held),
            "level": float(level.mean()), "atc_level": float(atc_level.mean()), "groups": len(made),
            "refused": len(refused),
        }  # fmt: skip
        own = numbers[name]
        shifts += len(refused) + len(without_line)
        rows.append((name, str(shifts), str(len(refused)), str(len(made)), f"{own['er']:.1f}",
                     f"{own['aline']:.1f}", f"{sum(held)} of {len(held)}", f"{own['level']:+.1f}", f"{own['atc']:.1f}",
                     f"{own['atc_level']:+.1f}"))  # fmt: skip
    if write:
        write_table(write, HIDDEN, [head, *rows])
    show(head, rows, numbers)
    return numbers


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = arguments("bench.agreement", __doc__, "sweeps", 200, WORLDS)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="finished runs whose OOD labels are hidden")
    args = parser.parse_args(argv)
    if args.runs:
        of_runs(args.runs, args.write)
    else:
        simulated(args)


if __name__ == "__main__":
    main(sys.argv[1:])
