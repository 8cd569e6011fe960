"""Is the best group in the set of those that cannot be told from it? `python -m bench.best_sets [--studies N]
[--only WORLD] [--write FILE]`.

Simulates studies of 3 to 21 groups of 3 to 12 trials: trials of unequal variance, trials that share seeds, test groups
(cameras) whose effects all groups share and some groups have of their own. Of each, the product's own mean scores and
set (`analysis.stats.best_set`) are made twice: with all groups equally good, where any of them must be in the set in
95 % of studies, and with groups that differ, where the true best must be in at least so many. The size of the set
stands beside that of the pairwise intervals by Bonferroni: the groups that none of the others is shown to beat. The
last line is one JSON object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.stats.best_set import best_set
from analysis.stats.estimates import quantile
from analysis.stats.group_jackknife import error_source
from analysis.stats.group_means import mean_er
from analysis.stats.quantities import Quantity, weighted
from analysis.stats.study_group import Group, GroupJackknife
from bench.worlds import arguments, simulate_worlds

TABLE = "best sets"
CAMERA, INTERACTION = 3.0, 1.0  # standard deviations of a camera's effect, and of what a group adds to it
APART = 2.0  # standard errors of a mean between the best and the worst, times the root of the groups


@dataclass(frozen=True)
class World:
    """Groups with trials; `spread` is how many times as much the last group's trials vary as the first's."""

    name: str
    groups: int
    trials: int
    spread: float = 1.0
    seeds: float = 0.0  # of the effect that a seed has on all groups
    cameras: int = 0


WORLDS = (
    World("3 groups, 3 trials", 3, 3),
    World("6 groups, 3 trials", 6, 3),
    World("6 groups, 5 trials", 6, 5),
    World("6 groups, 12 trials", 6, 12),
    World("21 groups, 5 trials", 21, 5),
    World("6 groups, 3 trials, unequal variances", 6, 3, spread=3.0),
    World("6 groups, 5 trials, unequal variances", 6, 5, spread=3.0),
    World("21 groups, 5 trials, unequal variances", 21, 5, spread=3.0),
    World("6 groups, 3 seeds shared", 6, 3, seeds=2.0),
    World("21 groups, 5 seeds shared", 21, 5, seeds=2.0),
    World("6 groups, 5 seeds shared, unequal variances", 6, 5, spread=3.0, seeds=2.0),
    World("6 groups, 5 trials, 24 cameras", 6, 5, cameras=24),
    World("6 groups, 5 seeds shared, 24 cameras", 6, 5, seeds=2.0, cameras=24),
    World("6 groups, 3 trials, 10 cameras", 6, 3, cameras=10),
)


def study(world: World, apart: float, random: np.random.Generator) -> dict[str, Quantity]:
    """The mean scores of a study whose groups lie evenly over `apart`, the last one highest."""
    groups, trials = world.groups, world.trials
    deviations = np.linspace(1.0, world.spread, groups)
    scores = np.linspace(0.0, apart, groups)[:, None] + deviations[:, None] * random.standard_normal((groups, trials))
    scores = (scores + world.seeds * random.standard_normal(trials))[:, :, None]
    if world.cameras:
        shared = CAMERA * random.standard_normal(world.cameras)
        scores = scores + shared + INTERACTION * random.standard_normal((groups, 1, world.cameras))
    made = {}
    for g, own in enumerate(scores):
        mean = mean_er(_group(f"group {g}", own, bool(world.seeds)), None, -np.inf, np.inf)
        assert mean is not None
        made[f"group {g}"] = mean.quantity
    return made


def _group(name: str, scores: np.ndarray, paired: bool) -> Group:
    """A group of trials with these scores by camera, float [trials, cameras]."""
    trials, cameras = scores.shape
    mean = scores.mean(1)
    points = pd.DataFrame({"trial": np.arange(trials), "id": 0.5, "er": mean, "extrapolated": False})
    jackknife = []
    if cameras > 1:
        source = error_source("OOD groups", [np.full(cameras, 100)])
        without = (scores.sum(1)[:, None] - scores) / (cameras - 1)
        jackknife = [GroupJackknife(source, without, without, without, er=without)]
    return Group(name, points, "seeds" if paired else f"trials of {name}", np.arange(trials), trials, tuple(jackknife))


def bonferroni(means: dict[str, Quantity]) -> set[str]:
    """The groups that no other is shown to beat, by intervals of all pairs at once."""
    names, pairs = list(means), len(means) * (len(means) - 1) / 2
    beaten = set()
    for a in names:
        for b in names:
            one = weighted([means[b], means[a]], [1.0, -1.0]).estimate
            if a != b and one.value > quantile(1 - 0.05 / 2 / pairs, one.df) * one.se:
                beaten.add(a)
    return set(names) - beaten


def looked_at(world: World, draws: int, seed: int) -> tuple[float, bool, bool, bool, int, int]:
    """Of one study with equal groups the share of groups in the set, and whether its first and its last are; of one
    with groups apart whether the best is, how many are, and how many by Bonferroni."""
    random = np.random.default_rng([seed, world.groups, world.trials])
    alike = best_set(study(world, 0.0, random), "ood", seed, draws).set_index("group")["in_set"]
    apart = APART * np.sqrt(world.groups) * (1 + world.spread) / 2 / np.sqrt(world.trials)
    means = study(world, float(apart), random)
    table = best_set(means, "ood", seed, draws).set_index("group")
    best = f"group {world.groups - 1}"
    return (alike.mean(), bool(alike["group 0"]), bool(alike[best]), bool(table.loc[best, "in_set"]),
            int(table["in_set"].sum()), len(bonferroni(means)))  # fmt: skip


def main(argv: list[str]) -> None:
    """Simulate, print the table and the JSON line."""
    parser = arguments("bench.best_sets", __doc__, "studies", 1_000, WORLDS)
    parser.add_argument("--draws", type=int, default=2_000)
    args = parser.parse_args(argv)
    head = ("world", "studies", "all alike: in the set", "its first and last group", "apart: the best in the set",
            "groups in the set", "by Bonferroni")  # fmt: skip

    def row(world: World, each: Callable[..., list]) -> tuple[Sequence[str], dict[str, float]]:
        studies = args.studies if world.groups < 20 else args.studies // 4
        table = np.array(each(partial(looked_at, world, args.draws), range(studies)), float)
        alike, first, last, best, size, others = map(float, table.mean(0))
        cells = (str(studies), f"{100 * alike:.1f} %", f"{100 * first:.1f} %, {100 * last:.1f} %",
                 f"{100 * best:.1f} %", f"{size:.2f}", f"{others:.2f}")  # fmt: skip
        return cells, {"alike": 100 * alike, "first": 100 * first, "last": 100 * last, "best": 100 * best,
                       "size": size, "bonferroni": others}  # fmt: skip

    simulate_worlds(args, TABLE, head, WORLDS, row)


if __name__ == "__main__":
    main(sys.argv[1:])
