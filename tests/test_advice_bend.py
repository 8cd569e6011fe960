"""Advice on a bend of the baseline's line: only where it matters for the groups that are compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from analysis.advice.remaining import weak_line
from analysis.line.gaps import COLUMNS
from analysis.line.line_checks import FAILS, PASSES
from analysis.options import Options


def bent(groups: list[float], extrapolated: bool = False, gap: tuple = (), margin: float = 2.0) -> list:
    """Advice on a line from which a curve is 10 points away at ID 0.2, falling to none at 0.7; with a gap or none."""
    at = np.linspace(0.2, 0.7, 51)
    curve = pd.DataFrame({"id": at, "line": at / 2, "square": at / 2 + (0.7 - at) / 5, "spline": at / 2})
    points = pd.DataFrame({"group": ["scratch"] * 2 + ["wide"] * len(groups), "id": [0.2, 0.7, *groups]})
    points["extrapolated"] = (points["group"] != "scratch") & extrapolated
    verdicts = [SimpleNamespace(check="curvature", state=FAILS, text="the line is bent"),
                SimpleNamespace(check="gaps", state=FAILS if gap else PASSES, text="a gap")]  # fmt: skip
    row = [(*gap, 0.3, True, "wide", 1, 1)] if gap else []
    line = SimpleNamespace(curve=curve, verdicts=verdicts, gaps=pd.DataFrame(row, columns=list(COLUMNS)))
    study = SimpleNamespace(options=Options("scratch", margin=margin), line=line, points=points, refused=False)
    return [one for one in weak_line(study) if "curve" in one.evidence]


def test_where_the_groups_are_the_bend_and_what_not_to_act_on_are_named():
    (advice,) = bent([0.3, 0.5])
    assert advice.reason == "weak_line"
    assert advice.evidence == (
        "The baseline's line is curved: at the ID scores of the groups (30 % to 50 %) a curve lies up to 8.0 points of "
        "OOD from it, at ID 30 %."
    )
    assert advice.action == "Do not act on a difference of ER under 8.0 points near ID 30 %: it may be the curve's."


def test_points_are_asked_for_where_there_is_a_gap():
    (advice,) = bent([0.3, 0.5], gap=(0.25, 0.4))
    assert advice.action.endswith("it may be the curve's. Baseline points there would tell.")
    (advice,) = bent([0.3, 0.5], gap=(0.45, 0.6))  # not where the curve is farthest away
    assert advice.action.endswith("it may be the curve's.")


def test_a_bend_that_no_comparison_meets_is_no_advice():
    assert bent([0.65, 0.69]) == []  # 1 point there, under the margin
    assert len(bent([0.65, 0.69], margin=0.5)) == 1
    assert bent([0.3], extrapolated=True) == []
    assert bent([]) == []
