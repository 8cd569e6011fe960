"""What the settings give that held before they were changed, beside those in use.

Every number is of the same analysis under those settings (`Analysis.earlier`); owns the table of both and the findings
that read otherwise there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings import STATES, Finding, findings, records
from analysis.scores.sentences import summary
from analysis.stats.contrasts import state
from analysis.stats.score_differences import BASELINE
from analysis.study import Analysis
from ray_robust.run.declared import KEYS

MEAN, CONTRAST, SLOPE = "mean ER", "difference of ER", "slope of ER"
COLUMNS = ("setting", "effect", "a", "b", "used", "used_low", "used_high", "used_shows", "earlier", "earlier_low",
           "earlier_high", "earlier_shows")  # fmt: skip
FILES = {"declared": COLUMNS}
Key = tuple[str, str, str]  # effect, a, b
Effect = tuple[float, float, float, str]  # value, low, high, what it shows
NOTHING: Effect = (np.nan, np.nan, np.nan, "")


@dataclass(frozen=True)
class Before:
    """One earlier setting of one task.

    sentence  what was changed, and when
    otherwise how many effects show something else under it, of how many
    findings  what is said under it and not under the settings in use
    """

    sentence: str
    otherwise: int
    effects: int
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> str:
        """What the change came to, in a sentence."""
        what = f"{self.otherwise} of {self.effects} effects show something else" if self.otherwise else (
            f"all {self.effects} effects show the same")  # fmt: skip
        return f"Under the earlier setting {what}."


def before(analysis: Analysis) -> list[Before]:
    """Return what each earlier setting of a task gives; none where nothing was changed."""
    table, texts = tables(analysis)["declared"], {finding.text for finding in _statements(analysis)}
    made = []
    for one, other in analysis.earlier:
        own = table.loc[(table["setting"] == one.sentence) & (table["effect"] != MEAN)]
        otherwise = int((own["used_shows"] != own["earlier_shows"]).sum())
        others = tuple(finding for finding in _statements(other) if finding.text not in texts)
        made.append(Before(one.sentence, otherwise, len(own), others))
    return made


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the table of both by the name of its file: every effect of the used settings and of each earlier one,
    columns `COLUMNS`, scores and ER in percentage points."""
    rows = [
        (one.sentence, *key, *used.get(key, NOTHING), *earlier.get(key, NOTHING))
        for used in [_effects(analysis)]
        for one, other in analysis.earlier
        for earlier in [_turned(_effects(other), used)]
        for key in dict.fromkeys([*used, *earlier])
    ]
    return {"declared": pd.DataFrame(rows, columns=list(COLUMNS))}


def declared(analysis: Analysis) -> dict[str, Any]:
    """Return what verdict.json says of it; nothing for a table that no sweep wrote."""
    if analysis.declared is None:
        return {}
    table = tables(analysis)["declared"]
    earlier = [
        {
            "change": one.sentence,
            "settings": {key: getattr(setting.options, key) for key in KEYS},
            "shows_otherwise": one.otherwise,
            "findings": [finding.text for finding in one.findings],
            "effects": records(table.loc[table["setting"] == one.sentence].drop(columns="setting")),
        }
        for one, (setting, _) in zip(before(analysis), analysis.earlier, strict=True)
    ]
    return {"declared": {**analysis.declared.plain(), "earlier": earlier}}


def _effects(analysis: Analysis) -> dict[Key, Effect]:
    """Every effect of an analysis, and what it shows."""
    effects: dict[Key, Effect] = {
        (MEAN, str(row["group"]), ""): (row["er"], row["er_low"], row["er_high"], "")
        for row in records(analysis.groups)
        if row["group"] != analysis.options.baseline
    }
    for row in records(analysis.contrasts):
        effects[CONTRAST, str(row["a"]), str(row["b"])] = _effect(row, "delta_er")
    for row in records(analysis.factor_table):
        effects[SLOPE, str(row["label"]), ""] = _effect(row, "slope")
    for row in records(analysis.scores.differences):
        if row["family"] == BASELINE:
            key = f"difference of {str(row['score']).upper()} score", str(row["a"]), str(row["b"])
            effects[key] = _effect(row, "delta")
    return effects


def _effect(row: Mapping[str, Any], value: str) -> Effect:
    return row[value], row["low"], row["high"], STATES[state(row)]


def _turned(effects: Mapping[Key, Effect], like: Mapping[Key, Effect]) -> dict[Key, Effect]:
    """Effects with pairs in the order that the others have them in: another baseline turns some round."""
    turned: dict[Key, Effect] = {}
    for (effect, a, b), (value, low, high, shows) in effects.items():
        if (effect, a, b) not in like and (effect, b, a) in like:
            turned[effect, b, a] = -value, -high, -low, shows
        else:
            turned[effect, a, b] = value, low, high, shows
    return turned


def _statements(analysis: Analysis) -> Iterator[Finding]:
    """Every sentence that the intervals and tests of an analysis support."""
    sentences = summary(analysis)
    if sentences.deployment is not None:
        yield sentences.deployment
    yield from (*sentences.lead, *findings(analysis), *sentences.findings)
