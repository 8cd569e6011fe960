"""Durations for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return `5 s`, `12 min`, `3 h`, `2 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def duration_range(least: float, most: float) -> str:
    """Return `68 to 95 s` or `90 s to 3 min`; one duration where both are written alike."""
    low, high = duration(least), duration(most)
    if low == high:
        return low
    (number, unit), same = low.split(), high.split()[1]
    return f"{number if unit == same else low} to {high}"
