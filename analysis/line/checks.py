"""Is the baseline's line a line? `check_line(points, options) -> LineChecks`: the assumptions that ER rests on.

Owns the checks of the baseline's points (does it rise, does it bend, is ID measured well, do epoch or learning rate
move points off the line, does the scatter grow, where are there no points), their tables and a plain sentence for each
that fails. All tests are clustered by trial with few-cluster corrections (`least_squares`). Which claims survive is
decided elsewhere; nothing here changes an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.line import gaps
from analysis.line.line_checks import NOISE, OTHERS, RESIDUALS, SCHEDULE, STEPS, TESTS, LineChecks
from analysis.line.verdicts import verdicts
from analysis.options import Options
from analysis.scales import PP, SCALES, Scale
from analysis.stats import curvature, reliability
from analysis.stats.contrasts import holm
from analysis.stats.estimates import Estimate
from analysis.stats.least_squares import ClusteredFit, least_squares
from analysis.stats.robustness import effective_robustness
from analysis.stats.trend import MIN_POINTS
from analysis.stats.wald import Wald

LEVEL = 0.05
MOST_STEPS = 16  # epochs or rates with a row of their own; more are put together
MOST_CLUSTERS = 2_000  # trials that are tested one by one; more go in so many blocks
MOST_TESTED = 6  # steps that are tested as categories; more cost more trials than there are
BINS = 6  # of ID scores, for the scatter


def check_line(
    points: pd.DataFrame, options: Options, slope: tuple[float, float, float] | None = None
) -> LineChecks | None:
    """Return the checks of the line through the points of `options.baseline`; None where there is no line.

    `slope` is that of the line and the ends of its interval, where more than its trials is known to move it.

    `points` of all groups have trial, group, id, ood, x, y and the columns `options.axes` (see `stats.transform`);
    epoch, finetune_lr, metric and, per ID set, `<set>_images` or `<set>_variance` (see `reliability`) are read where
    they are there.
    """
    own = points.loc[(points["group"] == options.baseline).to_numpy()].reset_index(drop=True)
    scale, axes = SCALES[options.scale], own[list(options.axes)].to_numpy(float)
    if len(own) < MIN_POINTS:
        return None
    clusters, y = _clusters(own["trial"]), own["y"].to_numpy(float)
    line = least_squares(np.column_stack([np.ones(len(own)), axes]), y, clusters)
    if line is None:
        return None
    fitted = line.fitted
    residuals = own.reindex(columns=list(RESIDUALS)).assign(
        id=own["id"], residual=effective_robustness(own["ood"], fitted, scale)
    )
    bent = curvature.bend(own["x"].to_numpy(float), axes, y, clusters, scale)
    steps = {name: step for name in STEPS if (step := _step(own, name)) is not None}
    tests = _tests([
        *_slope(line, scale.inverse(fitted), slope),
        *(_curvature(bent) if bent else ()),
        *(row for name, step in steps.items() for row in _moves(name, step, line, y, scale)),
        *_scatter(line, own["x"].to_numpy(float)),
    ])  # fmt: skip
    checks = LineChecks(
        tests,
        bent.curve if bent else pd.DataFrame(columns=list(curvature.CURVE)),
        (bent.bend, bent.at) if bent else None,
        pd.concat([_by_step(name, step, residuals, clusters) for name, step in steps.items()] or
                  [pd.DataFrame(columns=list(SCHEDULE))], ignore_index=True),
        _others(points, options.baseline),
        gaps.gaps(points, options.baseline),
        reliability.reliabilities(own, options.ids, options.axes, scale),
        _noise(own, line, residuals),
        residuals,
    )  # fmt: skip
    return replace(checks, verdicts=verdicts(checks, own, line, options))


def _tests(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Holm's p within each check: one that asks three times is right no less often."""
    table = pd.DataFrame(rows, columns=list(TESTS[:-2]))
    table["p"] = table["p"].astype(float)
    table["p_adjusted"] = table.groupby("check", sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    return table.assign(fails=(table["p_adjusted"] <= LEVEL) & (table["check"] != "slope"))


def _single(check: str, test: str, estimate: Estimate, unit: str) -> dict[str, object]:
    f = (estimate.value / estimate.se) ** 2 if estimate.se > 0 else np.nan
    return {"check": check, "test": test, "value": estimate.value, "low": estimate.low, "high": estimate.high,
            "unit": unit, "f": f, "df1": 1.0, "df2": estimate.df, "p": estimate.p}  # fmt: skip


def _joint(check: str, test: str, wald: Wald) -> dict[str, object]:
    return {"check": check, "test": test, "f": wald.f, "df1": wald.df1, "df2": wald.df2, "p": wald.p}


def _slope(
    line: ClusteredFit, expected: np.ndarray, slope: tuple[float, float, float] | None
) -> Iterator[dict[str, object]]:
    """The sum of the slopes (of one ID set: the slope), and how far the line rises in points of the OOD score."""
    row = _single("slope", "slope", line.estimate(np.array([0.0] + [1.0] * (line.design.shape[1] - 1))), "axis")
    if slope is not None:
        row |= {
            "value": slope[0],
            "low": slope[1],
            "high": slope[2],
            "f": np.nan,
            "df1": np.nan,
            "df2": np.nan,
            "p": np.nan,
        }
    yield row
    yield {"check": "slope", "test": "rise over the ID range", "value": PP * float(np.ptp(expected)), "unit": "points"}


def _curvature(bent: curvature.Bend) -> Iterator[dict[str, object]]:
    yield _single("curvature", "square of ID", bent.bend, "points")
    names = {"spline": "natural cubic spline", "RESET": "RESET (square and cube)"}
    yield from (_joint("curvature", names[name], joint) for name, joint in bent.joint.items())


def _step(own: pd.DataFrame, name: str) -> np.ndarray | None:
    """Epoch, or log10 of the learning rate, of every point [points]; None where it is not known or does not vary."""
    if name not in own:
        return None
    values = pd.to_numeric(own[name], errors="coerce").to_numpy(float)
    if name == "finetune_lr":
        values = np.log10(np.where(values > 0, values, np.nan))
    return values if np.isfinite(values).all() and np.ptp(values) > 1e-9 else None


def _moves(name: str, step: np.ndarray, line: ClusteredFit, y: np.ndarray, scale: Scale) -> Iterator[dict[str, object]]:
    """Does it move points off the line? As a straight line, which few trials can show, and as categories.

    A parabola is let in beside: scores rise along the schedule, and a bend would else pass for its effect. The other
    step is not: epoch and rate together all but fix the score, and nothing would be left to see.
    """
    height = line.fitted
    bent = np.column_stack([line.design, (height - height.mean()) ** 2])
    base = bent if least_squares(np.column_stack([bent, step]), y, line.clusters.codes) is not None else line.design
    k = base.shape[1]
    more = least_squares(np.column_stack([base, step]), y, line.clusters.codes)
    if more is not None:
        slope = more.coefficient(k)
        rate = PP * float(scale.rate(height).mean())
        points = Estimate(slope.value * rate, slope.se * rate, slope.df)
        unit = "points per epoch" if name == "epoch" else "points per tenfold"
        yield _single("schedule", f"{STEPS[name]}, straight", points, unit)
    levels = np.unique(step)
    if 3 <= len(levels) <= MOST_TESTED:
        apart = least_squares(np.column_stack([base, step[:, None] == levels[1:]]), y, line.clusters.codes)
        if apart is not None:
            yield _joint("schedule", f"{STEPS[name]}, any level", apart.joint(range(k, k + len(levels) - 1)))


def _scatter(line: ClusteredFit, x: np.ndarray) -> Iterator[dict[str, object]]:
    """Glejser (1969): sizes of residuals regressed on the ID axis. The value is per length of the range, as a share of
    the mean size."""
    size = np.abs(_within(line))
    if size.mean() <= 1e-12:
        return
    of_size = least_squares(
        np.column_stack([np.ones(len(x)), (x - x.min()) / np.ptp(x)]), size / size.mean(), line.clusters.codes
    )
    if of_size is not None:
        yield _single("scatter", "size of residuals along ID", of_size.coefficient(1), "mean size")


def _within(line: ClusteredFit) -> np.ndarray:
    """Residuals around each trial's own height where trials have several points: what a trial adds to all of its points
    would hide how they scatter. Else those of the line."""
    size = np.bincount(line.clusters.codes)
    if len(size) > len(line.clusters.codes) / 3:
        return line.residuals
    both = np.column_stack([line.design[:, 1:], line.residuals])
    means = np.column_stack([np.bincount(line.clusters.codes, column) / size for column in both.T])
    inside = both - means[line.clusters.codes]
    return inside[:, -1] - inside[:, :-1] @ np.linalg.lstsq(inside[:, :-1], inside[:, -1], rcond=None)[0]


def _clusters(trials: pd.Series) -> np.ndarray:
    """The number of every point's trial, int [points]; very many are dealt at random into blocks."""
    codes, labels = pd.factorize(trials)
    if len(labels) > MOST_CLUSTERS:
        codes = (np.random.default_rng(0).permutation(len(labels)) % MOST_CLUSTERS)[codes]
    return codes


def _by_step(name: str, step: np.ndarray, residuals: pd.DataFrame, clusters: np.ndarray) -> pd.DataFrame:
    """Mean residual at every epoch or rate; of very many, of so many equal parts of the range."""
    levels = np.unique(step)
    if len(levels) > MOST_STEPS:
        edges = np.linspace(levels[0], levels[-1], MOST_STEPS + 1)
        part = np.clip(np.searchsorted(edges, step, "right") - 1, 0, MOST_STEPS - 1)
    else:
        part = np.searchsorted(levels, step)
    y, rows = residuals["residual"].to_numpy(float), []
    for one in np.unique(part):
        inside = part == one
        codes = np.unique(clusters[inside], return_inverse=True)[1]
        mean = least_squares(np.ones((int(inside.sum()), 1)), y[inside], codes)
        estimate = mean.estimate(np.ones(1)) if mean else Estimate(float(y[inside].mean()), np.nan, np.nan)
        value = float(step[inside].mean())
        rows.append((STEPS[name], 10**value if name == "finetune_lr" else value, int(inside.sum()), codes.max() + 1,
                     estimate.value, estimate.low, estimate.high))  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCHEDULE))


def _others(points: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How every group was fine-tuned, as text, beside the baseline."""
    steps = [name for name in STEPS if name in points and points[name].notna().any()]
    sets = {
        group: {name: sorted({float(v) for v in pd.to_numeric(own[name], errors="coerce").dropna()}) for name in steps}
        for group, own in points.groupby("group", sort=False)
    }
    first, rows = sets.get(baseline, {}), []
    for group, own in sets.items():
        other = [bool(own.get(name)) and own[name] != first.get(name) for name in STEPS]
        rows.append((group, _several(own.get("epoch", [])), _several(own.get("finetune_lr", [])), *other))
    return pd.DataFrame(rows, columns=list(OTHERS)) if steps else pd.DataFrame(columns=list(OTHERS))


def _several(values: Sequence[float]) -> str:
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts) if len(texts) <= 6 else f"{len(texts)} values from {texts[0]} to {texts[-1]}"


def _noise(own: pd.DataFrame, line: ClusteredFit, residuals: pd.DataFrame) -> pd.DataFrame:
    """The scatter in parts of the ID range that hold equally many points."""
    parts = min(BINS, len(own) // 5)
    if parts < 2:
        return pd.DataFrame(columns=list(NOISE))
    place = np.argsort(np.argsort(own["x"].to_numpy(float), kind="stable")) * parts // len(own)
    lost, within = len(own) / max(len(own) - line.design.shape[1], 1), _within(line)
    rows = []
    for part in range(parts):
        inside = place == part
        square = (residuals["residual"].to_numpy(float)[inside] ** 2).mean() * lost
        on_axis = (line.residuals[inside] ** 2).mean() * lost
        scores, near = own["id"][inside], float((within[inside] ** 2).mean() ** 0.5)
        rows.append((scores.min(), scores.max(), int(inside.sum()), square**0.5, on_axis**0.5, near))
    return pd.DataFrame(rows, columns=list(NOISE))
