"""The simulated sweeps of `bench.coverage`, by name: those whose assumptions hold, and those that break one or several.

A name ends in "planted" where effects are there to be found: a report that never claims is of no use either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.designs import Design, Group
from bench.simulated import Truth

MARGIN = 2.0  # of "no effect", percentage points

HELD = {
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

# what decides the raw scores: trials few and many, cameras few and many, macro-F1, all groups alike
SCORES = {
    "null, cameras": Truth(cameras=24),
    "null, macro-F1": Truth(cameras=24, metric="macro_f1"),
    "null, two trials": Truth(trials=2),
    "null, three trials, cameras": Truth(trials=3, cameras=24),
    "twelve trials a group": Truth(er=(0.0, 3.0, 6.0), trials=12),
    "twelve trials, cameras": Truth(er=(0.0, 3.0, 6.0), trials=12, cameras=24),
    "three trials, macro-F1": Truth(er=(0.0, 3.0, 6.0), trials=3, cameras=24, metric="macro_f1"),
    "eight cameras": Truth(er=(0.0, 3.0, 6.0), cameras=8),
    "eight cameras, macro-F1": Truth(er=(0.0, 3.0, 6.0), cameras=8, metric="macro_f1"),
    "at the margin, twelve trials, cameras": Truth(er=(MARGIN, MARGIN, MARGIN), trials=12, cameras=24),
}

BASE, NULL, PLANTED = Group(), (0.0, 0.0, 0.0), (0.0, 4.0, 8.0)


def levels(er: Sequence[float], base: Group = BASE, **same: Any) -> tuple[Group, ...]:
    """A baseline and a group for every planted ER, all else the same."""
    return (base, *(Group(er=one, **same) for one in er))


def lone(er: Sequence[float], trials: Sequence[int]) -> tuple[Group, ...]:
    """Levels with so many trials each."""
    return (BASE, *(Group(er=one, trials=count) for one, count in zip(er, trials, strict=True)))


def placed(er: Sequence[float], base: Group, at: Sequence[tuple[float, float]], **same: Any) -> tuple[Group, ...]:
    """Levels at ID scores of their own (probit)."""
    return (base, *(Group(er=e, low=low, high=high, **same) for e, (low, high) in zip(er, at, strict=True)))


# a level with one trial beside levels with 5 to 8
LONE = {
    "lone trial, category of 3": Design(lone(NULL, (6, 8, 1)), "granularity", matter="few trials"),
    "lone trial, category of 4": Design(lone((0,) * 4, (5, 6, 8, 1)), "granularity", matter="few trials"),
    "lone trial, first of 3": Design(lone(NULL, (1, 6, 8)), "granularity", matter="few trials"),
    "lone trial, number of 3": Design(lone(NULL, (6, 8, 1)), matter="few trials"),
    "lone trial, number of 4": Design(lone((0,) * 4, (5, 6, 8, 1)), matter="few trials"),
    "lone trial, category, planted": Design(lone((0, 5, 5), (6, 8, 1)), "granularity", matter="few trials"),
    "lone trial, number, planted": Design(lone((0, 3, 6, 9), (5, 6, 8, 1)), matter="few trials"),
}

# trials with very unequal numbers of points in a group
MANY: dict[str, Any] = {"trials": 4, "points": (40, 2, 2, 2)}
RISING: dict[str, Any] = {"trials": 4, "points": (1, 2, 3, 12)}
POINTS = {
    "points 40 2 2 2": Design(levels(NULL, **MANY), matter="points"),
    "points 1 2 3 12": Design(levels(NULL, **RISING), matter="points"),
    "points 40 2 2 2, baseline too": Design(levels(NULL, Group(**MANY), **MANY), matter="points"),
    "points 1 2 3 12, baseline too": Design(levels(NULL, Group(**RISING), **RISING), matter="points"),
    "points 40 2 2 2, planted": Design(levels(PLANTED, Group(**MANY), **MANY), matter="points"),
    "points 1 2 3 12, planted": Design(levels(PLANTED, Group(**RISING), **RISING), matter="points"),
}

# an effect over an ordered factor that is no straight line on the logarithmic axis, and one that is
SHAPES = {
    "rise and fall 0 5 0": Design(levels((0, 5, 0)), matter="shape"),
    "rise and fall 0 5 5 0": Design(levels((0, 5, 5, 0)), matter="shape"),
    "plateau 0 6 6 6": Design(levels((0, 6, 6, 6)), matter="shape"),
    "late 0 0 0 6": Design(levels((0, 0, 0, 6)), matter="shape"),
    "straight 0 2 4 6": Design(levels((0, 2, 4, 6)), matter="shape"),
}

# the baseline's truth is bent or kinked (R^2 of a straight line .91 to .97), groups at other ID scores than all of it
WIDE, APART = Group(low=-1.2, high=1.1), ((-1.1, -0.7), (-0.3, 0.2), (0.6, 1.0))
BENT: dict[str, Any] = {"bend": 0.22, "probit": True}
KINKED: dict[str, Any] = {"kink": 0.6, "slope": 0.45, "probit": True}
EVEN: dict[str, Any] = {"probit": True}
GAPPED = replace(WIDE, gap=(-0.5, 0.5))
LINES = {
    "curved line": Design(placed(NULL, WIDE, APART), **BENT, matter="curve"),
    "kinked line": Design(placed(NULL, WIDE, APART), **KINKED, matter="curve"),
    "curved line, planted": Design(placed((8, 8, 8), WIDE, APART), **BENT, matter="curve"),
    "kinked line, planted": Design(placed((8, 8, 8), WIDE, APART), **KINKED, matter="curve"),
    "straight line, groups apart": Design(placed(NULL, WIDE, APART), **EVEN, matter="curve"),
    "straight line, groups apart, planted": Design(placed((5, 5, 5), WIDE, APART), **EVEN, matter="curve"),
    "groups in a gap, curved": Design(levels(NULL, GAPPED, low=-0.4, high=0.4), **BENT, matter="gap"),
    "groups in a gap, straight": Design(levels(NULL, GAPPED, low=-0.4, high=0.4), **EVEN, matter="gap"),
    "groups in a gap, planted": Design(levels(PLANTED, GAPPED, low=-0.4, high=0.4), **EVEN, matter="gap"),
    "falling line": Design(levels(NULL), slope=-0.5, intercept=-0.3, reference=False, matter="falling"),
    "flat line": Design(levels(NULL), slope=0.0, reference=False, matter="falling"),
    "flat line, slope .02, high R2": Design(
        levels(NULL),
        slope=0.02,
        trial_sd=0.0002,
        point_sd=0.0002,
        images=10**8,
        ood_images=10**8,
        reference=False,
        matter="falling",
    ),
    "OOD is ID": Design(levels(NULL), copied=True, reference=False, matter="identical"),
}

# few ID test images: the ID scores have errors; null groups where the baseline's middle is, and at high ID scores
NARROW, HIGH = Group(low=-0.3, high=0.4), ((-0.4, 0.4), (0.2, 0.65), (0.3, 0.65))
NEAR = ((-0.3, 0.3), (0.1, 0.4), (0.2, 0.4))


def few(images: int, er: Sequence[float] = NULL, wide: bool = True, same: bool = False) -> Design:
    """So many ID test images, a wide or a narrow baseline."""
    groups = placed(er, BASE, HIGH) if wide else placed(er, NARROW, NEAR)
    return Design(groups, images=images, same_images=same, matter="images")


IMAGES = {
    **{f"{count} ID images": few(count) for count in (200, 500, 2_000)},
    **{f"{count} ID images, narrow": few(count, wide=False) for count in (200, 500, 2_000)},
    **{f"{count} shared ID images": few(count, same=True) for count in (200, 500, 2_000)},
    **{f"{count} shared ID images, narrow": few(count, wide=False, same=True) for count in (200, 500)},
    "500 ID images, planted": few(500, PLANTED),
    "500 shared ID images, planted": few(500, PLANTED, same=True),
}

# the baseline was fine-tuned for longer than the groups, or at other learning rates
LONG = Group(epochs=(4, 8, 12))
RATED: dict[str, Any] = {"epochs": (3, 6), "rates": (0, 1, 2, 3, 4, 5)}
UPPER: dict[str, Any] = {"epochs": (3, 6), "rates": (3, 4, 5)}
SCHEDULES = {
    "longer baseline leaves the line": Design(levels(NULL, LONG), by_epoch=0.15, matter="schedule"),
    "much longer baseline leaves the line": Design(
        levels(NULL, LONG, epochs=(1, 2, 3)), by_epoch=0.15, matter="schedule"
    ),
    "longer baseline, planted": Design(levels(PLANTED, LONG), by_epoch=0.15, matter="schedule"),
    "longer baseline, on the line": Design(levels(NULL, LONG), matter="schedule"),
    "longer baseline, on the line, planted": Design(levels(PLANTED, LONG), matter="schedule"),
    "epochs leave the line, equal": Design(levels(PLANTED, LONG, epochs=(4, 8, 12)), by_epoch=0.15, matter="schedule"),
    "rate leaves the line, other rates": Design(
        levels(NULL, Group(points=(12,), **RATED), **UPPER), by_rate=0.25, ordered=False, matter="rate"
    ),
    "rate leaves the line, equal": Design(
        levels(PLANTED, Group(points=(12,), **RATED), points=(12,), **RATED), by_rate=0.25, ordered=False, matter="rate"
    ),
    "other rates, on the line, planted": Design(
        levels(PLANTED, Group(points=(12,), **RATED), **UPPER), ordered=False, matter="rate"
    ),
}

# the scatter grows toward low ID scores; groups have the same range, or ranges of their own
WINDOWS = ((-0.6, 0.0), (-0.3, 0.3), (0.1, 0.65))
NOISE = {
    "noise at low ID": Design(levels(NULL), low_noise=4, matter="noise"),
    "noise at low ID, groups apart": Design(placed(NULL, BASE, WINDOWS), low_noise=4, matter="noise"),
    "noise at low ID, planted": Design(levels(PLANTED), low_noise=4, matter="noise"),
}


def seeded(er: Sequence[float], share: float, signs: Sequence[int]) -> Design:
    """Trials of one seed have that share of their offsets' variance in common, by the sign of their group."""
    base, *rest = (Group(er=e, seed=sign) for e, sign in zip((0.0, *er), signs, strict=True))
    return Design((base, *rest), by_seed=share, matter="seed")


SEEDS = {
    "seeds shared, +.8": seeded(NULL, 0.8, (1, 1, 1, 1)),
    "seeds shared, levels +.8": seeded(NULL, 0.8, (0, 1, 1, 1)),
    "seeds shared, levels -.8": seeded(NULL, 0.8, (0, 1, 0, -1)),
    "seeds shared, baseline -.8": seeded(NULL, 0.8, (-1, 1, 1, 1)),
    "seeds shared, 0": seeded(NULL, 0.0, (0, 0, 0, 0)),
    "seeds shared, +.8, planted": seeded((0, 1.5, 3), 0.8, (1, 1, 1, 1)),
    "seeds shared, -.8, planted": seeded((0, 3, 6), 0.8, (0, 1, 0, -1)),
}

UNEVEN: tuple[dict[str, Any], ...] = ({"trials": 12, "sd": 0.5}, {"trials": 3, "sd": 2.0}, {"trials": 5})
FEW = {
    "3 trials against 12": Design((BASE, *(Group(**own) for own in UNEVEN)), matter="few trials"),
    "3 trials against 12, planted": Design(
        (BASE, *(Group(er=e, **own) for e, own in zip((0, 3, 6), UNEVEN, strict=True))), matter="few trials"
    ),
    "3 trials wide, levels named": Design((BASE, *(Group(**own) for own in UNEVEN)), "", matter="few trials"),
    "two trials a group, null": Design(levels(NULL, Group(trials=2), trials=2), matter="few trials"),
}

OTHERS = {
    "same probit shift at other ID scores": Design(
        placed(NULL, WIDE, APART, shift=0.2), **EVEN, trial_sd=0.008, matter="scale"
    ),
    "plain table without cluster": Design(levels(NULL), "", without_cluster=True, matter="cluster"),
    "plain table without cluster, planted": Design(levels(PLANTED), "", without_cluster=True, matter="cluster"),
    "20 groups at the margin": Design(levels((MARGIN,) * 20), "", trial_sd=0.004, point_sd=0.004),
    "20 null groups": Design(levels((0.0,) * 20), ""),
    "20 groups, 4 planted": Design(levels((0.0,) * 16 + (5.0,) * 4), ""),
}

# what nobody listed: two or three at once
CUT: dict[str, Any] = {
    "trials": 3,
    "low": -0.9,
    "high": 0.3,
}  # the baseline's range cuts off the lower third of every trial
BOTH = {
    "curve, few images": Design(placed(NULL, WIDE, APART), **BENT, images=500, matter="curve"),
    "curve, few images, planted": Design(placed((8, 8, 8), WIDE, APART), **BENT, images=500, matter="curve"),
    "curve, noise at low ID": Design(placed(NULL, WIDE, APART), bend=0.22, low_noise=3, matter="curve"),
    "unequal points, lone trial": Design(
        (BASE, Group(trials=6, points=(40, 2, 2, 2)), Group(trials=8, points=(1, 2, 3, 12, 6)), Group(trials=1)),
        "granularity",
        matter="few trials",
    ),
    "three trials, cut by the range": Design(levels(NULL, Group(trials=3), **CUT), matter="few trials"),
    "three trials, cut, planted": Design(levels((0, 5, 10), Group(trials=3), **CUT), matter="few trials"),
    "seeds -.8, unequal points": Design(
        (Group(seed=0), *(Group(seed=sign, points=(20, 3, 3, 3, 3)) for sign in (1, 0, -1))), by_seed=0.8, matter="seed"
    ),
    "plateau, three trials": Design(levels((0, 6, 6, 6), Group(trials=3), trials=3), matter="shape"),
    "plateau, cut, seeds +.8": Design(levels((0, 6, 6, 6), low=-0.9, high=0.3), by_seed=0.8, matter="shape"),
    "longer baseline, curve": Design(
        placed(NULL, replace(WIDE, epochs=(4, 8, 12)), APART), **BENT, by_epoch=0.1, matter="curve"
    ),
    "heavy tails, unequal points": Design(levels(NULL, **MANY), heavy=True, matter="points"),
}

BROKEN = {
    **LONE, **POINTS, **SHAPES, **LINES, **IMAGES, **SCHEDULES, **NOISE, **SEEDS, **FEW, **OTHERS, **BOTH,
}  # fmt: skip
SCENARIOS: dict[str, Truth | Design] = {**HELD, **SCORES, **BROKEN}
