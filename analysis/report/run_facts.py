"""What a run folder holds beside its scores: sample images, mixtures, and where everything came from.

Owns their shape for the page. A plain table has none of it; of several runs joined each has its own.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.findings import capital
from analysis.formatting import format_value, number, percent
from analysis.input.recount import entries
from analysis.input.run_points import identity_of
from analysis.report.tables import ReportTable, report_table
from analysis.subsets.hidden import HiddenSubset
from ray_robust.run import shifts
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.seed_plan import plans_of

SHARES = ("target_share", "share")
Titled = list[tuple[str, list[tuple[str, str]]]]


def samples(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return every pool with its contact sheets as data URIs, its facts and its broken images; a pool of several runs
    once."""
    pools: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        for pool in run.data().get("pools", []):
            key = (str(pool.get("kind", "pool")), str(pool.get("name", "")), str(pool.get("fingerprint", "")))
            if key not in pools:
                pools[key] = _pool(run, pool)
    return list(pools.values())


def _pool(run: RunFolder, pool: Mapping[str, Any]) -> dict[str, Any]:
    splits, tiles, sheets = pool.get("splits") or {}, pool.get("tiles") or {}, []
    for split, name in (pool.get("samples") or {}).items():
        image = run.storage.recall(name)
        if image is not None:
            uri = "data:image/png;base64," + base64.b64encode(image).decode()
            shown = _pictured(tiles.get(split) or {})
            sheets.append({"split": shifts.named(split), "count": splits.get(split), "uri": uri, **shown})
    facts = {k: pool[k] for k in ("images", "classes", "groups", "licence", "fingerprint") if pool.get(k)}
    facts["identity"] = f"by {identity_of(pool)}"
    broken = ({str(k): format_value(v) for k, v in image.items()} for image in pool.get("broken") or [])
    return {
        "kind": str(pool.get("kind", "pool")),
        "name": str(pool.get("name", "")),
        "notes": pool.get("notes") or [],
        "sheets": sheets,
        "facts": [(key, format_value(value)) for key, value in facts.items()],
        "broken": report_table("Broken images", "Images left out", broken),
    }


def _pictured(tiles: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sheet shows: its columns, a text per picture, and the classes in their order as one text. A run
    made before these were written has none."""
    classes = [format_value(name) for name in tiles.get("classes") or ()]
    groups = [format_value(name) for name in tiles.get("groups") or ()]
    both = len(groups) == len(classes)
    texts = [f"{name}, {group}" for name, group in zip(classes, groups, strict=True)] if both else classes
    runs = ((name, len(list(same))) for name, same in itertools.groupby(classes))
    listed = ", ".join(f"{name} \u00d7{count}" if count > 1 else name for name, count in runs)
    return {"columns": tiles.get("columns") or 1, "tiles": texts, "classes": listed}


def duplicates(runs: Sequence[RunFolder], task: str, first: bool) -> dict[str, Any] | None:
    """Return the results of the runs' comparisons of images, for the checks of one task; those of sources alone go to
    the first task's. None for a plain table."""
    if not runs:
        return None
    name = task.partition("[")[0]
    kinds = ("task ", "source ") if first else ("task ",)
    made = [
        one for one in entries(runs)
        if one["name"].startswith(kinds) and (one["pool"]["name"] == name or one["name"].startswith("source "))
    ]  # fmt: skip
    searched = [one for one in made if "skipped" not in one]
    return {
        "lines": [(one["name"], one["line"]) for one in searched if one["line"]],
        "clean": [one["name"] for one in searched if not one["line"]],
        "skipped": list(dict.fromkeys(one["skipped"] for one in made if "skipped" in one)),
        "rules": list(dict.fromkeys(text for one in searched for text in (one["rule"], one["note"]) if text)),
        "pairs": [_pair(one["run"], pair) for one in searched for pair in pairs_once(one.get("pictures", ()))],
    }


def hidden(runs: Sequence[RunFolder], task: str, subset: HiddenSubset) -> dict[str, Any] | None:
    """Return what the search for images on which better ID means worse OOD gave, with a sheet of them where the sweep
    made one of these very images; None where there was no search."""
    if not subset.sentence:
        return None
    names = list(subset.images["image"])
    for run in runs:
        sheet = (run.data().get("reversed") or {}).get(task) or {}
        image = (
            run.storage.recall(sheet["file"]) if sheet.get("images") == names[: len(sheet.get("images", ()))] else None
        )
        if image is not None and names:
            uri = "data:image/png;base64," + base64.b64encode(image).decode()
            return {"sentence": capital(subset.sentence), "picture": {"uri": uri, **_pictured(sheet["tiles"])}}
    return {"sentence": capital(subset.sentence), "picture": None}


def pairs_once(pictures: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the pairs of images, each once: a pair may be in two splits and of two labels at once."""
    first = dict[frozenset[str], Mapping[str, Any]]()
    for one in pictures:
        first.setdefault(frozenset((one["image"], one["other"])), one)
    return list(first.values())


def _pair(run: RunFolder, pair: Mapping[str, Any]) -> dict[str, Any]:
    """A picture of two images side by side and what each of them is."""
    image = run.storage.recall(pair["file"])
    uri = "data:image/png;base64," + base64.b64encode(image).decode() if image else ""
    return {
        "uri": uri,
        "kind": pair["kind"],
        "images": [
            (format_value(pair["image"]), format_value(pair["label"])),
            (format_value(pair["other"]), format_value(pair["other_label"])),
        ],
        "where": " and ".join(shifts.named(str(name)) for name in (pair["split"], pair["where"]) if name),
    }


def compositions(runs: Sequence[RunFolder], order: Sequence[str]) -> ReportTable:
    """Return every distinct mixture, with the number of trials that use it; groups in the report's order."""
    distinct: dict[str, dict[str, Any]] = {}
    for run in runs:
        for trial in run.trials():
            for part in trial.get("composition") or []:
                key = json.dumps([trial.get("group"), part], sort_keys=True, default=str)
                row = distinct.setdefault(key, {"group": trial.get("group", ""), "trials": 0, **part})
                row["trials"] += 1
    place = {name: i for i, name in enumerate(order)}
    rows = sorted(distinct.values(), key=lambda row: place.get(row["group"], len(place)))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return report_table(
        "Mixtures",
        "What was pre-trained on: images available and selected, target and observed share",
        (
            {
                column.replace("_", " "): percent(row.get(column))
                if column in SHARES
                else format_value(row.get(column))
                for column in columns
            }
            for row in rows
        ),
    )


def seed_plans(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return how the seeds of each run in two stages were planned: sentences, and a row per comparison."""
    shown = []
    for run, plan in plans_of(runs):
        rows = (
            {
                "comparison": f"{need.task}: {need.what}" if need.task else need.what,
                "wide after the first stage": number(need.width, 1),
                "planned": number(need.planned, 1),
                "no seed takes away": number(need.least, 1),
                "state": need.state,
            }
            for need in plan.needs
        )
        table = report_table("Intervals that decided the seeds", "Widths of 95 % intervals in points of ER", rows)
        shown.append({"run": run.storage.shown.rstrip("/").rpartition("/")[2] if len(runs) > 1 else "",
                      "sentences": plan.sentences(), "table": table})  # fmt: skip
    return shown


def provenance(runs: Sequence[RunFolder]) -> Titled:
    """Return titled lists of key and value: what ran, on what, from which data, with which seeds and settings."""
    sections: Titled = []
    for run in runs:
        name = run.storage.shown.rstrip("/").rpartition("/")[2]
        own = [(title, list(_flat(value))) for title, value in _of_run(run)]
        sections += [(f"{name}: {title}", entries) for title, entries in own] if len(runs) > 1 else own
    return sections


def _of_run(run: RunFolder) -> Iterable[tuple[str, Any]]:
    spec = run.spec()
    if made := spec.get("provenance"):
        own = isinstance(made, Mapping)
        yield "Versions", {key: value for key, value in made.items() if key != "written"} if own else made
    for key, value in (run.storage.recall_json("run.json") or {}).items():
        if key == "invocations" and isinstance(value, list):
            yield from ((f"Command {i}", entry) for i, entry in enumerate(value, 1))
        else:
            yield key.replace("_", " ").capitalize(), value
    plan = run.plan()
    used = {c: sorted(set(plan[c]) - {""}, key=lambda s: (len(s), s)) for c in ("seed", "subset_seed") if c in plan}
    seeds = {name: ", ".join(values) for name, values in used.items() if values}
    if seeds:
        yield "Seeds", seeds
    for pool in run.data().get("pools", []):
        facts = {k: pool[k] for k in ("kind", "fingerprint", "licence") if pool.get(k)}
        yield f"Data: {pool.get('name', '')}", facts
    settings = {k: v for k, v in spec.items() if k not in ("provenance", "question")}
    if settings:
        yield "Spec", settings


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested mappings as dotted keys and text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for i, inner in enumerate(value, 1):
            yield from _flat(inner, f"{prefix}.{i}" if prefix else str(i))
    else:
        yield prefix, format_value(value)
