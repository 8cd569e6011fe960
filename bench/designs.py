"""Simulated sweeps that break an assumption of the analysis, one at a time or several at once, the truth known.

Owns `Design` and `draw`. On the probit axes a model's OOD score is the baseline's true line (straight, bent or kinked)
at its true ID score, plus what its group changes, its trial's offset, what epochs and learning rate do to every model
alike, and noise; test images then show both scores. `bench.scenarios` lists the designs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from bench.simulated import BASELINE, FACTOR, INTERCEPT, SLOPE, World

STEP_SD = 0.08  # of an ID score around its place, probit
DENSITY = 0.27  # of the normal at the middle of the line: a probit is so many points / 100 there
SAME_IMAGE_SD = 0.8  # how much of an image's difficulty all models share, of a whole SD of 1
LEAST, MOST = 0.001, 0.999


@dataclass(frozen=True)
class Group:
    """One group of a design.

    er        planted ER, percentage points
    shift     planted instead on the probit axis, the same at every ID score
    trials    how many
    points    points of each trial, the last for all that follow
    low, high the range of its ID scores, probit
    sd        its trials' offsets, times the design's
    seed      the weight of its seeds' effects (see `Design.by_seed`): 1, -1 or 0
    epochs    the epochs at which it was evaluated
    rates     indices of its learning rates
    gap       of its ID scores: none between these, probit
    """

    er: float = 0.0
    shift: float = 0.0
    trials: int = 5
    points: tuple[int, ...] = (6,)
    low: float = -0.6
    high: float = 0.65
    sd: float = 1.0
    seed: float = 1.0
    epochs: tuple[int, ...] = (2, 4, 6)
    rates: tuple[int, ...] = (0, 1)
    gap: tuple[float, float] | None = None


@dataclass(frozen=True)
class Design:
    """A sweep: its groups, the baseline first, and how the world scatters.

    factor          what the levels are: a number of images, a category, or nothing but names
    slope, intercept, bend, kink   the true line: a + b x + bend x^2 + kink max(x, 0)
    trial_sd, point_sd             SD of offsets and points, fractions (`probit`: on that axis, alike everywhere)
    heavy           Student's t with 3 degrees of freedom in place of the normal
    low_noise       how many times as large the scatter is at the lowest ID score as at the highest
    by_seed         share of the offsets' variance that trials of the same seed have in common
    by_epoch        probit by which the whole schedule takes a model below the line
    by_rate         the same of the largest learning rate
    images, ood_images  test images; `same_images`: on the same of the ID images, whose difficulty models share
    ordered         ID scores rise with rate and epoch inside a trial; else they are in any order
    copied          the OOD column is the ID column
    without_cluster a plain table, whose trials are in another column
    reference       whether the baseline makes a line at all
    matter          what a careful report names or refuses for, a key of `bench.claims.MATTERS`
    """

    groups: tuple[Group, ...]
    factor: str = FACTOR
    slope: float = SLOPE
    intercept: float = INTERCEPT
    bend: float = 0.0
    kink: float = 0.0
    trial_sd: float = 0.012
    point_sd: float = 0.008
    probit: bool = False
    heavy: bool = False
    low_noise: float = 1.0
    by_seed: float = 0.0
    by_epoch: float = 0.0
    by_rate: float = 0.0
    images: int = 50_000
    ood_images: int = 50_000
    same_images: bool = False
    ordered: bool = True
    copied: bool = False
    without_cluster: bool = False
    reference: bool = True
    matter: str = ""

    def line(self, x: np.ndarray) -> np.ndarray:
        """The baseline's true OOD score at true ID scores, both probit."""
        return self.intercept + self.slope * x + self.bend * x**2 + self.kink * np.maximum(x, 0)

    def names(self) -> list[str]:
        """The names of the groups."""
        levels = [f"{self.factor}={v}" if self.factor else v for v in self.levels()]
        return [BASELINE, *levels]

    def apart(self) -> dict[str, tuple[float, float]]:
        """By how much the true raw scores of each group differ from the baseline's, see `World.apart`: the planted ER,
        where all else that decides them is the same."""
        same = {(g.points, g.low, g.high, g.epochs, g.rates, g.gap, g.trials if len(g.points) > 1 else 0, g.shift)
                for g in self.groups}  # fmt: skip
        if len(same) > 1 or self.copied or self.probit:
            return {}
        return {
            name: (0.0, group.er - self.groups[0].er) for name, group in zip(self.names(), self.groups, strict=True)
        }

    def levels(self) -> list[str]:
        """The factor's levels, from the first group after the baseline."""
        count = len(self.groups) - 1
        if self.factor == FACTOR:
            return [str(10 ** (3 + i)) for i in range(count)]
        return [f"level{chr(ord('a') + i)}" for i in range(count)]


def draw(design: Design, seed: int) -> World:
    """One sweep of the design."""
    random = np.random.default_rng(seed)
    shared = _scatter(design, random, max(group.trials for group in design.groups))
    longest = max(max(group.epochs) for group in design.groups)
    most = max(max(max(group.rates) for group in design.groups), 1)
    values = ["", *design.levels()]
    parts = []
    for name, value, group in zip(design.names(), values, design.groups, strict=True):
        own = _scatter(design, random, group.trials)
        share = design.by_seed * group.seed**2
        offset = np.sqrt(design.by_seed) * group.seed * shared[: group.trials] + np.sqrt(1 - share) * own
        for number in range(group.trials):
            own_offset = group.sd * design.trial_sd * offset[number]
            facts = {"trial": f"{value or BASELINE}-s{number}", "group": name, "seed": number, "value": value,
                     "planted": group.er, "shift": group.shift, "offset": own_offset}  # fmt: skip
            columns = _trial(group, number, design.ordered, random)
            parts.append(columns | {key: np.full(len(columns["x"]), fact) for key, fact in facts.items()})
    points = pd.DataFrame({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    x = points["x"].to_numpy()
    away = design.by_epoch * points["epoch"] / longest + design.by_rate * points["rate"] / most
    height = design.line(x) - away.to_numpy()
    planted = ndtr(height + points["shift"].to_numpy()) + points["planted"].to_numpy() / 100
    er = 100 * (planted - ndtr(height))
    noise = points["offset"].to_numpy() + design.point_sd * _scatter(design, random, len(points))
    noise *= design.low_noise ** ((x.max() - x) / np.ptp(x) - 0.5)
    true = _moved(planted, noise, design.probit)
    seen = {
        "id": _shown(ndtr(x), design.images, design.same_images, random),
        "ood": _shown(true, design.ood_images, False, random),
    }
    if design.copied:
        seen["ood"] = seen["id"]
    shown = _columns(points, design).assign(**seen, id_images=design.images, ood_images=design.ood_images)
    slopes = {name: np.nan if group.er else 0.0 for name, group in zip(design.names(), design.groups, strict=True)}
    scaled = any(group.shift for group in design.groups)
    return World(shown, None, er, slopes, design.reference, scaled, apart=design.apart())


def _scatter(design: Design, random: np.random.Generator, size: int) -> np.ndarray:
    return random.standard_t(3, size) / np.sqrt(3) if design.heavy else random.standard_normal(size)


def _trial(group: Group, number: int, ordered: bool, random: np.random.Generator) -> dict[str, np.ndarray]:
    """ID scores (probit), epochs and rates of one trial, its points spread over the range of its group."""
    count = group.points[min(number, len(group.points) - 1)]
    at = np.linspace(group.low, group.high, count) if count > 1 else random.uniform(group.low, group.high, 1)
    if group.gap:
        low, high = group.gap
        reach = (group.high - group.low) - (high - low)
        at = group.low + (at - group.low) * reach / (group.high - group.low)
        at = np.where(at > low, at + high - low, at)
    spread = min(STEP_SD, 0.15 * (group.high - group.low))
    x = (at if ordered else random.permutation(at)) + spread * random.standard_normal(count)
    k = np.arange(count)
    epochs = np.array(group.epochs)[k % len(group.epochs)]
    rates = np.array(group.rates)[k // len(group.epochs) % len(group.rates)]
    return {"x": x, "epoch": epochs, "rate": rates}


def _moved(score: np.ndarray, noise: np.ndarray, probit: bool) -> np.ndarray:
    score = np.clip(score, LEAST, MOST)
    return np.clip(ndtr(ndtri(score) + noise / DENSITY) if probit else score + noise, LEAST, MOST)


def _shown(score: np.ndarray, images: int, same: bool, random: np.random.Generator) -> np.ndarray:
    """The share of `images` that each model gets right. On the same images, whose difficulty models share, errors of
    the models go together; else each model's are its own."""
    if not same:
        return random.binomial(images, score) / images
    difficulty = SAME_IMAGE_SD * random.standard_normal(images)
    own = np.sqrt(1 - SAME_IMAGE_SD**2)
    right = [(ndtri(p) + difficulty + own * random.standard_normal(images) > 0).mean() for p in score]
    return np.clip(np.array(right), 1 / images, 1 - 1 / images)


def _columns(points: pd.DataFrame, design: Design) -> pd.DataFrame:
    """What a run, or a plain table, has of every point besides its scores."""
    if design.without_cluster:
        rows = "row " + (points.index + 2).astype(str)
        return pd.DataFrame({"trial": rows, "group": points["group"], "run": points["trial"], "task": "task"})
    own = points[["trial", "group", "seed", "epoch"]].assign(
        finetune=[f"lr{r}" for r in points["rate"]], finetune_lr=10.0 ** (-4 + points["rate"]), metric="accuracy",
        task="simulated",
    )  # fmt: skip
    if design.factor == FACTOR:
        own[FACTOR] = pd.to_numeric(points["value"]).fillna(0).astype(int)
    elif design.factor:
        own[design.factor] = points["value"].replace("", None)
    return own
