"""The animals of the built-in world: order / family / species, their names and what they look like.

Hands on `Taxonomy`: a hierarchy and one row of traits per species. Shape is decided by the order, varied by the family
and a little by the species; the coat is mostly the species' own. So coarse labels carry shape, fine labels carry coat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ray_robust.data.pool import mix_bits, seed_of
from ray_robust.data.world.draws import F32, normal, uniform

FAMILIES = 5  # of each order
SOURCE_SPECIES, TASK_SPECIES = 4000, 96  # the first so many species are for sources, the next for tasks
ORDERS = ("Cervanta", "Felumida", "Suvalia", "Leporanda", "Grandacuta", "Avigressa", "Mustolonga", "Caudascanda")

# Lengths in units of a deer's trunk, one column per order: deer, cat, boar, hare, tapir, ground bird, weasel, monkey.
SHAPE = {
    "trunk": (0.95, 1.00, 0.95, 0.50, 1.05, 0.42, 1.30, 0.70),  # hip to chest
    "pitch": (0.04, 0.00, -0.05, -0.12, 0.03, 0.20, 0.00, 0.24),  # chest over hip
    "chest": (0.25, 0.20, 0.36, 0.26, 0.42, 0.27, 0.14, 0.19),  # radii
    "hip": (0.22, 0.18, 0.29, 0.36, 0.43, 0.22, 0.14, 0.17),
    "leg": (0.95, 0.60, 0.55, 0.42, 0.75, 0.80, 0.32, 0.70),  # trunk line to ground
    "leg_r": (0.055, 0.075, 0.085, 0.085, 0.14, 0.035, 0.065, 0.060),
    "neck_x": (0.22, 0.24, 0.20, 0.18, 0.26, 0.12, 0.24, 0.14),
    "neck_y": (0.56, 0.16, 0.00, 0.18, 0.04, 0.52, 0.10, 0.20),
    "neck_r": (0.11, 0.13, 0.25, 0.16, 0.27, 0.075, 0.11, 0.10),
    "head": (0.32, 0.15, 0.44, 0.22, 0.45, 0.22, 0.22, 0.11),  # length of the face
    "head_r": (0.115, 0.165, 0.17, 0.17, 0.20, 0.10, 0.11, 0.17),
    "snout_r": (0.055, 0.095, 0.085, 0.085, 0.11, 0.018, 0.045, 0.10),
    "drop": (0.14, 0.06, 0.20, 0.06, 0.38, 0.03, 0.04, 0.04),  # nose below head
    "ear": (0.22, 0.14, 0.17, 0.48, 0.16, 0.00, 0.07, 0.09),
    "ear_r": (0.045, 0.055, 0.055, 0.055, 0.080, 0.03, 0.050, 0.065),
    "horn": (0.28, 0.00, 0.00, 0.00, 0.10, 0.12, 0.00, 0.00),
    "tail": (0.16, 0.75, 0.24, 0.14, 0.30, 0.45, 0.62, 0.90),
    "tail_up": (0.05, 0.20, 0.02, 0.25, -0.55, 0.10, 0.02, 0.45),  # rise per unit of length
    "tail_r": (0.055, 0.050, 0.030, 0.095, 0.045, 0.10, 0.080, 0.040),
    "tail_tip": (0.025, 0.050, 0.030, 0.090, 0.060, 0.15, 0.050, 0.045),
    "biped": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    "size": (0.85, 0.92, 0.95, 1.30, 0.85, 1.20, 0.88, 1.00),
}
OWN_SPREAD = {"horn": (0.9, 0.1), "biped": (0.0, 0.0), "size": (0.10, 0.05), "trunk": (0.18, 0.04)}
SPREAD = (0.28, 0.07)  # relative: between the families of an order, between the species of a family

# Coats that animals have: hue (turns), saturation, value.
COATS = {
    "fawn": (0.085, 0.45, 0.75),
    "russet": (0.045, 0.75, 0.68),
    "chestnut": (0.045, 0.60, 0.40),
    "umber": (0.070, 0.45, 0.25),
    "black": (0.650, 0.15, 0.10),
    "slate": (0.600, 0.30, 0.42),
    "ash": (0.100, 0.08, 0.58),
    "cream": (0.120, 0.18, 0.95),
    "ochre": (0.120, 0.75, 0.80),
    "olive": (0.200, 0.50, 0.42),
    "rose": (0.980, 0.38, 0.78),
    "teal": (0.480, 0.42, 0.50),
}
PATTERNS = ("plain", "stripes", "spots", "bands", "patches")
COAT = ("hue", "saturation", "value", "hue2", "saturation2", "value2", "along", "across", "cut", "contrast")
MARKS = ("belly", "socks", "mask")  # how much of the second colour is on belly, legs and head

_HEADS = ("va", "mo", "te", "lu", "ri", "sa", "no", "ke", "pi", "du", "fe", "zo", "ha", "ju", "ba", "ci")
_TAILS = (
    "lis",
    "rax",
    "nor",
    "mus",
    "dra",
    "tis",
    "vel",
    "pha",
    "gon",
    "ska",
    "rin",
    "bel",
    "cor",
    "wen",
    "sto",
    "qua",
)


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Some species. `hierarchy` has one row per species (columns order, family, species); `traits` float32
    [species, traits] is read by name with `of`."""

    hierarchy: pd.DataFrame
    names: tuple[str, ...]
    traits: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.hierarchy.index)

    def of(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return each trait of these species (int [n]) as an array [n]."""
        rows = self.traits[labels]
        return {name: np.ascontiguousarray(rows[:, j]) for j, name in enumerate(self.names)}


def _word(number: int, parts: int) -> str:
    """Return an invented word, a different one for every number below 16^(parts + 1) (its digits, scrambled)."""
    number = number * 1237 % 16 ** (parts + 1)  # odd, so no two meet; neighbours sound unlike
    digits = []
    for position in range(parts + 1):
        digits.append((number * 11 + position * 5) % 16)
        number //= 16
    return "".join(_HEADS[d] for d in digits[:-1]) + _TAILS[digits[-1]]


@lru_cache(maxsize=8)
def make_taxonomy(first: int, count: int, seed: int) -> Taxonomy:
    """Species `first` .. `first + count - 1` of the world with that seed; a species never depends on the others.

    Orders and families are the same in every world; the seed decides the species.
    """
    numbers = np.arange(first, first + count)
    order = numbers % len(ORDERS)
    family = order * FAMILIES + numbers // len(ORDERS) % FAMILIES
    genus = [_word(int(f) + 3, 1) for f in family]
    species = [f"{g}-{_word(int(k), 2)}" for g, k in zip(genus, numbers, strict=True)]
    hierarchy = pd.DataFrame(
        {
            "order": [ORDERS[o] for o in order],
            "family": [f"{g.capitalize()}idae" for g in genus],
            "species": species,
        },
        index=pd.Index(species, name="class"),
    )
    family_ids = mix_bits(family.astype(np.uint64), seed_of("family"))
    species_ids = mix_bits(numbers.astype(np.uint64), seed_of("species", seed))
    traits = {**_shape(order, family_ids, species_ids), **_coat(family_ids, species_ids)}
    return Taxonomy(hierarchy, tuple(traits), np.stack(list(traits.values()), axis=1).astype(F32))


def _shape(order: np.ndarray, family_ids: np.ndarray, species_ids: np.ndarray) -> dict[str, np.ndarray]:
    shape = {}
    for name, by_order in SHAPE.items():
        between, within = OWN_SPREAD.get(name, SPREAD)
        z = np.minimum(np.abs(normal(family_ids, name)), 1.8) * np.sign(normal(family_ids, name))
        factor = (1 + F32(between) * z) * (1 + F32(within) * normal(species_ids, name))
        shape[name] = np.asarray(by_order, F32)[order] * np.maximum(factor, 0)
    return shape


def _coat(family_ids: np.ndarray, species_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return two colours and how the second lies on the first: a wave along the body times one across it, cut at a
    level."""
    palette = np.asarray(list(COATS.values()), F32)

    def pick(count: int, *names: object) -> np.ndarray:
        own = (uniform(species_ids, *names) * count).astype(np.int64)
        shared = (uniform(family_ids, *names) * count).astype(np.int64)
        return np.where(uniform(species_ids, *names, "family's") < 0.25, shared, own)

    first = pick(len(palette), "coat")
    second = (first + 1 + pick(len(palette) - 1, "second coat")) % len(palette)
    pattern = pick(len(PATTERNS), "pattern")
    fine = 1.6 + 1.6 * uniform(species_ids, "frequency")
    by_pattern = {  # cycles along, cycles across, cut, contrast
        "plain": (0.0, 0.0, 4.0, 0.0),
        "stripes": (1.0, 0.0, 0.1, 1.0),
        "spots": (1.1, 1.3, 0.05, 1.0),
        "bands": (0.0, 0.75, 0.1, 1.0),
        "patches": (0.45, 0.40, 0.0, 1.0),
    }
    along, across, cut, contrast = (
        np.asarray(column, F32)[pattern] for column in zip(*by_pattern.values(), strict=True)
    )
    coat = {}
    for suffix, which in (("", first), ("2", second)):
        for j, (name, step) in enumerate((("hue", 0.012), ("saturation", 0.07), ("value", 0.06))):
            coat[name + suffix] = palette[which, j] + F32(step) * normal(species_ids, name, suffix)
    coat |= {"along": along * fine, "across": across * fine, "cut": cut, "contrast": contrast}
    coat["contrast"] = contrast * (0.7 + 0.3 * uniform(species_ids, "contrast"))
    for name, share in zip(MARKS, (0.45, 0.35, 0.35), strict=True):
        coat[name] = (uniform(species_ids, name) < share).astype(F32) * F32(0.85)
    return coat
