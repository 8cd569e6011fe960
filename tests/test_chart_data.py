"""What charts draw, as JSON's own types."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.report.chart_data import records


def test_rows_are_of_json_s_own_types():
    rows = pd.DataFrame(
        {"n": [1, 2], "er": [0.1234567, np.nan], "name": ["a", None], "out": [True, False]}, index=[5, 9]
    )
    made = records(rows)
    assert made == [
        {"n": 1.0, "er": 0.12346, "name": "a", "out": True},
        {"n": 2.0, "er": None, "name": None, "out": False},
    ]
    assert [type(value) for value in made[0].values()] == [float, float, str, bool]
    assert records(rows[[]]) == [{}, {}]  # a row is there though nothing of it is shown
    assert records(rows.iloc[:0]) == []
