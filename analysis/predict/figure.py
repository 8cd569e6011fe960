"""The figure of a prediction: ER along every varied parameter through the best mixture, inside the tried region only;
predicted against measured ER of mixtures left out; and a larger run, where there is one.

Owns the curves; the surface is `predict`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.formatting import LOCALE
from analysis.predict.mixtures import NUMBERS, Mixture, Space
from analysis.predict.predict import Confirmation, Prediction, Target
from analysis.report.charts import Layers
from analysis.report.figures import draw

CURVE, GREY = "#0077bb", "#8a909a"
STEPS = 33
SIZE = {"width": 250, "height": 190}


def curves(prediction: Prediction) -> dict[str, pd.DataFrame]:
    """Return ER along every varied number and share, columns value, er, low, high: from the best mixture along that
    parameter, as far as the tried region goes. A share grows at the expense of the others in their proportion (Cox
    1971)."""
    space, best, er = prediction.space, prediction.best, prediction.targets["er"]
    assert space is not None
    assert best is not None
    panels = {}
    sources = space.sources[:1] if len(space.sources) == 2 else space.sources  # of two, one says the other
    for name in (*space.numbers, *sources):
        along = [(value, m) for value, m in _along(name, best, space) if space.inside(m)]
        if len(along) > 1:
            value, low, high = er.at(space.at([m for _, m in along]))
            panels[name] = pd.DataFrame({"value": [v for v, _ in along], "er": value, "low": low, "high": high})
    return panels


def _along(name: str, best: Mixture, space: Space) -> Iterator[tuple[float, Mixture]]:
    if name in space.numbers:
        for value in np.unique(np.geomspace(*space.numbers[name], STEPS).round().astype(int)):
            changed: dict[str, Any] = {NUMBERS[name]: int(value)}
            yield float(value), replace(best, **changed)
        return
    held = [m.share(name) for m in space.tried]
    others = {source: best.share(source) for source in space.sources if source != name}
    rest = sum(others.values())
    for share in np.linspace(min(held), max(held), STEPS):
        parts = {s: (1 - share) * (p / rest if rest > 0 else 1 / len(others)) for s, p in others.items()}
        yield float(share), replace(best, shares=tuple({name: float(share), **parts}.items()))


def figure(prediction: Prediction, confirmation: Confirmation | None) -> alt.ConcatChart:
    """Return the figure: all panels, two to a row; ER in percentage points on every vertical axis."""
    space, er = prediction.space, prediction.targets["er"]
    assert space is not None
    panels = [_trace(name, curve, prediction, er) for name, curve in curves(prediction).items()]
    pairs = pd.DataFrame({"predicted": er.check.predicted, "measured": er.values})
    vertical = f"ER, {prediction.mark}" if prediction.mark else "ER measured"
    panels.append(_against(pairs, "predicted, the mixture left out", vertical, diagonal=True))
    if confirmation is not None:
        pairs = confirmation.table[["predicted", "observed"]].rename(columns={"observed": "measured"})
        panels.append(_against(pairs, f"ER predicted at {confirmation.reference:,} images", "ER in the larger run"))
    assert prediction.best is not None
    title = alt.Title("ER through the best mixture inside the tried region", subtitle=space.describe(prediction.best))
    return (
        alt.concat(*panels, columns=2, title=title)
        .configure(background="white", font="sans-serif", locale=LOCALE)
        .configure_view(stroke=None)
    )


def _trace(name: str, curve: pd.DataFrame, prediction: Prediction, er: Target) -> Layers:
    space = prediction.space
    assert space is not None
    number = name in space.numbers
    kind = alt.Scale(type="log" if number else "linear", nice=False, zero=False)
    x = alt.X(
        "value:Q",
        title=name if number else f"share of {name}",
        scale=kind,
        axis=alt.Axis(format="~s" if number else ".0%", tickCount=5),
    )
    base, title = alt.Chart(curve), "ER, percentage points"
    band = base.mark_area(color=CURVE, opacity=0.2).encode(x, alt.Y("low:Q", title=title), alt.Y2("high:Q"))
    line = base.mark_line(color=CURVE, strokeWidth=2).encode(x, alt.Y("er:Q", title=title))
    at = [float(getattr(m, NUMBERS[name])) if number else m.share(name) for m in prediction.mixtures]
    spots = alt.Chart(pd.DataFrame({"value": at, "er": er.values})).mark_point(filled=True, color=GREY, opacity=0.7)
    return alt.layer(band, line, spots.encode(x, alt.Y("er:Q", title=title))).properties(**SIZE)


def _against(pairs: pd.DataFrame, x: str, y: str, diagonal: bool = False) -> Layers:
    limits = [float(pairs.min().min()), float(pairs.max().max())]
    room = max(0.05 * (limits[1] - limits[0]), 0.1)
    domain = (
        alt.Scale(domain=[math.floor(limits[0] - room), math.ceil(limits[1] + room)])
        if diagonal
        else alt.Scale(zero=False)
    )
    spots = alt.Chart(pairs).mark_point(filled=True, color=CURVE, size=50, opacity=0.8)
    spots = spots.encode(alt.X("predicted:Q", title=x, scale=domain), alt.Y("measured:Q", title=y, scale=domain))
    layers = [spots]
    if diagonal:
        ends = alt.Chart(pd.DataFrame({"predicted": domain["domain"], "measured": domain["domain"]}))
        layers.insert(0, ends.mark_line(color=GREY, strokeDash=[4, 4]).encode(x="predicted:Q", y="measured:Q"))
    return alt.layer(*layers).properties(**SIZE)


def exported(prediction: Prediction, confirmation: Confirmation | None = None) -> dict[str, bytes]:
    """Return prediction.svg, .png (2x) and .pdf, on white. Raises NotDrawn."""
    files = draw(figure(prediction, confirmation).to_dict(validate=False))
    return {f"prediction.{ending}": content for ending, content in files.items()}
