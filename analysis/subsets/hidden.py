"""Images of a run's OOD test on which better ID means worse OOD: which they are, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.formatting import interval, number, percent
from analysis.input import run_agreement
from analysis.input.table import Table
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.reversed_images import SHARES, Predicted, Reversed, find_reversed
from analysis.stats.task_points import pairing
from ray_robust.run.results_schema import SCORE_SPLITS

IMAGES = ("image", "label", "test_group", "chosen")
MOST = 600  # points that are searched with: of more, evenly many


@dataclass(frozen=True, eq=False)
class HiddenSubset:
    """What the search of a task's OOD test gave.

    result  None where there was nothing to search: no run, no labels, a run that goes on
    images  of the subset, columns `IMAGES`, those first that were chosen most often; empty where none is found
    total   images of the OOD test
    """

    result: Reversed | None = None
    images: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(IMAGES)))
    total: int = 0

    @property
    def found(self) -> bool:
        """Whether there is such a subset."""
        return self.result is not None and self.result.found

    @property
    def warnings(self) -> list[str]:
        """What a reader should know of the OOD test."""
        return [self.sentence] if self.found else []

    @property
    def sentence(self) -> str:
        """What the search gave; "" where there was none."""
        one = self.result
        if one is None:
            return ""
        if one.refused:
            return f"images on which better ID means worse OOD are not looked for: {one.refused}"
        ends = f"{number(one.slope, 2)} ({interval(one.low, one.high, 2)})"
        if not one.found:
            return (
                f"no subset of the {self.total:,} OOD images is shown on which better ID means worse OOD: slope {ends}"
            )
        share = one.count / self.total
        most = ", the most that is looked for" if share >= SHARES[-1] - 1e-3 else ""
        return (
            f"hidden by the mean: on {one.count:,} of {self.total:,} OOD images ({percent(share, 0)}{most}) a better "
            f"ID score means a worse OOD score, slope {ends}, on all {number(one.whole.value, 2)}: in a group the "
            f"models of lower ID scores are right on {percent(one.worse)} of them, those of higher ones on "
            f"{percent(one.better)}; they may be mislabelled, or rest on what only training images share "
            "(reversed_images.csv)"
        )


def hidden_subset(table: Table, points: pd.DataFrame, options: Options) -> HiddenSubset:
    """Return the images of a task's OOD test on which better ID means worse OOD. `points` as in `Table`."""
    if not table.runs or points.empty or "finetune" not in points or run_agreement.is_estimated(points):
        return HiddenSubset()
    own = points.iloc[:: max(1, -(-len(points) // MOST))].reset_index(drop=True)
    tests, why = run_agreement.read_tests(table.runs, own, SCORE_SPLITS)
    if why:
        nothing = np.zeros(0)
        return HiddenSubset(Reversed(nothing > 0, nothing, refused=why))
    id_test, shown = tests["id"], tests["ood"]
    scale, paired = SCALES[options.scale], pairing(own)
    group, trial = pd.factorize(own["group"])[0], pd.factorize(own["trial"].astype(str))[0]
    predicted = Predicted(
        shown.predicted == shown.labels,
        scale.of((id_test.predicted == id_test.labels).mean(1), len(id_test)),
        group,
        trial,
        paired.codes if paired.seeds else trial,
        np.arange(len(shown)) if shown.group is None else shown.group,
    )
    result = find_reversed(predicted, scale)
    return HiddenSubset(result, _images(result, tests["ood"]) if result.found else HiddenSubset().images, len(shown))


def _images(result: Reversed, test: run_agreement.Test) -> pd.DataFrame:
    assert test.images is not None
    rows = np.flatnonzero(result.images)
    rows = rows[np.argsort(-result.often[rows], kind="stable")]
    labels = np.asarray(test.classes, object)[test.labels[rows]] if test.labels is not None else ""
    groups = np.asarray(test.groups, object)[test.group[rows]] if test.group is not None else ""
    columns = {"image": test.images[rows], "label": labels, "test_group": groups, "chosen": result.often[rows]}
    return pd.DataFrame(columns, columns=list(IMAGES))
