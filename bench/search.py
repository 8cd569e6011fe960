"""A search beside a grid of the same region: `python -m bench.search [--out DIR] [--spec SPEC] [--seeds N]`.

Runs the search of a spec and a grid of 60 mixtures over its space (a lattice of five by four totals by three numbers of
classes), takes the best mixture of each by effective robustness on the validation splits, and runs both again with new
seeds: the choice and its test are then of other trainings. The cost is in training images, the baseline's left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench import show

STEPS, TOTALS, CLASSES = 4, 4, 3  # of the grid: 5 mixtures x 4 totals x 3 numbers of classes
FIRST_SEED = 101  # of the confirmation: none that a search has used


def main(argv: list[str]) -> None:
    """Run all three sweeps (what is there already is not run again), print the table and the JSON line."""
    from ray_robust import sweep

    parser = argparse.ArgumentParser("python -m bench.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spec", default="sweeps/search.yaml")
    parser.add_argument("--out", default="runs/bench-search")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the confirmation")
    args = parser.parse_args(argv)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tree = yaml.safe_load(Path(args.spec).read_text("utf-8"))
    specs = {"search": tree, "grid": grid_of(tree)}
    best = {}
    for name, spec in specs.items():
        run(sweep.main, out, name, spec)
        best[name] = best_of(out / name, spec["analysis"]["scale"])
    again = confirmation(tree, best, args.seeds)
    run(sweep.main, out, "again", again)
    groups = pd.read_csv(out / "again" / "report" / "groups.csv").set_index("group")
    found: dict[str, Any] = {}
    for name in specs:
        table = pd.read_csv(out / name / "plan.csv")
        drawn = table[table["group"] != "scratch"]
        confirmed = groups.loc[group_of(best[name])]
        found |= {f"{name}_trials": len(drawn), f"{name}_cost_images": int(drawn["cost_images"].sum()),
                  f"{name}_best": group_of(best[name]), f"{name}_er": round(float(confirmed["er"]), 2),
                  f"{name}_er_low": round(float(confirmed["er_low"]), 2),
                  f"{name}_er_high": round(float(confirmed["er_high"]), 2)}  # fmt: skip
    found["cost_search_over_grid"] = round(found["search_cost_images"] / found["grid_cost_images"], 3)
    found["within"] = bool(found["search_er"] >= found["grid_er_low"])
    show(("way", "trials", "training images", "best mixture", "ER of new seeds"),
         [(name, str(found[f"{name}_trials"]), f"{found[f'{name}_cost_images']:,}", found[f"{name}_best"],
           f"{found[f'{name}_er']:+.1f} ({found[f'{name}_er_low']:+.1f} to {found[f'{name}_er_high']:+.1f})")
          for name in specs], found)  # fmt: skip


def run(command: Any, out: Path, name: str, spec: dict[str, Any]) -> None:
    """One sweep, or what is missing of it."""
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    if command([str(file), "--out", str(out / name)]) != 0:
        sys.exit(f"{file}: some of its trials failed")


def grid_of(tree: dict[str, Any]) -> dict[str, Any]:
    """A grid over the space of a search: its sources on a lattice, totals and classes evenly on their log scales."""
    pretrain = dict(tree["pretrain"])
    pretrain["sources"] = {"lattice": pretrain["sources"]["simplex"], "steps": STEPS}
    for key, count in (("num_images", TOTALS), ("num_classes", CLASSES)):
        low, high = (_number(end) for end in pretrain[key]["loguniform"])
        inner = [low * (high / low) ** ((i + 0.5) / count) for i in range(count)]  # middles of equal parts
        pretrain[key] = {"grid": [round(value) for value in inner]}
    return {**tree, "pretrain": pretrain, "search": {"method": "grid"}}


def best_of(run_folder: Path, scale: str) -> dict[str, Any]:
    """The mixture of a run with the highest effective robustness on the validation splits, as keys of `pretrain`."""
    from ray_robust.launch.search.objective import Objective, lines_of

    table = pd.read_csv(run_folder / "results.csv")
    done = table[table["status"] == "done"]
    objective = Objective("effective_robustness", lines_of(_rows(done[done["group"] == "scratch"]), scale, 0.0))
    values = {group: objective.value([_rows(rows)]) for group, rows in done.groupby("group") if group != "scratch"}
    chosen = max((value, group) for group, value in values.items() if value is not None)[1]
    row = pd.read_csv(run_folder / "plan.csv").set_index("group").loc[[chosen]].iloc[0]
    return {"sources": yaml.safe_load(row["sources"]), "num_images": int(row["num_images"]),
            "num_classes": int(row["num_classes"])}  # fmt: skip


def confirmation(tree: dict[str, Any], best: dict[str, dict[str, Any]], seeds: int) -> dict[str, Any]:
    """The best mixtures, each once, with seeds that neither way has used."""
    fixed = {key: value for key, value in tree["pretrain"].items() if key not in next(iter(best.values()))}
    points = list({str(point): point for point in best.values()}.values())
    return {**tree, "pretrain": {**fixed, "points": points}, "search": {"method": "grid"},
            "seeds": list(range(FIRST_SEED, FIRST_SEED + seeds))}  # fmt: skip


def group_of(point: dict[str, Any]) -> str:
    """The group's name that a point of `pretrain.points` has."""
    from ray_robust.spec.validation_messages import format_value

    return ", ".join(f"{key}={format_value(value)}" for key, value in point.items())


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _number(end: Any) -> float:
    from ray_robust.spec.values import parse_number

    return float(parse_number(end) or 0) if isinstance(end, str) else float(end)


if __name__ == "__main__":
    main(sys.argv[1:])
