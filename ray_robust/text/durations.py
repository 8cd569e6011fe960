"""Durations for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return `5 s`, `12 min`, `3 h`, `2 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
