"""How to resample test groups: `python -m bench.resampling [--replicates N] [--write FILE]`.

Simulates two models on cameras of uneven sizes, each with a few species, and compares the spread of their difference in
macro-F1 over new cameras with what three methods make of one set: groups drawn with replacement, the Bayesian bootstrap
(Dirichlet weights), and leaving one group out, as `analysis.stats.group_jackknife` does. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.stats.group_jackknife import Counts, error_source, leave_one_out_weights, scores
from bench import show, write_table
from bench.coverage import counted, shares

WORLDS = {"24 cameras, 16 species": (24, 16), "48 cameras, 60 species": (48, 60)}
IMAGES, DRAWS = 2_000, 300
CAMERA_SD, OWN_CAMERA_SD, IMAGE_SD, OWN_IMAGE_SD = 0.35, 0.2, 0.6, 0.6


def main(argv: list[str]) -> None:
    """Simulate, print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.resampling", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1_000)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    told: dict[str, Any] = {}
    rows = []
    for name, (cameras, species) in WORLDS.items():
        seen = [looked_at(cameras, species, seed) for seed in range(args.replicates)]
        value = np.array([difference for difference, _ in seen])
        told[name] = {"true_sd": round(float(value.std()), 2)}
        for method in seen[0][1]:
            error = np.array([errors[method] for _, errors in seen])
            held = np.abs(value - value.mean()) <= stdtrit(error[:, 1], 0.975) * error[:, 0]
            told[name][method] = {"se": round(float(np.sqrt((error[:, 0] ** 2).mean())), 2),
                                  "coverage": round(float(held.mean()), 4)}  # fmt: skip
            one = told[name][method]
            rows.append((name, f"{value.std():.2f}", method, f"{one['se']:.2f}", f"{100 * one['coverage']:.1f} %"))
    header = ("world", "true SD", "method", "its SE", "coverage")
    if args.write:
        write_table(args.write, "resampling", [header, *rows])
    show(header, rows, told)


def looked_at(cameras: int, species: int, seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """The difference in macro-F1 (percentage points) of two models on one set of cameras, and for every method its
    standard error and degrees of freedom."""
    random = np.random.default_rng(seed)
    counts = two_models(cameras, species, random)
    count = len(counts.groups)
    worth = error_source("cameras", [counts.images])
    flat = random.standard_exponential((DRAWS, count))
    even = worth.df + 1  # what the uneven groups are worth
    methods = {
        "with replacement": (drawn(count, DRAWS, random), even / (even - 1)),
        "Bayesian": (flat * (count / flat.sum(1, keepdims=True)), (even + 1) / (even - 1)),
        "leave one out": (leave_one_out_weights(counts.groups), worth.factor),
    }
    errors = {}
    for name, (weights, factor) in methods.items():
        a, b = 100 * scores("macro_f1", weights, counts)
        errors[name] = (float(np.sqrt(np.var(b - a) * factor)), worth.df)
    a, b = 100 * scores("macro_f1", np.ones((1, count)), counts)[:, 0]
    return float(b - a), errors


def drawn(count: int, replicates: int, random: np.random.Generator) -> np.ndarray:
    """How often each of `count` groups is drawn when as many are drawn with replacement: int [replicates, count]."""
    return random.multinomial(count, np.full(count, 1 / count), size=replicates)


def two_models(cameras: int, species: int, random: np.random.Generator) -> Counts:
    """Two models on the same images; the second is better, above all on rare species."""
    sizes = random.multinomial(IMAGES, shares(random.lognormal(0, 0.8, cameras)))
    camera = np.repeat(np.arange(cameras), sizes)
    common = shares(1 / np.arange(1, species + 1) ** 1.2)
    mixes = np.array([random.dirichlet(6 * common) for _ in range(cameras)])
    label = (random.random(IMAGES)[:, None] > np.cumsum(mixes, 1)[camera]).sum(1).clip(max=species - 1)
    both = 0.4 * np.resize([-1, 0, 1], species)[label] + IMAGE_SD * random.standard_normal(IMAGES)
    both += CAMERA_SD * random.standard_normal(cameras)[camera]
    guesses = []
    for better in (0, 1):
        latent = both + OWN_IMAGE_SD * random.standard_normal(IMAGES) + better * (0.2 + 0.3 * (label > species // 2))
        latent += OWN_CAMERA_SD * random.standard_normal(cameras)[camera]
        wrong = (label + 1 + random.integers(0, species - 1, IMAGES)) % species
        guesses.append(np.where(latent > 0, label, wrong))
    return counted("camera", camera, label, np.array(guesses), species)


if __name__ == "__main__":
    main(sys.argv[1:])
