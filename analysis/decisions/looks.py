"""Which look along fine-tuning the findings speak of, in words, and what verdict.json says of looks."""

from __future__ import annotations

from typing import Any

from analysis.findings import records
from analysis.study import Analysis
from ray_robust.run.analysis_settings import LOOKS, MEAN


def which(analysis: Analysis) -> str:
    """Return which look ER is of, in a sentence; "" without ER, or where no fine-tuning has several looks."""
    if analysis.looks.table.empty:
        return ""
    look = analysis.looks.used
    what = LOOKS[look] if look == MEAN else f"that at {LOOKS[look]}"
    return f"ER is {what} along fine-tuning (`analysis.look: {look}`)."


def looks(analysis: Analysis) -> dict[str, Any]:
    """Return what verdict.json says of it; nothing where there are no several looks, or there is no ER."""
    if analysis.looks.table.empty:
        return {}
    return {"looks": {"used": analysis.looks.used, "groups": records(analysis.looks.table),
                      "disagreements": list(analysis.looks.disagreements)}}  # fmt: skip
