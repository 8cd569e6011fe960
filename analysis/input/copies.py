"""What is in a table more than once: rows, rows under other names, columns.

Owns `without_copies` (rows that are equal in every column count once), `same_scores` (rows that only other columns tell
apart are one cluster, so that copies never narrow an interval), `across_groups` and `same_columns` (ID and OOD scores
that are one another's copies). Copies are counted and reported, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.input.csv_file import Remarks
from ray_robust.text.names import count_noun, quoted

EQUAL = 1e-9  # of fractions; scores are seldom given with more digits
STRAIGHT = 1e-6  # share of the variance that a straight function of another column may leave, all of it by rounding
MOST_DIGITS = 9
CHANCE = 0.1  # of rows that score as another of their group
MOST_GROUPS = 20  # with one score between them, beyond which it says nothing
LEAST_EQUAL, SHARE_EQUAL = 3, 0.2  # of a group's rows, where ID and OOD are the same, this is worth a note


def without_copies(frame: pd.DataFrame, remarks: Remarks) -> pd.DataFrame:
    """Return the rows of `frame` (text) without those that are equal in every column to one above; a note counts
    them."""
    again = frame.duplicated()
    if not again.any():
        return frame
    rows = frame.index[again]
    remarks.note(
        f"{count_noun(len(rows), 'row')} of {len(frame):,}, copies of another in every column, left out; runs that "
        "happen to score the same need a column that tells them apart",
        rows,
    )
    return frame.loc[~again]


def same_scores(points: pd.DataFrame, scores: Sequence[str], clustered: bool, remarks: Remarks) -> pd.Series:
    """Return the cluster of every point, after copies under other names have been put together.

    `points` has trial, group, task and the scores. Without clusters of the user's, points of one group with the same
    scores are one cluster. With them, clusters of one group whose points have all the same scores are one.
    """
    where = ["task", "group"]
    if not clustered:
        again = points.duplicated([*where, *scores], keep=False)
        if not again.any():
            return points["trial"]
        first = points.groupby([*where, *scores], sort=False)["trial"].transform("first")
        rows = points.index[points.duplicated([*where, *scores])]
        remarks.note(
            f"{count_noun(len(rows), 'row')} of {len(points):,} with the very scores of another row of the group: rows "
            "with the same scores count as one cluster, so that copies make no interval narrower",
            rows,
        )
        return first
    hashed = pd.util.hash_pandas_object(points[list(scores)].round(9), index=False)
    keys = [points[name] for name in (*where, "trial")]
    sums = hashed.groupby(keys, sort=False).agg(["sum", "size"])  # the sum of hashes knows a set of points in any order
    contents = sums.reset_index()
    copies = contents.duplicated([*where, "sum", "size"])
    if not copies.any():
        return points["trial"]
    contents["first"] = contents.groupby([*where, "sum", "size"], sort=False)["trial"].transform("first")
    names = contents.loc[copies, ["first", "trial"]].iloc[0]
    remarks.note(
        f"{count_noun(int(copies.sum()), 'cluster')} of {len(contents):,} with all the scores of another, such as "
        f"{quoted(names['trial'])} of {quoted(names['first'])}: clusters with the same scores count as one"
    )
    merged = contents.set_index([*where, "trial"])["first"]
    trials = merged.reindex(pd.MultiIndex.from_frame(points[[*where, "trial"]])).to_numpy()
    return pd.Series(trials, index=points.index)


def across_groups(points: pd.DataFrame, scores: Sequence[str], remarks: Remarks) -> None:
    """Add notes about groups of which a good part has exactly the scores of rows of another group."""
    each = points.drop_duplicates(["task", "group", *scores])
    shared = each.loc[each.duplicated(["task", *scores], keep=False)]
    if len(each) < (1 - CHANCE) * len(points):  # scores of so few digits meet by chance
        return
    shared = shared.loc[shared.groupby(["task", *scores])["group"].transform("size") <= MOST_GROUPS]
    if shared.empty:
        return
    pairs = shared.merge(shared, on=["task", *scores], suffixes=("", "_other"))
    pairs = pairs.loc[pairs["group"] < pairs["group_other"], ["group", "group_other"]]
    sizes = each["group"].value_counts()
    counts = pairs.value_counts()
    alike_pairs = [
        (group, other, count)
        for (group, other), count in counts.items()
        if count >= LEAST_EQUAL and count >= SHARE_EQUAL * min(sizes[group], sizes[other])
    ]
    for group, other, count in alike_pairs[:LEAST_EQUAL]:
        remarks.note(
            f"{quoted(group)} and {quoted(other)} have {count_noun(count, 'row')} with the very same scores, of "
            f"{sizes[group]:,} and {sizes[other]:,}: were they copied? Groups are compared as if they were independent"
        )
    if len(alike_pairs) > LEAST_EQUAL:
        remarks.note(f"{count_noun(len(alike_pairs) - LEAST_EQUAL, 'more pair')} of groups share scores like these")


def same_columns(
    scores: Mapping[str, np.ndarray], names: Mapping[str, str], groups: pd.Series, baseline: str, remarks: Remarks
) -> None:
    """Add problems and notes about score columns that are copies. `scores` are fractions by "id" or "id_1", ..., and
    "ood"; `names` the user's names of these columns."""
    ids = [key for key in scores if key != "ood"]
    for i, first in enumerate(ids):
        for second in ids[:i]:
            relation = _relation(scores[second], scores[first], names[second])
            if relation:
                remarks.column(f"--id {names[first]} is {relation} in every row: they are one ID set; name one of them")
    for key in ids:
        _against_ood(scores[key], scores["ood"], names[key], names["ood"], groups, baseline, remarks)


def _against_ood(
    own: np.ndarray, ood: np.ndarray, name: str, ood_name: str, groups: pd.Series, baseline: str, remarks: Remarks
) -> None:
    given = np.isfinite(own) & np.isfinite(ood)
    equal = given & (np.abs(own - ood) <= EQUAL)
    line = (groups == baseline).to_numpy() & given
    if given.any() and (equal[line].all() if line.any() else equal[given].all()):
        place = "every row" if equal.sum() == given.sum() else f"every row of the baseline {quoted(baseline)}"
        if (equal & line).sum() >= LEAST_EQUAL or equal.sum() == given.sum() > 1:
            remarks.column(
                f"--id {name} and --ood {ood_name} hold the same scores in {place}: there is no shift between them to "
                "measure; name the column of the shifted test"
            )
            return
    for group in dict.fromkeys(groups[equal]):
        of_group = (groups == group).to_numpy() & given
        count = int((equal & of_group).sum())
        if count >= LEAST_EQUAL and count >= SHARE_EQUAL * of_group.sum():
            remarks.note(
                f"{name} and {ood_name} are the same in {count:,} of {count_noun(int(of_group.sum()), 'row')} of "
                f"{quoted(group)}: were the scores copied?",
                groups.index[equal & of_group],
            )
    relation = None if equal.any() else _relation(own, ood, name)
    if relation:
        remarks.note(f"--ood {ood_name} is {relation} in every row, without any scatter: was it measured?")


def _relation(x: np.ndarray, y: np.ndarray, name: str) -> str | None:
    """`a copy of val`, `0.01 x val`, `0.9 x val + 0.1`, or None. Needs four different scores."""
    given = np.isfinite(x) & np.isfinite(y)
    x, y = x[given], y[given]
    if len(np.unique(x)) < 4 or np.ptp(y) == 0:
        return None
    if np.abs(x - y).max() <= EQUAL:
        return f"a copy of {name}"
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    height = float(y.mean() - slope * x.mean())
    left = y - height - slope * x
    rounding = (_resolution(y) + abs(slope) * _resolution(x)) / 2
    if np.abs(left).max() > 1.01 * rounding + EQUAL or left @ left > STRAIGHT * np.square(y - y.mean()).sum():
        return None
    tail = "" if abs(height) <= rounding else f" {'+' if height > 0 else '-'} {abs(height):.4g}"
    return f"{slope:.4g} x {name}{tail}"


def _resolution(values: np.ndarray) -> float:
    """The unit of the last decimal that the values have."""
    for digits in range(1, MOST_DIGITS):
        if np.abs(values - values.round(digits)).max() < 1e-12:
            return 10.0**-digits
    return 10.0**-MOST_DIGITS
