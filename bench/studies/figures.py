"""The figures of reports that README shows: docs/figure_photographs.png and figure_rendered.png.

A figure is the report's own trend.png, on white, so that it reads in a light and in a dark page alike.
"""

from __future__ import annotations

from pathlib import Path

from bench.studies.document import PHOTOS
from bench.studies.record import entry_of
from ray_robust.errors import UserError
from ray_robust.run.run_folder import RunFolder

FIGURE = "report/trend.png"
TARGETS = {
    True: "docs/figure_photographs.png",
    False: "docs/figure_rendered.png",
}


def copy_figure(address: str, root: Path, name: str = "") -> str:
    """Copy the figure of a run's report to where README shows it; return that path. Raises UserError for a run whose
    report has none."""
    name = name or entry_of(address)[0]
    picture = RunFolder(address).read_bytes(FIGURE)
    if picture is None:
        raise UserError(f"{address}: has no {FIGURE}; run python -m analysis on it")
    target = TARGETS[name.startswith(PHOTOS)]
    (root / target).write_bytes(picture)
    return target
