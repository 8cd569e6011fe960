"""Simulated sweeps whose truth is known: a baseline and three levels of a factor, seen through cameras or not.

Owns `World`, what a simulation hands to the analysis and to the judges of what it said; the sweeps of `Truth`; and
`counted`, predictions as the counts that a run keeps. Sweeps that break an assumption are in `bench.designs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from analysis.stats.group_jackknife import Counts, scores

SLOPE, INTERCEPT = 0.76, -0.86  # of the true baseline line, probit scale
RATES = 6  # points of a trial: one per learning rate
LEVELS = (1_000, 10_000, 100_000)
BASELINE, FACTOR = "scratch", "num_images"
EPOCHS = 6  # of every fine-tuning, where they are all alike


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


@dataclass(frozen=True)
class World:
    """One simulated sweep and what is true of it.

    points     the columns of a run that an analysis reads
    counts     predictions per camera, or None
    er         true ER of every point, percentage points, groups in the order of the simulation
    slopes     of every group, its true slope on the probit axes less the baseline's; NaN where it has no single one
    reference  whether the baseline makes a line at all: where not, no claim is true
    one_scale  whether levels are alike on the probit axis and differ in points only: a claim has to name the scale
    apart      by group, by how many percentage points the true raw scores, of ID and OOD, differ from the baseline's;
               empty where that is not known beforehand
    """

    points: pd.DataFrame
    counts: dict[str, Counts] | None
    er: np.ndarray
    slopes: Mapping[str, float] = field(default_factory=dict)
    reference: bool = True
    one_scale: bool = False
    apart: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
                    {"trial": f"{level}-s{number}", "group": f"{FACTOR}={level}" if level else BASELINE,
                     "seed": number, FACTOR: level, "finetune": f"lr{rate}", "finetune_lr": 10 ** (-4 + rate / 2),
                     "epoch": EPOCHS, "metric": truth.metric, "task": "simulated",
                     "id": float(ndtr(x)), "x": x, "offset": offset,
                     "ood": float(np.clip(expected + er[-1] / 100 + noise, 0.001, 0.999))}
                )  # fmt: skip
    points, counts = pd.DataFrame(rows), None
    if truth.cameras:
        points, counts = _seen_by_cameras(points, np.array(er), truth, random)
    # a constant ER is no parallel line on the probit axes: such groups have no single slope
    slopes = {name: np.nan if any(truth.er) else truth.slope for name in points["group"].unique()}
    names = list(dict.fromkeys(points["group"]))
    # all groups have the same ID scores; on another line, and of other metrics where groups are not all alike, the OOD
    # scores' difference has no formula
    given = not truth.slope and (truth.metric == "accuracy" or not any(truth.er))
    apart = {name: (0.0, er) for name, er in zip(names, (0.0, *truth.er), strict=True)} if given else {}
    shown = points.assign(id_val=_validation(points["x"].to_numpy(), seed)).drop(columns=["x", "offset"])
    return World(shown, counts, np.array(er), {**slopes, BASELINE: 0.0}, apart=apart)


VAL_SD = 0.05  # of the probit of a validation score, around that of the true ID score


def _validation(x: np.ndarray, seed: int) -> np.ndarray:
    """Validation scores that choose among the points of a trial, from random numbers of their own."""
    return ndtr(x + VAL_SD * np.random.default_rng([seed, 1]).standard_normal(len(x)))


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
