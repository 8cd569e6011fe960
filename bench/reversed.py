"""Does the search for images on which better ID means worse OOD fool itself? `python -m bench.reversed [--worlds 300]`

Simulated sweeps: every model predicts every image, right where a latent variable that models share lies below its
accuracy. In clean worlds no image is right less often for a better ID score; on planted ones it is. Of each world: in
how many a subset is claimed, and of those how many of its images were planted, how many of the planted it has, and its
slope. With RUN, a finished run is read instead, and a share of its OOD images gets wrong labels, at random among those
of the test: the better a model, the less often it says what the label says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.input.run_agreement import read_tests
from analysis.input.run_points import read_run
from analysis.scales import SCALES
from analysis.stats.reversed_images import Predicted, Reversed, find_reversed
from analysis.stats.task_points import pairing
from bench import show, write_table
from bench.worlds import arguments, simulate_worlds
from ray_robust.run.results_schema import SCORE_SPLITS

PROBIT = SCALES["probit"]
GROUPS, POINTS, IMAGES, ID_IMAGES = 3, 5, 1500, 1500
TABLE, ON_RUNS = "reversed", "reversed runs"


@dataclass(frozen=True)
class World:
    """Trials of each group, whether groups share their seeds, cameras (0: none), the share of images that depend on no
    model (a slope of 0, where a falling one is next), the share on which better ID means worse, and by how much."""

    name: str
    trials: int = 4
    seeds: bool = True
    cameras: int = 0
    level: float = 0.0
    planted: float = 0.0
    slope: float = -0.6


WORLDS = (
    World("clean"),
    World("clean, trials without common seeds", seeds=False),
    World("clean, 24 cameras", cameras=24),
    World("clean, half of the images level", level=0.5),
    World("clean, all images level", level=1.0),
    World("planted: 15 % of images", planted=0.15),
    World("planted: 15 %, half of the images level", level=0.5, planted=0.15),
    World("planted: 5 %", planted=0.05),
    World("planted: 2 %", planted=0.02),
    World("planted: 15 %, slope -0.2", planted=0.15, slope=-0.2),
)


def simulate(world: World, seed: int) -> tuple[Predicted, np.ndarray]:
    """Return what the models of a world get right, and which images are planted, bool [images]."""
    random = np.random.default_rng(seed)
    group, number = (each.ravel() for each in np.divmod(np.arange(GROUPS * world.trials), world.trials))
    trial = np.repeat(np.arange(len(group)), POINTS)
    group, number = group[trial], number[trial]
    x = -0.6 + 0.4 * np.tile(np.arange(POINTS), GROUPS * world.trials) + 0.1 * random.standard_normal(len(trial))
    luck = 0.1 * random.standard_normal(GROUPS * world.trials)[trial]
    height = np.repeat((-0.5 + 0.8 * x + 0.2 * group + luck)[:, None], IMAGES, axis=1)
    kind = random.random(IMAGES)
    planted, level = kind < world.planted, kind > 1 - world.level
    height[:, planted] = (-0.2 + world.slope * x + luck)[:, None]
    height[:, level] = (-0.2 + luck)[:, None]
    place = np.sort(np.arange(IMAGES) % world.cameras) if world.cameras else np.arange(IMAGES)
    camera = random.standard_normal(IMAGES)[place]
    image = np.sqrt(0.1) * camera + np.sqrt(0.9) * random.standard_normal(IMAGES)
    own = 0.5 * random.standard_normal((GROUPS * world.trials, IMAGES))[trial]
    own += np.sqrt(0.75) * random.standard_normal((len(trial), IMAGES))
    right = np.sqrt(0.6) * image + np.sqrt(0.4) * own < height
    scores = random.binomial(ID_IMAGES, PROBIT.inverse(x)) / ID_IMAGES
    unit = number if world.seeds else trial
    return Predicted(right, PROBIT.of(scores, ID_IMAGES), group, trial, unit, place), planted


def looked_at(world: World, seed: int) -> tuple[float, ...]:
    """Return whether a subset is claimed in one world, its size, how many of its images are planted, how many of the
    planted it has, and its slope."""
    predicted, planted = simulate(world, seed)
    return _found(find_reversed(predicted, PROBIT), planted)


def _found(one: Reversed, planted: np.ndarray) -> tuple[float, ...]:
    both = (one.images & planted).sum()
    return one.found, one.count, both / max(one.count, 1), both / max(planted.sum(), 1), one.slope


def simulated(args: argparse.Namespace) -> None:
    """Print the table of the simulated worlds."""
    head = ("world", "worlds", "claimed", "images", "of them planted", "of the planted", "slope")

    def row(world: World, each: Callable[..., list]) -> tuple[Sequence[str], dict[str, float]]:
        count = args.worlds if world == WORLDS[0] else max(args.worlds // (10 if world.planted else 3), 1)
        table = np.array(each(partial(looked_at, world), range(count), chunksize=1), float)
        return (str(count), *_cells(table)), {"claimed": float(table[:, 0].mean()), "worlds": count}

    simulate_worlds(args, TABLE, head, WORLDS, row)


def _cells(table: np.ndarray) -> list[str]:
    """Text of the worlds in which a subset is claimed: in how many, and means over these."""
    claimed = table[table[:, 0] > 0]
    share = f"{100 * table[:, 0].mean():.1f} %"
    if not len(claimed):
        return [share, "–", "–", "–", "–"]
    count, right, recall, slope = claimed[:, 1:].mean(0)
    return [share, f"{count:.0f}", f"{100 * right:.0f} %", f"{100 * recall:.0f} %", f"{slope:.2f}"]


def of_run(address: str, share: float, write: Path | None) -> None:
    """Print what the search gives on a finished run, as it is and with wrong labels."""
    table, options = read_run(address)
    head = ("run", "task", "wrong labels", "claimed", "images", "of them wrong", "of the wrong", "slope", "interval")
    rows, numbers = [], {}
    for task, points in table.points.groupby("task", sort=False):
        points = points.reset_index(drop=True)
        tests, why = read_tests(table.runs, points, SCORE_SPLITS)
        if why:
            raise SystemExit(f"{address}: {why}")
        known, shown = tests["id"], tests["ood"]
        assert shown.labels is not None
        paired, scale = pairing(points), SCALES[options.scale]
        trial = pd.factorize(points["trial"].astype(str))[0]
        predicted = Predicted(
            shown.predicted == shown.labels,
            scale.of((known.predicted == known.labels).mean(1), len(known)),
            pd.factorize(points["group"])[0],
            trial,
            paired.codes if paired.seeds else trial,
            np.arange(len(shown)) if shown.group is None else shown.group,
        )
        for wrong_share in (0.0, share):
            random = np.random.default_rng(0)
            wrong = random.random(len(shown)) < wrong_share
            labels = shown.labels.copy()
            labels[wrong] = random.permutation(labels[wrong])
            wrong &= labels != shown.labels
            one = find_reversed(replace(predicted, right=shown.predicted == labels), scale)
            claimed, count, right, recall, slope = _found(one, wrong)
            rows.append((Path(address).name, str(task), f"{wrong.sum():,}", "yes" if claimed else "no",
                         f"{count:,} of {len(shown):,}" if claimed else "–", f"{100 * right:.0f} %" if claimed else "–",
                         f"{100 * recall:.0f} %" if claimed else "–", f"{slope:+.2f}",
                         f"{one.low:+.2f} to {one.high:+.2f}"))  # fmt: skip
            numbers[f"{task}, {wrong_share:g}"] = {"claimed": claimed, "slope": slope, "high": one.high}
    if write:
        write_table(write, ON_RUNS, [head, *rows])
    show(head, rows, numbers)


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = arguments("bench.reversed", __doc__, "worlds", 300, WORLDS)
    parser.add_argument("run", nargs="?", metavar="RUN", help="a finished run, which gets wrong labels")
    parser.add_argument("--wrong", type=float, default=0.1, help="share of its OOD images (default 0.1)")
    args = parser.parse_args(argv)
    if args.run:
        of_run(args.run, args.wrong, args.write)
    else:
        simulated(args)


if __name__ == "__main__":
    main(sys.argv[1:])
