"""A prediction as files and words: prediction.csv and .json, the figure, next.yaml and confirm.yaml, the summary.

Owns `python -m analysis RUN --predict [--at TOTAL] [--confirm RUN]` and nothing that computes; see `predict`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from analysis import study
from analysis.input.run_points import read_run
from analysis.input.table import Table
from analysis.options import check_options
from analysis.predict.mixtures import Mixture, Space, spec_with
from analysis.predict.predict import TARGETS, Confirmation, Prediction, Target, confirm, predict
from analysis.writing import put
from ray_robust.errors import DONE, Problem, UserError
from ray_robust.run.run_folder import RunFolder
from ray_robust.text import safe_csv
from ray_robust.text.console import Screen


def main(source: str, out: str | None, at: int | None, larger: str | None) -> int:
    """Predict from a run, write the files, print the summary. Raises UserError."""
    table, options = read_run(source)
    problems = check_options(options)
    if at is not None and at < 1:
        problems.append(Problem("", f"--at: {at} is no number of images"))
    if problems or table.run is None:
        raise UserError(*problems)
    found = predict(table, study.analyse_all(table, options)[0])
    compared = _compared(found, larger) if larger is not None else None
    folder = RunFolder(out or (table.run.storage / "report").address)
    written, lost = write(folder, table, found, at, compared)
    show(table, found, compared, folder, written, lost)
    return DONE


def _compared(found: Prediction, larger: str) -> Confirmation | str:
    table, options = read_run(larger)
    analyses = {analysis.task: analysis for analysis in study.analyse_all(table, options)}
    if found.task not in analyses:
        return f"the larger run has no task {found.task}"
    return confirm(found, table, analyses[found.task])


# --- files


def write(
    folder: RunFolder, table: Table, found: Prediction, at: int | None, compared: Confirmation | str | None
) -> tuple[list[str], list[str]]:
    """Write what there is to say; returns the names of the files, and a sentence where the figure failed."""
    lost: list[str] = []
    files: dict[str, str | bytes] = {
        "prediction.csv": safe_csv.text_of(rows(found)),
        "prediction.json": json.dumps(facts(found, compared), indent=1, allow_nan=False, ensure_ascii=False) + "\n",
    }
    if found.best is not None and found.space is not None and table.run is not None:
        from analysis.predict.figure import exported
        from analysis.report.figures import NotDrawn

        spec, name = table.run.spec(), table.name
        asked = f"Is ER as predicted from {name} at the mixtures where it may be highest?"
        if text := spec_with(spec, found.space, found.proposals, asked):
            files["next.yaml"] = text
        larger = [Mixture(at, m.classes, m.shares, m.levels) for m in found.confirm] if at else []
        asked = f"Does the order of mixtures that {name} predicts hold at {at:,} images?" if at else ""
        if larger and (text := spec_with(spec, found.space, larger, asked)):
            files["confirm.yaml"] = text
        try:
            files |= exported(found, compared if isinstance(compared, Confirmation) else None)
        except NotDrawn as error:
            lost.append(f"the figure prediction could not be drawn: {error}")
    if isinstance(compared, Confirmation):
        files["confirmation.csv"] = safe_csv.text_of(compared.table)
    put(folder.storage, files)
    return list(files), lost


def rows(found: Prediction) -> pd.DataFrame:
    """prediction.csv: a row per group tried, then the best mixture and the proposals. Per target the measured mean, the
    surface with its interval, and what was predicted when the mixture was left out; percentage points."""
    told = []
    for i, (group, mixture) in enumerate(zip(found.groups, found.mixtures, strict=True)):
        row = {"kind": "tried", "group": group, **_columns(mixture)}
        for name, target in found.targets.items():
            row |= {
                "trials": int(target.counts[i]),
                name: target.values[i],
                f"{name}_left_out": target.check.predicted[i],
            }
        told.append(row)
    told += [{"kind": "best", **_columns(m)} for m in ([found.best] if found.best else [])]
    told += [{"kind": "next", **_columns(m)} for m in found.proposals]
    frame = pd.DataFrame(told)
    if found.space is not None and len(frame):
        every = [*found.mixtures, *([found.best] if found.best else []), *found.proposals]
        for name, target in found.targets.items():
            if target.surface is not None:
                ends = target.at(found.space.at(every))
                frame[[f"{name}_predicted", f"{name}_low", f"{name}_high"]] = np.column_stack(ends)
    return frame


def _columns(mixture: Mixture) -> dict[str, Any]:
    shares = json.dumps({name: round(share, 6) for name, share in mixture.shares})
    return {"num_images": mixture.images, "num_classes": mixture.classes, "sources": shares, **dict(mixture.levels)}


def facts(found: Prediction, compared: Confirmation | str | None) -> dict[str, Any]:
    """prediction.json; NaN as null."""
    space = found.space
    told: dict[str, Any] = {
        "task": found.task,
        "varied": space.text if space else "",
        "refused": _refusal(found),
        "targets": {name: _target_facts(target) for name, target in found.targets.items()},
        "best": _with_values(found, found.best) if found.best else None,
        "as_good": {"mixtures": len(found.as_good), "of": found.looked_at,
                    "ranges": space.ranges(found.as_good) if space and found.as_good else ""},
        "next": [_with_values(found, mixture) for mixture in found.proposals],
        "confirm": [space.told(mixture) for mixture in found.confirm] if space else [],
        "reference_images": found.reference or None,
    }  # fmt: skip
    if isinstance(compared, Confirmation):
        told["confirmation"] = {"spearman": _plain(compared.spearman), "kendall": _plain(compared.kendall),
                                "compositions": len(compared.table), "regret": compared.regret}  # fmt: skip
    elif compared:
        told["confirmation"] = {"refused": compared}
    return told


def _refusal(found: Prediction) -> str | None:
    if found.refused:
        return found.refused
    return None if found.best is not None else _no_better(found.targets["er"])


def _target_facts(target: Target) -> dict[str, Any]:
    check = target.check
    inside = (check.low <= target.values) & (target.values <= check.high)
    return {
        "mixtures_left_out": len(target.values),
        "error": check.error,
        "error_of_mean": check.of_mean,
        "skill": check.skill,
        "p": check.p,
        "inside_95": float(inside[np.isfinite(check.low)].mean()) if np.isfinite(check.low).any() else None,
        "used": target.surface is not None,
        "noise": target.surface.noise if target.surface else None,
    }


def _with_values(found: Prediction, mixture: Mixture) -> dict[str, Any]:
    assert found.space is not None
    told: dict[str, Any] = {"mixture": found.space.told(mixture), **_columns(mixture)}
    for name, target in found.targets.items():
        if target.surface is not None:
            told[name] = [float(end[0]) for end in target.at(found.space.at([mixture]))]
    return told


def _plain(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


# --- words


def show(
    table: Table, found: Prediction, compared: Confirmation | str | None, folder: RunFolder, written: Sequence[str],
    lost: Sequence[str] = (), console: Console | None = None,
) -> None:  # fmt: skip
    """The summary for a terminal."""
    out = console or Screen(highlight=False)

    def say(text: str) -> None:
        out.print(escape(text), soft_wrap=True)

    trials = int(sum(next(iter(found.targets.values())).counts)) if found.targets else 0
    out.print(f"[bold]{escape(table.name)}[/]  {len(set(found.mixtures))} mixtures, {trials} trials", soft_wrap=True)
    if found.space is not None:
        say(f"varied: {found.space.text}")
    if found.left_out:
        say(f"{found.left_out} groups have no point in the baseline's ID range and are left out")
    if found.targets:
        out.print(_checks(found.targets))
    for sentence in sentences(found):
        say(sentence)
    if isinstance(compared, Confirmation):
        out.print(_confirmation(compared))
    for sentence in _of_confirmation(compared):
        say(sentence)
    for sentence in lost:
        say(sentence)
    say(f"written to {folder.storage.shown}: {', '.join(written)}")


def sentences(found: Prediction) -> list[str]:
    """What the prediction comes to; only what its check supports."""
    if found.refused:
        return [f"Not established: any prediction, because {found.refused}."]
    er, space = found.targets["er"], found.space
    if found.best is None or er.surface is None or space is None:
        return [f"Not established: how ER depends on the mixture, because {_no_better(er)}; nothing is proposed."]
    said = [f"Best inside the tried region: {space.told(found.best)}: ER {_told(er, space, found.best)}."]
    share = len(found.as_good) / max(found.looked_at, 1)
    said.append(f"Not to be told from it (95 %): {share:.0%} of the {found.looked_at:,} mixtures looked at; "
                f"{space.ranges(found.as_good)}.")  # fmt: skip
    top = max(range(len(found.groups)), key=lambda i: er.values[i])
    said.append(f"Best of those trained: {space.told(found.mixtures[top])}: ER {er.values[top]:+.1f} measured, "
                f"{_told(er, space, found.mixtures[top])} predicted.")  # fmt: skip
    said.append(
        "Next, where ER may be highest (upper end of the 80 % interval, each as if those before it were known):"
    )
    return said + [f"  {space.told(mixture)}: {_told(er, space, mixture)}" for mixture in found.proposals]


def _told(target: Target, space: Space, mixture: Mixture) -> str:
    value, low, high = (float(end[0]) for end in target.at(space.at([mixture])))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def _no_better(target: Target) -> str:
    return (
        f"mixtures left out are predicted with an error of {target.check.error:.2f} points, by the mean of the others "
        f"with {target.check.of_mean:.2f} (p = {target.check.p:.2f})"
    )


def _checks(targets: dict[str, Target]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("left out, predicted", "error", "of the mean", "explained", "p", "in their 95 %", ""):
        grid.add_column(name, justify="left" if name in ("left out, predicted", "") else "right")
    for name, target in targets.items():
        told = _target_facts(target)
        held = f"{told['inside_95']:.0%}" if told["inside_95"] is not None else "–"
        grid.add_row(TARGETS[name], f"{told['error']:.2f}", f"{told['error_of_mean']:.2f}", f"{told['skill']:.0%}",
                     f"{told['p']:.3f}", held, "" if told["used"] else "no better than the mean: not used")  # fmt: skip
    return grid


def _confirmation(compared: Confirmation) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("composition", "predicted", "95 %", "in the larger run", "95 %"):
        grid.add_column(name, justify="left" if name == "composition" else "right")
    for row in compared.table.itertuples():
        mark = "" if row.inside else " (outside the tried region)"
        seen = f"{row.er_low:.1f} to {row.er_high:.1f}" if math.isfinite(row.er_low) else "–"
        grid.add_row(escape(f"{row.mixture}{mark}"), f"{row.predicted:+.1f}",
                     f"{row.predicted_low:.1f} to {row.predicted_high:.1f}", f"{row.observed:+.1f}", seen)  # fmt: skip
    return grid


def _of_confirmation(compared: Confirmation | str | None) -> list[str]:
    if not isinstance(compared, Confirmation):
        return [f"Not established: whether the order holds, because {compared}."] if compared else []
    told = []
    for name, (value, low, high) in (("Spearman", compared.spearman), ("Kendall", compared.kendall)):
        interval = f"({low:.2f} to {high:.2f})" if math.isfinite(low) else "(too few compositions for an interval)"
        told.append(f"{name} {value:.2f} {interval}")
    low = compared.spearman[1]
    head = "The order holds" if low > 0 else "Not established: that the order holds"
    return [
        f"{head}: rank correlation of ER predicted at {compared.reference:,} images with ER in the larger run over "
        f"{len(compared.table)} compositions: {', '.join(told)}.",
        f"The composition predicted to be best is {compared.regret:.1f} points of ER behind the best of the larger run."
        if compared.regret > 0
        else "The composition predicted to be best is the best of the larger run.",
    ]
