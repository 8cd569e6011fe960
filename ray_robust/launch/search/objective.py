"""The objective of a search: one number per configuration, from the rows of its finished trials, never of a test split.

Owns the baseline's line on validation scores, and which points enter a value. The report's effective robustness is that
of the test splits; the one here only chooses what to run next, so that the choice never sees the report's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.scales import SCALES
from analysis.stats.robustness import effective_robustness
from analysis.stats.trend import fit
from ray_robust.errors import Problem, UserError
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS
from ray_robust.text.names import count_noun

NEEDED = 3  # baseline points that a line takes

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ValLine:
    """The baseline's line of h(ood_val) on h(id_val) of one task, and the range of id_val that it was fitted on."""

    scale: str
    slope: float
    intercept: float
    low: float
    high: float
    r2: float

    def er(self, id_val: float, ood_val: float) -> float:
        """Return how far a point with these scores (0-1) lies above the line, in percentage points, also beyond its
        range."""
        scale = SCALES[self.scale]
        height = self.intercept + self.slope * scale.of([id_val])
        return float(effective_robustness(ood_val, height, scale)[0])

    def covers(self, id_val: float) -> bool:
        """Return whether that score (0-1) is in the range that the line was fitted on."""
        return self.low <= id_val <= self.high


def lines_of(rows: Rows, scale: str, min_r2: float) -> dict[str, ValLine]:
    """Return the line of every task, fitted on the baseline's rows.

    Raises UserError where there is none, or its R^2 is below `min_r2`: then robustness cannot be measured.
    """
    lines: dict[str, ValLine] = {}
    problems = []
    h = SCALES[scale]
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        points = [(row["id_val"], row["ood_val"]) for row in rows if str(row["task"]) == task]
        x, y = ([point[i] for point in points] for i in (0, 1))
        line = fit(h.of(x), h.of(y))
        if line is None:
            what = (
                f"{count_noun(len(points), 'point')}, too few for a line"
                if len(points) < NEEDED
                else "one ID score alone"
            )
            problems.append(f"the baseline has {what} on the validation splits of {task}")
        elif line.r2 < min_r2:
            problems.append(f"the baseline's line explains R² {line.r2:.2f} of its validation scores on {task}, under "
                            f"analysis.min_r2 {min_r2:g}")  # fmt: skip
        else:
            lines[task] = ValLine(scale, line.slope, line.intercept, min(x), max(x), line.r2)
    if problems or not lines:
        reasons = "; ".join(problems) or "no baseline trial is done"
        remedy = "give the baseline more seeds, rates or epochs, or the search another objective, e.g. ood_val"
        raise UserError(Problem("", f"search.objective: effective_robustness cannot steer: {reasons}; {remedy}"))
    return lines


@dataclass(frozen=True)
class Objective:
    """A configuration's value: over all points of its finished trials, the mean of a column, or of ER over those in the
    baseline's range of ID. `lines` are by task; a column needs none."""

    name: str
    lines: Mapping[str, ValLine]

    def value(self, trials: Iterable[Rows]) -> float | None:
        """Return the value of a configuration from the rows of each of its trials; None when no point can be compared.

        Points are pooled over seeds, grid levels and fine-tunings, as the report pools those of a group.
        """
        rows = [row for of in trials for row in of]
        if self.name == EFFECTIVE_ROBUSTNESS:
            values = []
            for row in rows:
                line, id_val, ood_val = self.lines.get(row["task"]), row.get("id_val"), row.get("ood_val")
                if line is not None and id_val is not None and ood_val is not None and line.covers(id_val):
                    values.append(line.er(id_val, ood_val))
        else:
            values = [float(row[self.name]) for row in rows if row.get(self.name) is not None]
        return sum(values) / len(values) if values else None

    def probe(self, task: str, id_val: float, ood_val: float) -> float | None:
        """Return the value of a probe during a pre-training. The line is extended for it: a probe often scores lower
        than any fine-tuned model, and it is compared with other probes only."""
        if self.name != EFFECTIVE_ROBUSTNESS:
            return {"id_val": id_val, "ood_val": ood_val}[self.name]
        return self.lines[task].er(id_val, ood_val) if task in self.lines else None
