"""The page: one HTML file that opens offline, with the charts, the tables, the sample images and the provenance.

Owns what is shown and in which order. All text goes through Jinja's escaping, all data through `_json`; nothing that a
user named reaches the page as markup.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import charts
from analysis.bundle import javascript
from analysis.factors import FACTORS
from analysis.study import Analysis
from analysis.table import Table
from analysis.verdict import findings, group_span, signed, span, state
from ray_robust.results import RunFolder

TEMPLATES = Path(__file__).parent / "template"
MOST_ROWS = 200  # of a table in the page; the CSV beside it has them all
GROUP_CELLS = ("group", "ER", "95 % interval", "trials", "points", "used", "ID range")
CONTRAST_CELLS = ("contrast", "difference of ER", "95 % interval", "p (Holm)", "shows", "could have found",
                  "shared ID range")  # fmt: skip
SHORT = 24  # characters; a longer cell may wrap
STATES = {"differs": "differs", "equivalent": "no effect in margin", "open": "not established"}


def page(
    table: Table, analyses: Sequence[Analysis], verdict: Mapping[str, Any], files: Mapping[str, pd.DataFrame]
) -> str:
    """The whole page as text. `files` are the tables that lie beside it, by name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    run = table.run
    spec = run.spec() if run else {}
    specs: dict[str, Any] = {}
    tasks = [_task(analysis, table, i, specs) for i, analysis in enumerate(analyses)]
    data = run.data() if run else {}
    return environment.get_template("report.html").render(
        title=str(spec.get("question") or table.name).strip(),
        name=table.name,
        counted=_counted(table, analyses[0].options.unit),
        unit=analyses[0].options.unit,
        clustered=table.points["trial"].nunique() < len(table.points),
        tasks=tasks,
        warnings=list(dict.fromkeys(w for a in analyses for w in a.warnings)),
        left_out=_grid(table.left_out[["trial", "group", "reason"]], ("trial", "group", "reason")),
        samples=_samples(run, data) if run else [],
        composition=_compositions(run, [name for a in analyses for name in a.groups["group"]]) if run else None,
        provenance=_provenance(run, spec, data) if run else [],
        files=[name for name in (*files, "verdict.json") if name != "progress.csv" or len(files[name])],
        figures=["trend.png", "trend.svg", "trend.pdf"] if len(analyses[0].points) else [],
        refused=verdict["refused"],
        charts=_json(specs),
        javascript=Markup(javascript()),
        style=Markup((TEMPLATES / "report.css").read_text("utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text("utf-8")),
        shape=_symbol,
        number=_number,
    )


def _counted(table: Table, unit: str) -> str:
    """How much was looked at, in words."""
    trials, points, failed = table.points["trial"].nunique(), len(table.points), len(table.left_out)
    head = f"{trials} {unit}s, {points} points" if trials < points else f"{points} points"
    return head + (f", {failed} failed or without scores" if failed else "")


def _task(analysis: Analysis, table: Table, number: int, specs: dict[str, Any]) -> dict[str, Any]:
    """What the template needs for one task; its charts are added to `specs` by element id."""
    style = charts.looks(analysis)
    made = {
        "trend": charts.trend(analysis, table.keys, "container", legend=False) if len(analysis.points) else None,
        "groups": None if analysis.refused else charts.by_group(analysis, "container"),
        "along": charts.along(analysis, "container"),
    }
    ids: dict[str, str | None] = dict.fromkeys(made)
    for kind, chart in made.items():
        if chart is not None:
            ids[kind] = f"{kind}-{number}"
            specs[ids[kind]] = charts.specification(chart)
    line = analysis.baseline.line if analysis.baseline else None
    chosen = analysis.trends.loc[analysis.trends["scale"] == analysis.options.scale]
    counts = analysis.groups.set_index("group")["n_points"]
    return {
        "name": analysis.task,
        "number": number,
        "options": analysis.options,
        "findings": [(_kind(sentence), sentence) for sentence in findings(analysis)],
        "ids": ids,
        "looks": [(look, int(counts[look.group])) for look in style],
        "line": line,
        "fitted": analysis.baseline is not None,
        "groups": _grid(_group_cells(analysis), GROUP_CELLS),
        "contrasts": _grid(_contrast_cells(analysis), CONTRAST_CELLS),
        "factors": _grid(
            pd.DataFrame(
                {
                    "factor": FACTORS[f.name],
                    "ER per tenfold": signed(f.slope.value),
                    "95 % interval": span(f.slope.low, f.slope.high),
                    "p": _p(f.slope.p),
                    "partial R²": _number(f.partial_r2),
                    "levels": f.levels,
                }
                for f in analysis.factors
            )
        ),
        "lines": _grid(_line_cells(analysis)),
        "clipped": int(chosen["clipped"].sum()),
        "extrapolated": int(analysis.points["extrapolated"].sum()),
        "points": len(analysis.points),
        "influence": _grid(
            pd.DataFrame(
                {"left out": r.trial, "of": r.group, "moves": r.moves, "ER by": signed(r.change),
                 "baseline slope then": _number(r.slope_without)}
                for r in analysis.influence.head(10).itertuples()
            )
        ),
        "selection": _grid(
            pd.DataFrame(
                {"group": r.group, "trials": r.trials, "ER, by id_val": signed(r.er_by_id_val),
                 "ER, by ood_val": signed(r.er_by_ood_val), "change": signed(r.change),
                 "OOD, by id_val": _percent(r.ood_by_id_val), "OOD, by ood_val": _percent(r.ood_by_ood_val)}
                for r in analysis.selection.itertuples()
            )
        ),
    }  # fmt: skip


def _group_cells(analysis: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": r.group,
            "trials": r.n_trials,
            "points": r.n_points,
            "used": r.n_used,
            "ER": signed(r.er),
            "95 % interval": group_span(r, analysis.options.baseline),
            "ID range": _range(r.id_low, r.id_high),
        }
        for r in analysis.groups.itertuples()
    )


def _contrast_cells(analysis: Analysis) -> pd.DataFrame:
    rows = (row._asdict() for row in analysis.contrasts.itertuples(index=False))
    return pd.DataFrame(
        {
            "contrast": f"{r['a']} − {r['b']}",
            "difference of ER": signed(r["delta_er"]),
            "95 % interval": span(r["low"], r["high"]) if math.isfinite(r["delta_er"]) else "–",
            "p (Holm)": _p(r["p_adjusted"]),
            "shows": STATES[state(r)],
            "could have found": _number(r["smallest_detectable"], 1),
            "shared ID range": _range(r["id_low"], r["id_high"]),
        }
        for r in rows
    )


def _line_cells(analysis: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": r.group,
            "scale": r.scale + (" (chosen)" if r.scale == analysis.options.scale else ""),
            "points": r.n,
            "slope": _number(r.slope),
            "95 %": _interval(r.slope_low, r.slope_high),
            "intercept": _number(r.intercept),
            "95 % ": _interval(r.intercept_low, r.intercept_high),
            "R²": _number(r.r2),
        }
        for r in analysis.trends.itertuples()
    )


def _samples(run: RunFolder, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pool with its contact sheets as data URIs, its facts and its broken images."""
    pools = []
    for pool in data.get("pools", []):
        sheets = []
        for split, name in (pool.get("samples") or {}).items():
            image = run.read_bytes(name)
            if image is not None:
                uri = "data:image/png;base64," + base64.b64encode(image).decode()
                sheets.append((split, (pool.get("splits") or {}).get(split), uri))
        facts = {k: pool[k] for k in ("images", "classes", "groups", "licence", "fingerprint") if pool.get(k)}
        broken = pd.DataFrame(pool.get("broken") or [])
        pools.append(
            {
                "kind": pool.get("kind", "pool"),
                "name": pool.get("name", ""),
                "notes": pool.get("notes") or [],
                "sheets": sheets,
                "facts": [(key, _said(value)) for key, value in facts.items()],
                "splits": [(key, _said(value)) for key, value in (pool.get("splits") or {}).items()],
                "broken": _grid(broken),
            }
        )
    return pools


def _compositions(run: RunFolder, order: Sequence[str]) -> dict[str, Any]:
    """Every distinct mixture, with the number of trials that use it; groups in the report's order."""
    seen: dict[str, dict[str, Any]] = {}
    for trial in run.trials():
        for part in trial.get("composition") or []:
            key = json.dumps([trial.get("group"), part], sort_keys=True, default=str)
            row = seen.setdefault(key, {"group": trial.get("group", ""), "trials": 0, **part})
            row["trials"] += 1
    place = {name: i for i, name in enumerate(order)}
    rows = pd.DataFrame(sorted(seen.values(), key=lambda row: place.get(row["group"], len(place))))
    for column in ("target_share", "share"):
        if column in rows:
            rows[column] = [_percent(v) for v in rows[column]]
    rows.columns = [str(c).replace("_", " ") for c in rows.columns]
    return _grid(rows.map(_said) if len(rows) else rows)


def _provenance(
    run: RunFolder, spec: Mapping[str, Any], data: Mapping[str, Any]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled lists of key and value: what ran, on what, from which data, with which seeds and settings."""
    found: list[tuple[str, Any]] = []
    provenance = spec.get("provenance")
    if provenance:
        found.append(("Versions", provenance))
    recorded = json.loads(run.read_bytes("run.json") or b"{}")
    for key, value in recorded.items():
        if key == "invocations" and isinstance(value, list):
            found += [(f"Command {i}", entry) for i, entry in enumerate(value, 1)]
        else:
            found.append((key.replace("_", " ").capitalize(), value))
    plan = run.plan()
    used = {c: sorted(set(plan[c]) - {""}, key=lambda s: (len(s), s)) for c in ("seed", "subset_seed") if c in plan}
    seeds = {name: ", ".join(values) for name, values in used.items()}
    if any(seeds.values()):
        found.append(("Seeds", seeds))
    found += [
        (f"Data: {pool.get('name', '')}", {k: pool[k] for k in ("kind", "fingerprint", "licence") if pool.get(k)})
        for pool in data.get("pools", [])
    ]
    settings = {k: v for k, v in spec.items() if k not in ("provenance", "question")}
    if settings:
        found.append(("Spec", settings))
    return [(title, list(_flat(value))) for title, value in found]


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested mappings as dotted keys and text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for i, inner in enumerate(value, 1):
            yield from _flat(inner, f"{prefix}.{i}" if prefix else str(i))
    else:
        yield prefix, _said(value)


def _said(value: Any) -> str:
    """A value for people: lists joined, whole numbers grouped, floats to four digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_said(item) for item in value) or "none"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def _grid(rows: pd.DataFrame, columns: Sequence[str] = ()) -> dict[str, Any]:
    """A table for the template: column names, the first rows as text, how many rows there are in all, and the class of
    every column: `n` for numbers, `tight` for text that is short enough not to wrap."""
    names = list(columns) or list(rows.columns)
    shown = rows.reindex(columns=names).head(MOST_ROWS).fillna("–").astype(str).to_numpy().tolist() if len(rows) else []
    kinds = []
    for cells in zip(*shown, strict=True):
        numeric = all(not any(c.isalpha() for c in text.replace(" to ", "")) for text in cells)
        kinds.append(" ".join(["n"] * numeric + ["tight"] * (max(map(len, cells)) <= SHORT)))
    return {"columns": names, "rows": shown, "kinds": kinds, "total": len(rows)}


def _kind(sentence: str) -> str:
    if sentence.startswith("Not established") or " pairs of groups " in sentence:
        return "open"
    return "equivalent" if "no effect within" in sentence else "differs"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _interval(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}" if math.isfinite(low) else "–"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) and math.isfinite(value) else "–"


def _range(low: float, high: float) -> str:
    return f"{_percent(low)} to {_percent(high)}" if math.isfinite(low) else "–"


def _p(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _symbol(look: charts.Look) -> Markup:
    """The group's mark as a small inline picture, so that the legend shows shape as well as colour."""
    triangle = "M6 1 L11 10.5 L1 10.5 Z"
    turn = {"triangle-up": 0, "triangle-right": 90, "triangle-down": 180, "triangle-left": 270}
    paths = {
        "circle": "M6 1a5 5 0 1 0 .01 0Z",
        "square": "M1.5 1.5h9v9h-9Z",
        "diamond": "M6 .5 L11 6 L6 11.5 L1 6 Z",
        "cross": "M4 1h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
    }
    path, angle = paths.get(look.shape, triangle), turn.get(look.shape, 0)
    return Markup(
        f'<svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><path d="{path}" '
        f'fill="{html.escape(look.colour)}" transform="rotate({angle} 6 6)"/></svg>'
    )


def _json(value: Any) -> Markup:
    """JSON that cannot close the element it stands in: every <, > and & is written as its code."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
