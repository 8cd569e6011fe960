"""What a report claims, judged against what is true: false claims, false "no effect", refusals, warnings and power.

Owns `judged`, one analysis beside its world, and `claim_summary` over many. A claim is judged by what its sentence
states: a group against the baseline, a pair, a slope per tenfold (false of levels that lie on no straight line, however
they differ), lines that differ in slope. "No effect" is false where the truth is at the margin or beyond it; of a
number's levels that is the largest difference between two of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings import Finding, findings, state
from analysis.stats.raw_scores import RawScores
from analysis.study import Analysis
from bench.raw_scores import false_scores
from bench.scenarios import MARGIN
from bench.simulated import BASELINE, World

TINY = 0.3  # points of ER: a true difference under it is none
SMALL = "smaller than the margin"  # of an effect that differs from 0: no less a claim of equivalence
GROUP, PAIR, LEVELS, SLOPES = "group", "pair", "levels", "slopes"
MATTERS = {
    "curve": r"curv|\bbent\b|(?<!whether the )baseline bends|kink|quadratic|spline|RESET",
    "gap": r"\bgaps?\b|no point between",
    "falling": r"\bfall|\bflat\b|not above 0|not rise|not shown to rise",
    "identical": r"identical|same column|same values|is the ID|equals? the ID|copy of|equal to ID",
    "images": r"reliab|errors? in (the )?(ID|variables)|(measurement|sampling) error|(ID|few) test images",
    "schedule": r"epoch|schedule|fine-tuned (for )?longer",
    "rate": r"learning rate|finetune_lr",
    "noise": r"heterosc|scatter|noise|residuals? (grow|spread|vary)|spread of the residuals",
    "seed": r"\bseeds?\b",
    "points": r"unequal|uneven|numbers? of points|points per trial|points a trial",
    "few trials": r"single trial|one trial|two trials|few trials|too few|trials? alone",
    "cluster": r"--cluster|\bcluster",
    "scale": r"\bscales?\b|probit|logit",
    "shape": r"straight line|not straight|\bshape\b|plateau|levels differ|adjacent|lack of fit",
}


@dataclass(frozen=True)
class Truths:
    """True mean ER of every group inside the baseline's range, of the levels of the factor by its number or name, and
    whether they lie on a straight line over its logarithm."""

    groups: Mapping[str, float]
    er: np.ndarray
    world: World

    @property
    def straight(self) -> bool:
        """Whether the levels of a number lie on one line within `TINY`."""
        x, y = self.line()
        return len(x) < 3 or float(np.abs(y - np.polyval(np.polyfit(x, y, 1), x)).max()) < TINY

    def line(self) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the levels of a number, and the true ER of each; empty where the factor is no number."""
        levels = {n: re.fullmatch(r"num_images=(\d+)", n) for n in self.groups}
        known = {n: np.log10(int(found[1])) for n, found in levels.items() if found}
        return np.array(list(known.values())), np.array([self.groups[n] for n in known])

    @property
    def slope(self) -> float:
        """Points per tenfold, NaN where there is no straight line."""
        x, y = self.line()
        return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 and self.straight else float("nan")

    @property
    def reach(self) -> float:
        """The largest true difference between two levels."""
        others = [er for name, er in self.groups.items() if name != BASELINE]
        return max(others) - min(others) if others else 0.0


def truths(analysis: Analysis, world: World) -> Truths:
    """What is true of the groups of an analysis, which has them in the order of the simulation."""
    names = analysis.points["group"].to_numpy()
    inside = ~analysis.points["extrapolated"].to_numpy(bool)
    er = world.er[: len(names)]
    every = dict.fromkeys(names)
    return Truths(
        {n: float(er[own].mean()) if (own := inside & (names == n)).any() else np.nan for n in every}, er, world
    )


def between(analysis: Analysis, known: Truths, a: str, b: str) -> float:
    """The true difference a minus b over the ID scores that the contrast compares; of means where it is not made."""
    rows = analysis.contrasts.loc[(analysis.contrasts["a"] == a) & (analysis.contrasts["b"] == b)]
    points, ends = analysis.points, rows[["id_low", "id_high"]].to_numpy(float)
    means = []
    for name in (a, b):
        chosen = ((points["group"] == name) & ~points["extrapolated"].astype(bool)).to_numpy()
        if len(ends) and np.isfinite(ends).all():
            chosen = chosen & points["id"].between(*ends[0]).to_numpy()
        means.append(0.0 if name == BASELINE else float(known.er[chosen].mean()) if chosen.any() else np.nan)
    return means[0] - means[1]


def judged(analysis: Analysis | None, world: World, said: Sequence[str] = ()) -> dict[str, Any]:
    """One report: kinds of false claims and of false "no effect", true effects with whether they were claimed, matters
    that were named, and whether all was refused. No analysis means that the input was refused, as `said`."""
    if analysis is None:
        er = {n: float(world.er[own].mean()) for n, own in world.points.groupby("group", sort=False).indices.items()}
        effects = _effects(Truths(er, world.er, world), set())
        return {"false": [], "none": [], "effects": effects, "fragile": [], "named": _named(said), "refused": True,
                "scores": {"false": [], "none": [], "effects": []}}  # fmt: skip
    every = findings(analysis)
    known = truths(analysis, world)
    wrong, none, right = [], [], set()
    for finding in every:
        for kind, what, claimed in _statements(finding, analysis):
            true = _true(kind, what, analysis, known)
            if finding.kind == "equivalent" or SMALL in finding.text:
                reach = known.reach if kind == LEVELS and "a" not in what else abs(true)
                none += [kind] if not world.reference or reach >= MARGIN - 1e-9 else []
            if finding.kind == "equivalent":
                continue
            if _holds(kind, what, true, claimed, finding.text, known):
                right.add((kind, what.get("a"), what.get("b")))
            else:
                wrong.append(kind)
    wrong += _false_slopes(analysis, world)
    fragile = [reason for one in every for reason in getattr(one, "not_robust_to", ()) if one.kind == "fragile"]
    fragile += ["?" for one in every if one.kind == "fragile" and not getattr(one, "not_robust_to", ())]
    return {
        "false": wrong, "none": none, "effects": _effects(known, right), "fragile": [str(one) for one in fragile],
        "named": _named([*said, *analysis.warnings, *(one.text for one in every), *map(str, fragile)]),
        "refused": bool(analysis.refused), "scores": false_scores(analysis.scores, world),
    }  # fmt: skip


def claims_of_scores(scores: RawScores, world: World) -> dict[str, Any]:
    """One report as `judged`, of which only the raw scores were made."""
    return {"false": [], "none": [], "effects": [], "fragile": [], "named": [], "refused": False,
            "scores": false_scores(scores, world)}  # fmt: skip


def _statements(finding: Finding, analysis: Analysis) -> list[tuple[str, Mapping[str, Any], float]]:
    """What a finding claims: kind, the groups a and b (or the factor), and the sign that it states. A sum over many
    contrasts claims each of those that are established."""
    if finding.kind not in ("differs", "equivalent"):
        return []
    row = dict(finding.row)
    if "a" in row and "b" in row:
        return [(GROUP if row["b"] == BASELINE else PAIR, row, _sign(finding, analysis))]
    if "factor" in row:
        factor, _, level = str(row["factor"]).partition("=")
        against = {f.name: f.against for f in analysis.regression.factors}.get(row["factor"], "")
        what = {"a": row["factor"], "b": f"{factor}={against}"} if level else {"factor": factor}
        return [(LEVELS, what, _sign(finding, analysis))]
    if finding.table == "contrasts":
        family = "pairs" if "pairs" in finding.text else "baseline"
        rows = analysis.contrasts.loc[analysis.contrasts["family"] == family].to_dict("records")
        kind = PAIR if family == "pairs" else GROUP
        return [(kind, r, float(np.sign(r["delta_er"]))) for r in rows if state(r) == finding.kind]
    raise ValueError(f"a finding that nothing here can judge: {finding}")


def _sign(finding: Finding, analysis: Analysis) -> float:
    """The sign of the effect that the sentence states; where it states none, that of the table's row."""
    stated = re.search(r"([+−])\d+(?:\.\d+)? points", finding.text)
    if stated:
        return 1.0 if stated[1] == "+" else -1.0
    row = finding.row
    if "a" in row:
        c = analysis.contrasts
        return float(np.sign(c.loc[(c["a"] == row["a"]) & (c["b"] == row["b"]), "delta_er"].sum()))
    return float(np.sign(sum(f.slope.value for f in analysis.regression.factors if f.name == row.get("factor"))))


def _true(kind: str, what: Mapping[str, Any], analysis: Analysis, known: Truths) -> float:
    """The true size of what is claimed; NaN of a slope where there is none."""
    if "a" in what:
        a, b = str(what["a"]), str(what["b"])
        if a in known.groups and b in known.groups and kind != LEVELS:
            return between(analysis, known, a, b)
        return known.groups.get(a, np.nan) - known.groups.get(b, np.nan)
    return known.slope


def _holds(kind: str, what: Mapping[str, Any], true: float, sign: float, text: str, known: Truths) -> bool:
    if not known.world.reference:
        return False
    if known.world.one_scale and kind != GROUP:
        return bool(re.search(MATTERS["scale"], text))
    if kind == LEVELS and "a" not in what and "per tenfold" not in text:  # that levels differ, not along a line
        return known.reach >= TINY
    return abs(true) >= TINY and np.sign(true) == sign


def _false_slopes(analysis: Analysis, world: World) -> list[str]:
    """Pairs whose lines are said to differ in slope and do not."""
    table, slopes = analysis.ancova, world.slopes
    differ = table.loc[table["slopes_differ"].astype(bool)] if len(table) else table
    true = [slopes.get(a, np.nan) - slopes.get(b, np.nan) for a, b in zip(differ["a"], differ["b"], strict=True)]
    return [SLOPES for one in true if one == 0]


def _effects(known: Truths, right: set[tuple[str, Any, Any]]) -> list[tuple[str, bool]]:
    """Every planted effect with whether a true claim was made of it: each group against the baseline, and once whether
    anything true was claimed between levels."""
    if not known.world.reference:
        return []
    planted = {n: er for n, er in known.groups.items() if n != BASELINE and abs(er) >= TINY}
    effects = [(GROUP, (GROUP, name, BASELINE) in right) for name in planted]
    others = [er for name, er in known.groups.items() if name != BASELINE]
    apart = any(abs(a - b) >= TINY for a, b in combinations(others, 2))
    if apart and not known.world.one_scale:
        effects.append((LEVELS, any(kind in (LEVELS, PAIR) for kind, _, _ in right)))
    return effects


def _named(sentences: Sequence[str]) -> list[str]:
    text = "\n".join(sentences)
    return [name for name, pattern in MATTERS.items() if re.search(pattern, text, re.IGNORECASE)]


def claim_summary(reports: Sequence[Mapping[str, Any]], matter: str) -> dict[str, Any]:
    """Shares over all sweeps: with a false claim (any, by kind), with a false "no effect", refused as a whole, with a
    claim held back as not robust, warned of what is the matter (or refused); and of true effects the share claimed."""
    count = max(1, len(reports))

    def share(hits: Sequence[bool]) -> float:
        return round(sum(map(bool, hits)) / count, 4)

    def by(key: str) -> dict[str, float]:
        seen = Counter(one for report in reports for one in set(report[key]))
        return {name: round(number / count, 4) for name, number in sorted(seen.items())}

    effects = pd.DataFrame([e for r in reports for e in r["effects"]], columns=["kind", "claimed"])
    scores = [r["scores"] for r in reports]
    gains = [claimed for one in scores for claimed in one["effects"]]
    return {
        "any": share([bool(r["false"]) for r in reports]),
        "false": by("false"),
        "no effect": share([bool(r["none"]) for r in reports]),
        "no effect by": by("none"),
        "refused": share([r["refused"] for r in reports]),
        "not robust": share([bool(r["fragile"]) for r in reports]),
        "not robust to": by("fragile"),
        "warned": share([matter in r["named"] or r["refused"] for r in reports]) if matter else None,
        "named": by("named"),
        "false of scores": share([bool(one["false"]) for one in scores]),
        "no effect on scores": share([bool(one["none"]) for one in scores]),
        "claimed of scores": round(float(np.mean(gains)), 4) if gains else None,
        "claimed": effects.astype({"claimed": float}).groupby("kind")["claimed"].mean().round(4).to_dict(),
    }
