"""What is kept of a finished run for docs/studies.md and the headers of sweeps: one entry of docs/studies.json.

Owns the shape of an entry and its name: the sweep that was run (`quantity`, `photos/quantity`), and after it what was
`--set`. The document and the headers are made of these entries alone, so that both can be written again, and checked,
where the run folders are not at hand.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ray_robust.errors import UserError
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

Record = dict[str, Any]
SWEEP_FILE = re.compile(r"(?:^|/)sweeps/(.+)[.]ya?ml$")
DECIDES = ("task", "model", "pretrain", "finetune", "baseline", "seeds", "search", "analysis")  # what came out
OF_THE_MACHINE = ("resources.", "track")  # what such a --set changes is no other result
KEPT = {
    "factors": ("factor", "label", "per", "against", "slope", "low", "high", "p_adjusted", "margin", "equivalent",
                "low90", "high90", "levels", "straight_p", "not_robust_to"),
    "levels": ("factor", "a", "b", "delta_er", "low", "high", "p_adjusted", "margin", "equivalent", "low90", "high90",
               "not_robust_to"),
    "contrasts": ("a", "b", "delta_er", "low", "high", "p_adjusted", "margin", "equivalent", "smallest_detectable",
                  "not_robust_to"),
    "slopes": ("a", "b", "family", "slopes_differ", "heights_differ"),
}  # fmt: skip
LINE = ("group", "slope", "slope_low", "slope_high", "r2", "id_min", "id_max")


def task_name(task: Mapping[str, Any]) -> str:
    """Return a task as a reader calls it; one that is made of any source by that, too."""
    made_of = task.get("source")
    return f"{task['name']} of {made_of['name']}" if isinstance(made_of, Mapping) else str(task["name"])


def entry_of(address: str, name: str = "") -> tuple[str, Record]:
    """Return the name and the entry of a finished run. Raises UserError for a run without a report, and for one whose
    sweep is not under sweeps/ when it is not named."""
    run = RunFolder(address)
    verdict = json.loads(run.read_bytes("report/verdict.json") or b"null")
    if verdict is None:
        raise UserError(f"{run.storage.shown}: has no report; run python -m analysis on it")
    spec, points = run.spec(), run.results()
    points = points[points["status"] == "done"]
    sweep, changed = _sweep(spec, Path(address).name)
    name = name or " ".join([sweep, *(f"--set {one}" for one in changed)])
    record = {
        "commit": spec.get("provenance", {}).get("commit"),
        "set": changed,
        "task": task_name(spec["task"]),
        "image_size": spec["model"]["image_size"],
        "cost": _cost(run, points),
        **{key: verdict[key] for key in ("scale", "min_r2", "margin", "refused")},
        "line": {key: verdict["baseline"].get(key) for key in LINE},
        "groups": _groups(run, verdict, points),
        "sources": _kinds(spec),
        **{table: _rows(run, table) for table in KEPT},
        "failed_checks": _failed_checks(run),
        **_of_a_search(run),
    }
    return name, _rounded(record)


def changed_since(address: str, file: Path) -> list[str]:
    """Return what of a sweep's file is not what a run was made with, by key (`finetune.epochs`): of all that decides
    its results, by the last parts of its paths, which may lie elsewhere now. The whole file where it is no sweep."""
    run = RunFolder(address).spec()
    try:
        now = yaml.safe_load(load_spec(file, tuple(_sweep(run, "")[1])).resolved)
    except UserError:
        return [str(file)]
    return [key for part in DECIDES for key in _differences(run.get(part), now.get(part), part)]


def _differences(a: Any, b: Any, key: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [each for name in sorted({*a, *b}) for each in _differences(a.get(name), b.get(name), f"{key}.{name}")]
    return [] if _last_part(a) == _last_part(b) else [key]


def _last_part(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_part(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) else value


def without_folders(group: str) -> str:
    """Return a group's name without the folders of a file that it names: no machine's paths are kept."""
    return re.sub(r"(?<==)[/~.$][^,]*/(?=[^,/])", "", group)


def read_entries(path: Path) -> dict[str, Record]:
    """Return the entries of docs/studies.json by name; none where there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def write_entries(path: Path, entries: Mapping[str, Record]) -> None:
    """Write the entries, in the order of their names."""
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def _sweep(spec: Mapping[str, Any], folder: str) -> tuple[str, list[str]]:
    """Return which sweep was run, by the command that the run noted (else by its folder), and what was set in it."""
    words = shlex.split(spec.get("provenance", {}).get("command", ""))
    file = next((match[1] for word in words if (match := SWEEP_FILE.search(word))), folder)
    changed = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--set"]
    changed += [word.partition("=")[2] for word in words if word.startswith("--set=")]
    return file, [one for one in changed if not one.startswith(OF_THE_MACHINE)]


def _cost(run: RunFolder, points: pd.DataFrame) -> dict[str, Any]:
    noted = run.storage.read_json("run.json") or {}
    hardware = noted.get("hardware", {})
    return {
        "minutes": sum(part["seconds"] for part in noted.get("invocations", ())) / 60,
        "trials": int(points["trial"].nunique()),
        "finetunings": len(points[["trial", "finetune", "task"]].drop_duplicates()),
        "points": len(points),
        "cores": hardware.get("cores", hardware.get("cpus")),
        "processor": hardware.get("processor"),
        "gpus": len(hardware.get("gpus") or ()),
    }


def _groups(run: RunFolder, verdict: Mapping[str, Any], points: pd.DataFrame) -> dict[str, Any]:
    """Return by group its ER, its scores, and what it pre-trained on."""
    learned = (verdict.get("learned") or {}).get("upstream") or {}
    groups = {}
    for group, row in verdict["groups"].items():
        own = points[points["group"] == group]
        first, upstream = own.iloc[0], learned.get(group) or {}
        trial = run.trial(first["trial"]).storage.read_json("trial.json") or {}
        best = own.sort_values(["trial", "id_val"]).groupby("trial").tail(1)  # chosen as one would: on id_val
        groups[without_folders(group)] = {
            **{key: row[key] for key in ("n_trials", "n_points", "extrapolated", "er", "er_low", "er_high")},
            "best_id": float(best["id"].mean()),
            "best_ood": float(best["ood"].mean()),
            "images": int(first["num_images"]) if pd.notna(first["num_images"]) else 0,
            "classes": int(first["num_classes"]) if pd.notna(first["num_classes"]) else 0,
            "labels": len(trial.get("labels") or ()),
            "sources": json.loads(first["sources"]) if isinstance(first["sources"], str) else {},
            "upstream_accuracy": upstream.get("accuracy"),
            "hardly_learned": bool(upstream.get("hardly_learned")),
        }
    return groups


def _kinds(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return of which kind each source is that the spec names: `{tiny: tiny-imagenet, fractals: fractals}`."""
    pretrain = spec.get("pretrain")
    sources = (pretrain.get("sources") if isinstance(pretrain, dict) else None) or {}
    kinds: dict[str, str] = {}

    def read(part: Mapping[str, Any]) -> None:
        for name, value in part.items():
            if name == "grid" and isinstance(value, list):
                for one in value:
                    read(one)
            elif name in ("lattice", "simplex") and isinstance(value, list):
                kinds.update({each: each for each in value if each not in kinds})
            elif name == "options":
                read(value)
            elif isinstance(value, dict):
                kinds[name] = value.get("kind", name)
            elif name not in ("steps", "draws"):
                kinds.setdefault(name, name)

    if isinstance(sources, dict):
        read(sources)
    return kinds


def _rows(run: RunFolder, table: str) -> list[dict[str, Any]]:
    """Return the rows of one table of the report, of its first task, with what is kept of them."""
    frame = _csv(run, f"report/{table}.csv")
    if "task" in frame and len(frame):
        frame = frame[frame["task"] == frame["task"].iloc[0]]
    rows = frame.reindex(columns=list(KEPT[table])).to_dict("records")
    for row in rows:
        if "not_robust_to" in row and not isinstance(row["not_robust_to"], str):
            row["not_robust_to"] = ""
        for end in ("a", "b"):
            if end in row:
                row[end] = without_folders(row[end])
        for truth in ("equivalent", "slopes_differ", "heights_differ"):
            if truth in row:
                row[truth] = str(row[truth]) == "True"
    return rows


def _failed_checks(run: RunFolder) -> list[str]:
    """Return the names of the checks of the line that fail, as the report has them."""
    frame = _csv(run, "report/line_checks.csv")
    return sorted(set(frame.loc[frame["fails"].astype(str) == "True", "check"])) if len(frame) else []


def _of_a_search(run: RunFolder) -> dict[str, Any]:
    """Return what a search proposed and what was predicted from it, where the run is one."""
    more: dict[str, Any] = {}
    if (prediction := run.read_bytes("report/prediction.json")) is not None:
        more["prediction"] = json.loads(prediction)
    table = _csv(run, "search.csv")
    if len(table):
        objective = table.columns[2]
        ended = table[(table["state"] == "done") & table[objective].notna()]
        best = ended.sort_values(objective, ascending=False, kind="stable").head(5)
        drawn = best.drop(columns=["state", "trials"]).rename(columns={objective: "value"})
        rows = json.loads(drawn.to_json(orient="records"))
        more["search"] = {"objective": objective, "done": len(ended), "best": rows}
    return more


def _csv(run: RunFolder, name: str) -> pd.DataFrame:
    data = run.read_bytes(name)
    if not data or not data.strip():
        return pd.DataFrame()
    from io import BytesIO

    return pd.read_csv(BytesIO(data))


def _rounded(value: Any) -> Any:
    """Return a value in JSON's types, numbers to six significant digits, NaN as None."""
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
