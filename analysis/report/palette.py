"""Colour and shape of every group and of every kind of finding, the same in all figures and in the page's tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.study import Analysis

BASELINE_COLOUR = "#8a909a"
# Paul Tol's "vibrant" set and two more: distinct for colour-blind eyes, readable on white and on near-black.
COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33a0dd", "#ee3377", "#a97b3d", "#8f6fc9")
RAMP = ("#5a67b8", "#2f8aa8", "#25a884", "#7dbb42", "#d6a800")  # for levels of an ordered factor, low to high
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
STATE_STYLES = {
    "differs": ("#00917f", "circle"),
    "equivalent": ("#3b82c4", "square"),
    "fragile": ("#b5537a", "triangle-down"),
    "open": ("#b08a1e", "diamond"),
}
BASELINE_SHAPE = "circle"


@dataclass(frozen=True)
class GroupStyle:
    """Colour and shape of a group, the same in every figure."""

    group: str
    colour: str
    shape: str


def group_styles(analysis: Analysis) -> list[GroupStyle]:
    """Return one style per group, in the order of the report: the baseline grey, levels of an ordered factor as a
    ramp."""
    names = [name for name in analysis.groups["group"] if name != analysis.options.baseline]
    colours = _ramp(len(names)) if _ordered(analysis) else [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    # every round of colours begins one shape later, so that the ninth group is no twin of the first
    shapes = [SHAPES[(i + 1 + i // len(COLOURS)) % len(SHAPES)] for i in range(len(names))]
    others = [GroupStyle(*style) for style in zip(names, colours, shapes, strict=True)]
    has_baseline = len(names) < len(analysis.groups)
    return ([GroupStyle(analysis.options.baseline, BASELINE_COLOUR, BASELINE_SHAPE)] if has_baseline else []) + others


def _ordered(analysis: Analysis) -> bool:
    """Whether the groups are levels of numbers, low to high."""
    return any(factor.per == "tenfold" for factor in analysis.factors)


def _ramp(count: int) -> list[str]:
    """That many colours along `RAMP`."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP], float)
    at = np.linspace(0, len(RAMP) - 1, count) if count > 1 else np.array([len(RAMP) - 1.0])
    mixed = np.column_stack([np.interp(at, np.arange(len(RAMP)), anchors[:, i]) for i in range(3)]).round().astype(int)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed]
