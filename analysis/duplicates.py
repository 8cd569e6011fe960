"""ER with and without the test images that occur elsewhere too.

`study.analyse_all` keeps the analysis without them beside the first as `Analysis.without_duplicates`, so that any claim
can be looked up there.
"""

from __future__ import annotations

import pandas as pd

from analysis.study import Analysis

COLUMNS = ("group", "er", "er_low", "er_high", "er_without", "er_without_low", "er_without_high", "change")


def with_and_without(analysis: Analysis) -> pd.DataFrame:
    """Return the mean ER of every group with and without affected test images, percentage points, columns `COLUMNS`;
    empty where no test image is affected. NaN where ER cannot be given."""
    without = analysis.without_duplicates
    if without is None:
        return pd.DataFrame(columns=list(COLUMNS))
    er = ["er", "er_low", "er_high"]
    renamed = {name: f"er_without{name.removeprefix('er')}" for name in er}
    there = without.groups[["group", *er]].rename(columns=renamed)
    both = analysis.groups[["group", *er]].merge(there, on="group", how="left")
    return both.assign(change=both["er_without"] - both["er"])[list(COLUMNS)]
