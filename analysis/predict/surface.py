"""A response surface over a few numbers: a plane plus a smooth deviation from it.

Owns `fit` and `Surface` (its value anywhere, with intervals), and `cross_validate`, which leaves whole mixtures out and
asks whether the surface predicts them better than the mean of the others does. Knows nothing of what the numbers mean.

The model is a Gaussian process (Rasmussen and Williams 2006, chapter 2): y_i = h(x_i) b + f(x_i) + e_i, where h is the
plane (over shares that sum to one: Scheffe's 1958 polynomial of first degree), f a normal process with covariance
s2 r exp(-|x - x'|^2 / (2 l^2)), and e_i normal with variance s2 / m_i, the mean of m_i trials. The plane's coefficients
have a flat prior and s2 the prior 1/s2, so both are integrated out in closed form: Student's t, whose n - p degrees of
freedom are joined by those of the spread between trials of one mixture. The two numbers left, the length l and the
ratio r of signal to noise, are not estimated but averaged over a grid, each pair weighted by its marginal likelihood:
so intervals also hold what is not known about them, and there is no optimiser that could get stuck. r = 0, the plane
alone, is on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from analysis.stats.estimates import TWO_SIDED

LENGTHS = (0.3, 0.5, 0.8, 1.3)  # in units of the tried range
RATIOS = (0.0, *np.geomspace(1.0, 1_000.0, 7).tolist())
FOLDS = 10
PERMUTATIONS = 199
SPARE = 4  # rows beyond the plane's coefficients that a fit needs
NEGLIGIBLE = 1e-4  # of the weight on the grid


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One pair of length and ratio, with everything that does not depend on the values.

    inverse  float [n, n], of the scaled covariance of z = sqrt(m) y; `pulled` [n, p] is it times the plane
    plane    float [p, n], what gives the plane's coefficients from z
    gain     float [n, n], what gives the deviation's weights from z
    spread   float [p, p], covariance of the coefficients over s2
    penalty  the part of the log marginal likelihood that the values have no share in
    """

    length: float
    ratio: float
    inverse: np.ndarray
    pulled: np.ndarray
    plane: np.ndarray
    gain: np.ndarray
    spread: np.ndarray
    penalty: float


def _plane(x: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), (x - centre) @ axes])


def _kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    square = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return np.exp(-np.maximum(square, 0) / (2 * length**2))


def _axes(x: np.ndarray) -> np.ndarray:
    """Orthonormal directions in which the rows of x differ, float [d, k]: numbers never varied apart are one."""
    _, size, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return directions[size > 1e-6 * max(size.max(initial=0.0), 1e-300)].T


def rank(x: np.ndarray) -> int:
    """Return how many coefficients the plane over x [n, d] has, the constant included."""
    return 1 + _axes(x).shape[1]


def _candidates(x: np.ndarray, counts: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> list[_Candidate]:
    root, fits = np.sqrt(counts), []
    design = root[:, None] * _plane(x, centre, axes)
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(root[:, None] * _kernel(x, x, length) * root)
        values = np.maximum(values, 0.0)
        turned = vectors.T @ design
        for ratio in RATIOS if length == LENGTHS[0] else RATIOS[1:]:  # without a deviation no length means anything
            shrink = 1 / (1 + ratio * values)
            square = turned.T @ (shrink[:, None] * turned)
            spread = np.linalg.inv(square)
            inverse = (vectors * shrink) @ vectors.T
            plane = spread @ design.T @ inverse
            gain = inverse - inverse @ design @ plane
            penalty = -0.5 * (np.log1p(ratio * values).sum() + np.linalg.slogdet(square)[1])
            fits.append(_Candidate(length, ratio, inverse, inverse @ design, plane, gain, spread, penalty))
    return fits


def _weigh(candidates: list[_Candidate], z: np.ndarray, within: float, df: float) -> tuple[np.ndarray, np.ndarray]:
    """Posterior weight of every candidate and its s2, float [candidates, columns] each, for z [n, columns]."""
    squares = np.array([np.einsum("ij,ij->j", z, c.gain @ z) for c in candidates]) + within
    squares = np.maximum(squares, 1e-300)
    logs = np.array([[c.penalty] for c in candidates]) - df / 2 * np.log(squares)
    weights = np.exp(logs - logs.max(0))
    return weights / weights.sum(0), squares / df


@dataclass(frozen=True, eq=False)
class Values:
    """The surface at some places: `value`, and its standard error `se` with `df` degrees of freedom.

    smoother  float [m, n]: every value is this times the fitted values, so whatever else moves those moves it
    """

    value: np.ndarray
    se: np.ndarray
    df: float
    smoother: np.ndarray

    def interval(self, level: float = TWO_SIDED) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper ends, at that quantile on each side."""
        reach = stdtrit(self.df, level) * self.se
        return self.value - reach, self.value + reach


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted surface over x [n, d]. `noise` is the standard deviation of one trial around it."""

    x: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    noise: float
    df: float
    _centre: np.ndarray
    _axes: np.ndarray
    _parts: tuple[tuple[float, float, _Candidate], ...]  # weight, s2, candidate

    def at(self, x: np.ndarray) -> Values:
        """Return the surface at places x [m, d]: the true mean over trials, not one new trial."""
        value, smoother = self._means(x)
        return Values(value, np.sqrt(self.covariance(x)), self.df, smoother)

    def covariance(self, a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        """Return squared standard errors at a, float [m]; with b the covariances of a with it, float [m, k]."""
        total, plane = 0.0, _plane(a, self._centre, self._axes)
        mean_a, mean_b = self._means(a)[0], None if b is None else self._means(b)[0]
        for weight, s2, c in self._parts:
            over_a = self._over(a, c)
            rest_a = plane - over_a @ c.pulled
            own = self._values_of(a, c)
            if b is None or mean_b is None:
                part = c.ratio - np.einsum("ij,ij->i", over_a @ c.inverse, over_a)
                part = np.maximum(part, 0) + np.einsum("ij,jk,ik->i", rest_a, c.spread, rest_a)
                apart = (own - mean_a) ** 2
            else:
                over_b = self._over(b, c)
                rest_b = _plane(b, self._centre, self._axes) - over_b @ c.pulled
                part = c.ratio * _kernel(a, b, c.length) - over_a @ c.inverse @ over_b.T + rest_a @ c.spread @ rest_b.T
                apart = np.outer(own - mean_a, self._values_of(b, c) - mean_b)
            # a t's variance is s2 df / (df - 2); taken back at the end, so that `se` goes with Student's t
            total = total + weight * (s2 * part + apart * (self.df - 2) / self.df)
        return np.asarray(total)

    def _over(self, x: np.ndarray, c: _Candidate) -> np.ndarray:
        return c.ratio * _kernel(x, self.x, c.length) * np.sqrt(self.counts)

    def _smoother(self, x: np.ndarray, c: _Candidate) -> np.ndarray:
        own = _plane(x, self._centre, self._axes) @ c.plane + self._over(x, c) @ c.gain
        return own * np.sqrt(self.counts)

    def _values_of(self, x: np.ndarray, c: _Candidate) -> np.ndarray:
        return self._smoother(x, c) @ self.y

    def _means(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        smoother = sum(weight * self._smoother(x, c) for weight, _, c in self._parts)
        return smoother @ self.y, np.asarray(smoother)


def fit(x: np.ndarray, y: np.ndarray, counts: np.ndarray, within: float = 0.0, df_within: float = 0.0) -> Surface:
    """Return the surface through y [n] at places x [n, d], each the mean of so many trials (`counts` [n]).

    within, df_within   the sum of squares of trials around their own means, and its degrees of freedom
    Raises ValueError where there are too few rows for the plane (see `SPARE`).
    """
    if len(x) < rank(x) + SPARE:
        raise ValueError(f"{len(x)} rows for {rank(x)} coefficients")
    centre, axes = x.mean(0), _axes(x)
    return _fitted(x, y, counts, within, df_within, centre, axes, _candidates(x, counts, centre, axes))


def _fitted(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, within: float, df_within: float, centre: np.ndarray,
    axes: np.ndarray, candidates: list[_Candidate],
) -> Surface:  # fmt: skip
    df = len(x) - 1 - axes.shape[1] + df_within
    z = (np.sqrt(counts) * y)[:, None]
    weights, s2 = (column[:, 0] for column in _weigh(candidates, z, within, df))
    weighty = weights > NEGLIGIBLE
    weights = weights / weights[weighty].sum()
    parts = tuple((float(weights[i]), float(s2[i]), candidates[i]) for i in np.flatnonzero(weighty))
    noise = float(np.sqrt(sum(w * s for w, s, _ in parts)))
    return Surface(x, y, counts, noise, df, centre, axes, parts)


@dataclass(frozen=True, eq=False)
class Check:
    """How well places are predicted that the surface has not seen, and whether that is more than luck.

    predicted  float [n], each from the other mixtures; low, high its 95 % interval for what was measured there
    error      root mean squared error over the rows, weighted by trials; `of_mean` the same of the others' mean
    skill      1 - (error / of_mean)^2
    p          how often values dealt at random over the mixtures are predicted as well
    """

    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float
    of_mean: float
    p: float

    @property
    def skill(self) -> float:
        """The share of the mean's squared error that the surface removes, on mixtures left out."""
        return 1 - (self.error / self.of_mean) ** 2 if self.of_mean > 0 else 0.0

    @property
    def trusted(self) -> bool:
        """Whether it predicts better than the mean, at 5 %."""
        return self.skill > 0 and self.p <= 0.05


def cross_validate(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, within: float = 0.0, df_within: float = 0.0, seed: int = 0
) -> Check:
    """Leave some mixtures out (all rows at one place together), fit everything anew, predict them; `FOLDS` times.

    The same is done with the values dealt out anew at random among the rows, `PERMUTATIONS` times (Fisher 1935): that
    costs little, because nothing but a candidate's weight depends on the values.
    """
    random = np.random.default_rng(seed)
    places, place = np.unique(x.round(9), axis=0, return_inverse=True)
    folds = random.permutation(len(places)) % min(FOLDS, len(places))
    dealt = np.column_stack([y, *(random.permutation(y) for _ in range(PERMUTATIONS))])
    predicted, of_mean, reach = np.empty_like(dealt), np.empty_like(dealt), np.full(len(y), np.nan)
    for fold in range(folds.max() + 1):
        out = folds[place.ravel()] == fold
        rest = ~out
        of_mean[out] = (counts[rest] @ dealt[rest]) / counts[rest].sum()
        if rest.sum() < rank(x[rest]) + SPARE:
            predicted[out] = of_mean[out]
            continue
        centre, axes = x[rest].mean(0), _axes(x[rest])
        root = np.sqrt(counts[rest])
        candidates = _candidates(x[rest], counts[rest], centre, axes)
        df = rest.sum() - 1 - axes.shape[1] + df_within
        z = root[:, None] * dealt[rest]
        weights, _ = _weigh(candidates, z, within, df)
        plane = _plane(x[out], centre, axes)
        predicted[out] = sum(
            (plane @ c.plane + c.ratio * _kernel(x[out], x[rest], c.length) * root @ c.gain) @ (z * w)
            for c, w in zip(candidates, weights, strict=True)
        )
        surface = _fitted(x[rest], y[rest], counts[rest], within, df_within, centre, axes, candidates)
        spread = np.sqrt(surface.covariance(x[out]) + surface.noise**2 / counts[out])
        reach[out] = stdtrit(surface.df, TWO_SIDED) * spread
    error = np.sqrt(counts @ (dealt - predicted) ** 2 / counts.sum())
    mean_error = np.sqrt(counts @ (dealt - of_mean) ** 2 / counts.sum())
    ratio = error / np.maximum(mean_error, 1e-300)
    p = float(np.mean(ratio <= ratio[0] * (1 + 1e-12)))  # the measured order counts as one of them
    own = predicted[:, 0]
    return Check(own, own - reach, own + reach, float(error[0]), float(mean_error[0]), p)
