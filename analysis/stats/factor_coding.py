"""The coding of what a sweep varies: numbers as logarithms, categories against their first level, shares of sources
against the commonest. Owns which columns are factors, and which are not although they vary."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

# numbers enter as decimal logarithms, so that a slope reads "points of ER per tenfold"
FACTORS = {
    "num_images": "pre-training images",
    "num_classes": "classes",
    "finetune_images": "fine-tuning images",
    "pretrain_images_seen": "pre-training images processed",
}
FOLLOWS = ("pretrain_images_seen",)  # is left out where it only follows from the others, as at a fixed number of epochs
CATEGORIES = {
    "granularity": "labels",
    "semantics": "choice of classes",
    "select": "choice of images",
    "dedupe": "repeated images left out",
    "label_noise": "wrong labels",
    "pretrain_method": "method of pre-training",
    "model": "model",
    "finetune_method": "method of fine-tuning",
}
WITHOUT = {"select": "all", "dedupe": "none", "label_noise": "none"}  # what an empty cell of a category means
WITHIN_TRIALS = ("finetune_images", "finetune_method")  # may differ between the fine-tunings of one trial
MOST_LEVELS = 12  # of a category: more is no factor but a name, as is the column `model` of a table of models
LEAST_RANGE = (
    0.05  # decades (a factor of 1.12) that a number must span: a slope per tenfold is read twenty times off it
)
WORST_CONDITION = 30.0  # Belsley, Kuh and Welsch (1980): beyond it two factors cannot be told apart


@dataclass(frozen=True)
class Block:
    """The columns that code one factor."""

    factor: str
    columns: np.ndarray  # float [rows, k]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    per: str
    against: str
    levels: int


def blocks_of(values: pd.DataFrame) -> tuple[list[Block], list[str]]:
    """Return the factors that vary, coded, and sentences on what varies but cannot be a factor."""
    blocks, notes = [], []
    for factor, label in FACTORS.items():
        if factor not in values:
            continue
        numbers = pd.to_numeric(values[factor], errors="coerce").astype("float64").to_numpy()
        finite = numbers[np.isfinite(numbers)]
        if len(np.unique(finite)) < 2:
            continue
        if len(finite) < len(numbers) or (finite <= 0).any():
            notes.append(f"{factor} has no single value above 0 in some groups: no trend is fitted over it")
            continue
        logs = np.log10(numbers)[:, None]
        if np.ptp(logs) < LEAST_RANGE:
            span = f"{finite.min():g} to {finite.max():g}"
            notes.append(f"{factor} hardly varies ({span}): no slope per tenfold is fitted over it")
            continue
        blocks.append(Block(factor, logs, (factor,), (label,), "tenfold", "", len(np.unique(finite))))
    for factor, label in CATEGORIES.items():
        if factor not in values:
            continue
        text = values[factor].astype(object).where(values[factor].notna(), WITHOUT.get(factor, "")).astype(str)
        levels = list(dict.fromkeys(text))
        if not 2 <= len(levels) <= min(MOST_LEVELS, len(text) // 2):
            continue
        first, *rest = levels
        columns = np.column_stack([(text == level).to_numpy(float) for level in rest])
        names, labels = tuple(f"{factor}={v}" for v in rest), tuple(f"{label} {v} against {first}" for v in rest)
        blocks.append(Block(factor, columns, names, labels, "level", first, len(levels)))
    mixed = _sources(values)
    return blocks + ([mixed] if mixed else []), notes


def nested_in(values: np.ndarray, groups: np.ndarray) -> bool:
    """Return whether no value lies in two groups and some group has several: the values are finer than the groups, as
    names of models are, and a difference between two of them is also one between groups."""
    pairs = pd.DataFrame({"value": values, "group": groups}).drop_duplicates()
    return not pairs["value"].duplicated().any() and bool(pairs["group"].duplicated().any())


def _sources(values: pd.DataFrame) -> Block | None:
    """Every source's share, but for the one that is most of all: what takes its place is what a slope compares with."""
    if "sources" not in values:
        return None
    weights = [json.loads(text) if isinstance(text, str) and text else {} for text in values["sources"]]
    names = list(dict.fromkeys(name for w in weights for name in w))
    table = np.array([[w.get(name, 0.0) for name in names] for w in weights]).reshape(len(weights), len(names))
    table = table / np.maximum(table.sum(1, keepdims=True), 1e-300)
    varied = [j for j in range(len(names)) if np.ptp(table[:, j]) > 1e-9]
    if not varied:
        return None
    first = max(varied, key=lambda j: table[:, j].sum())
    rest = [j for j in varied if j != first]
    labels = tuple(f"{names[j]} in place of {names[first]}" for j in rest)
    levels = len(np.unique(table.round(6), axis=0))
    tags = tuple(f"sources={names[j]}" for j in rest)
    return Block("sources", table[:, rest], tags, labels, "all of it", names[first], levels)


def without_followers(blocks: list[Block]) -> tuple[list[Block], list[str]]:
    """Leave out what only follows from the other factors, saying so: it was not varied, it came along."""
    independent = [block for block in blocks if block.factor not in FOLLOWS]
    notes = []
    for block in blocks:
        if block.factor not in FOLLOWS:
            continue
        if not independent:
            independent.append(block)
            continue
        others = np.column_stack([np.ones(len(block.columns)), *(b.columns for b in independent)])
        y = block.columns[:, 0]
        left = y - others @ np.linalg.lstsq(others, y, rcond=None)[0]
        if left @ left > ((y - y.mean()) ** 2).sum() / WORST_CONDITION**2:
            independent.append(block)
        else:
            others_named = " and ".join(b.factor for b in independent)
            notes.append(f"{block.factor} follows from {others_named}: effects may be either's")
    return independent, notes
