"""The axes that lines are fitted on: probit, logit, linear, and the rule that moves scores off 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri

PP = 100.0  # scores are fractions, effective robustness is in percentage points
UNKNOWN_EXAMPLES = 1_000  # the size of a split that is not known: scores are then clipped at 1/2000


@dataclass(frozen=True)
class Scale:
    """A monotone map h from a score in (0, 1) to the axis that lines are fitted on, its inverse, and `rate`, the
    inverse's derivative: score per unit of the axis."""

    name: str
    h: Callable[[ArrayLike], np.ndarray]
    inverse: Callable[[ArrayLike], np.ndarray]
    rate: Callable[[ArrayLike], np.ndarray]
    bounded: bool  # h is infinite at 0 and 1, so scores there are clipped

    def of(self, scores: ArrayLike, examples: int | None = None) -> np.ndarray:
        """Return scores on this axis, clipped by `clip` where h needs it; `examples` is the size of their split, if
        known."""
        return self.h(clip(scores, examples) if self.bounded else np.asarray(scores, float))


def _same(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, float)


def _normal_density(z: ArrayLike) -> np.ndarray:
    return np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)


def _logistic_density(z: ArrayLike) -> np.ndarray:
    return expit(z) * expit(-np.asarray(z, float))


def _one(values: ArrayLike) -> np.ndarray:
    return np.ones_like(values, dtype=float)


SCALES = {
    "probit": Scale("probit", ndtri, ndtr, _normal_density, True),
    "logit": Scale("logit", logit, expit, _logistic_density, True),
    "linear": Scale("linear", _same, _same, _one, False),
}


def clip(scores: ArrayLike, examples: int | np.ndarray | None) -> np.ndarray:
    """Return scores moved off 0 and 1 by half of one example of their split, float [n].

    A model that gets none (or all) of m examples right is shown at 1/(2m) (or 1 - 1/(2m)), the usual continuity
    correction; probit and logit have no value at 0 and 1, and leaving such points out would bend the line.
    """
    half = 0.5 / (UNKNOWN_EXAMPLES if examples is None else examples)
    return np.clip(np.asarray(scores, float), half, 1 - half)
