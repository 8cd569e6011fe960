"""Where the baseline has no points: gaps in its ID scores, and the groups that lie in them.

Between two baseline points far apart the line is an assumption that no point of the baseline tests.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

COLUMNS = ("id_low", "id_high", "share", "wide", "group", "inside", "of")
WIDE = 0.2  # of the baseline's range on the axis, however many points there are
LEVEL = 0.05
MANY = 0.25  # of a group's points
MOST = 3  # gaps that are listed


def gaps(points: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the widest gaps between neighbouring baseline points, widest first. Columns `COLUMNS`: their ID scores
    (fractions), their `share` of the range on the axis, whether that is `wide`, and a row for every group with how many
    of its points lie inside; the baseline's own row, with none inside, stands for the gap itself. `points` has group,
    id, x."""
    own = points.loc[points["group"] == baseline].sort_values("x")
    x, scores = own["x"].to_numpy(float), own["id"].to_numpy(float)
    length, rows = (np.ptp(x) if len(x) else 0.0), []
    if length <= 0:
        return pd.DataFrame(columns=list(COLUMNS))
    widths, least = np.diff(x), wide(len(x))
    for i in np.argsort(-widths, kind="stable")[:MOST]:
        if widths[i] <= 0:
            continue
        share = widths[i] / length
        inside = (points["x"] > x[i]) & (points["x"] < x[i + 1])
        counts = inside.groupby(points["group"], sort=False).agg(["sum", "size"])
        for group, count, of in counts.itertuples():
            if count or group == baseline:
                rows.append((scores[i], scores[i + 1], share, share >= least, group, int(count), int(of)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def wide(points: int) -> float:
    """Return the share of the range from which a gap counts as wide: what the widest between `points` evenly scattered
    at random exceeds in 5 % of cases at most (the first term of Fisher 1929), or `WIDE`, if that is more."""
    between = points - 1
    chance = 1 - (LEVEL / between) ** (1 / (between - 1)) if between > 1 else 1.0
    return max(WIDE, chance)


def bridged(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of groups of which a good part lies in a wide gap."""
    return table.loc[table["wide"].astype(bool) & (table["inside"] >= np.maximum(MANY * table["of"], 1))]
