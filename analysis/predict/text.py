"""A prediction as files and text: prediction.csv and .json, the figure, next.yaml and confirm.yaml, the summary.

Owns `python -m analysis RUN --predict [--at TOTAL] [--confirm RUN] [--task NAME]` and nothing that
computes; see `predict`.
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

from analysis import formatting, study
from analysis.decisions.best import MOST_LISTED
from analysis.formatting import percent, some
from analysis.input.run_points import read_run
from analysis.input.table import Table
from analysis.options import check_options
from analysis.predict.mixtures import Mixture, Space, spec_with
from analysis.predict.predict import TARGETS, Confirmation, Prediction, Target, confirm, predict
from analysis.stats.agreement import ESTIMATE
from analysis.writing import put
from ray_robust.errors import DONE, Problem, UserError, did_you_mean
from ray_robust.run.run_folder import RunFolder
from ray_robust.text import safe_csv
from ray_robust.text.console import console as screen


def main(source: str, out: str | None, at: int | None, larger: str | None, task: str | None = None) -> int:
    """Predict from one task of a run, the first unless it is named, write the files, print the summary. Raises
    UserError."""
    table, options = read_run(source)
    problems = check_options(options)
    if at is not None and at < 1:
        problems.append(Problem("", f"--at: {at} is no number of images"))
    if problems or table.run is None:
        raise UserError(*problems)
    analyses = {analysis.task: analysis for analysis in study.analyse_all(table, options)}
    if task is not None and task not in analyses:
        raise UserError(Problem("", f"--task: the run has no task {task!r}{did_you_mean(task, analyses)}"))
    chosen = task or next(iter(analyses))
    prediction = predict(table, analyses[chosen])
    confirmation = _compared(prediction, larger) if larger is not None else None
    folder = RunFolder(out or (table.run.storage / "report").address)
    written, lost = write(folder, table, prediction, at, confirmation)
    others = [name for name in analyses if name != chosen]
    if task is None and others:
        lost.append(f"this is of the task {chosen} alone; for {some(others, MOST_LISTED)}: --task NAME, with --out DIR")
    show(table, prediction, confirmation, folder, written, lost)
    return DONE


def _compared(prediction: Prediction, larger: str) -> Confirmation | str:
    table, options = read_run(larger)
    analyses = {analysis.task: analysis for analysis in study.analyse_all(table, options)}
    if prediction.task not in analyses:
        return f"the larger run has no task {prediction.task}"
    return confirm(prediction, table, analyses[prediction.task])


# --- files


def write(
    folder: RunFolder, table: Table, prediction: Prediction, at: int | None, confirmation: Confirmation | str | None
) -> tuple[list[str], list[str]]:
    """Write the files of a prediction; return their names, and a sentence where the figure failed."""
    lost: list[str] = []
    files: dict[str, str | bytes] = {
        "prediction.csv": safe_csv.text_of(rows(prediction)),
        "prediction.json": json.dumps(facts(prediction, confirmation), indent=1, allow_nan=False, ensure_ascii=False)
        + "\n",
    }
    if prediction.best is not None and prediction.space is not None and table.run is not None:
        from analysis.predict.figure import exported
        from analysis.report.figures import NotDrawn

        spec, name = table.run.spec(), table.name
        asked = f"Is ER as predicted from {name} at the mixtures where it may be highest?"
        if text := spec_with(spec, prediction.space, prediction.proposals, asked):
            files["next.yaml"] = text
        larger = [Mixture(at, m.classes, m.shares, m.levels) for m in prediction.confirm] if at else []
        asked = f"Does the order of mixtures that {name} predicts hold at {at:,} images?" if at else ""
        if larger and (text := spec_with(spec, prediction.space, larger, asked)):
            files["confirm.yaml"] = text
        try:
            files |= exported(prediction, confirmation if isinstance(confirmation, Confirmation) else None)
        except NotDrawn as error:
            lost.append(f"the figure prediction could not be drawn: {error}")
    if isinstance(confirmation, Confirmation):
        files["confirmation.csv"] = safe_csv.text_of(confirmation.table)
    put(folder.storage, files)
    return list(files), lost


def rows(prediction: Prediction) -> pd.DataFrame:
    """Return prediction.csv: a row per group tried, then the best mixture and the proposals. Per target the measured
    mean, the surface with its interval, and what was predicted when the mixture was left out; percentage points."""
    records = []
    for i, (group, mixture) in enumerate(zip(prediction.groups, prediction.mixtures, strict=True)):
        row = {"kind": "tried", "group": group, **_columns(mixture)}
        for name, target in prediction.targets.items():
            row |= {
                "trials": int(target.counts[i]),
                name: target.values[i],
                f"{name}_left_out": target.check.predicted[i],
            }
        records.append(row)
    records += [{"kind": "best", **_columns(m)} for m in ([prediction.best] if prediction.best else [])]
    records += [{"kind": "next", **_columns(m)} for m in prediction.proposals]
    frame = pd.DataFrame(records)
    if prediction.space is not None and len(frame):
        every = [*prediction.mixtures, *([prediction.best] if prediction.best else []), *prediction.proposals]
        for name, target in prediction.targets.items():
            if target.surface is not None:
                ends = target.at(prediction.space.at(every))
                frame[[f"{name}_predicted", f"{name}_low", f"{name}_high"]] = np.column_stack(ends)
    return frame


def _columns(mixture: Mixture) -> dict[str, Any]:
    shares = json.dumps({name: round(share, 6) for name, share in mixture.shares})
    return {"num_images": mixture.images, "num_classes": mixture.classes, "sources": shares, **dict(mixture.levels)}


def facts(prediction: Prediction, confirmation: Confirmation | str | None) -> dict[str, Any]:
    """Return prediction.json; NaN as null."""
    space = prediction.space
    record: dict[str, Any] = {
        "task": prediction.task,
        "mark": prediction.mark,
        "varied": space.text if space else "",
        "varied_beside": list(prediction.beside),
        "refused": _refusal(prediction),
        "targets": {name: _target_facts(target) for name, target in prediction.targets.items()},
        "best": _with_values(prediction, prediction.best) if prediction.best else None,
        "as_good": {"mixtures": len(prediction.as_good), "of": prediction.looked_at,
                    "ranges": space.ranges(prediction.as_good) if space and prediction.as_good else ""},
        "next": [_with_values(prediction, mixture) for mixture in prediction.proposals],
        "confirm": [space.describe(mixture) for mixture in prediction.confirm] if space else [],
        "reference_images": prediction.reference or None,
        "best_set": {"groups": list(prediction.best_set), "of": prediction.compared},
    }  # fmt: skip
    if isinstance(confirmation, Confirmation):
        record["confirmation"] = {"spearman": _plain(confirmation.spearman), "kendall": _plain(confirmation.kendall),
                                "compositions": len(confirmation.table), "regret": confirmation.regret}  # fmt: skip
    elif confirmation:
        record["confirmation"] = {"refused": confirmation}
    return record


def _refusal(prediction: Prediction) -> str | None:
    if prediction.refused:
        return prediction.refused
    return None if prediction.best is not None else _no_better(prediction.targets["er"])


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


def _with_values(prediction: Prediction, mixture: Mixture) -> dict[str, Any]:
    assert prediction.space is not None
    record: dict[str, Any] = {"mixture": prediction.space.describe(mixture), **_columns(mixture)}
    for name, target in prediction.targets.items():
        if target.surface is not None:
            record[name] = [float(end[0]) for end in target.at(prediction.space.at([mixture]))]
    return record


def _plain(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


# --- words


def show(
    table: Table, prediction: Prediction, confirmation: Confirmation | str | None, folder: RunFolder,
    written: Sequence[str], lost: Sequence[str] = (), console: Console | None = None,
) -> None:  # fmt: skip
    """Print the summary for a terminal."""
    out = console or screen()

    def line(text: str) -> None:
        out.print(escape(text), soft_wrap=True)

    trials = int(sum(next(iter(prediction.targets.values())).counts)) if prediction.targets else 0
    count = len(set(prediction.mixtures))
    out.print(f"[bold]{escape(table.name)}[/]  {count} mixtures, {trials} trials", soft_wrap=True)
    if prediction.space is not None:
        line(f"varied: {prediction.space.text}")
    if prediction.beside:
        what = "varies, too, and is" if len(prediction.beside) == 1 else "vary, too, and are"
        line(f"{some(prediction.beside, MOST_LISTED)} {what} no axis here: the numbers hold for what was tried")
    if prediction.left_out:
        line(f"{prediction.left_out} groups have no point in the baseline's ID range and are left out")
    if prediction.targets:
        out.print(_checks(prediction.targets))
    for sentence in (*sentences(prediction), *_trained(prediction)):
        line(sentence)
    if isinstance(confirmation, Confirmation):
        out.print(_confirmation(confirmation))
    for sentence in _of_confirmation(confirmation):
        line(sentence)
    for sentence in lost:
        line(sentence)
    line(f"written to {folder.storage.shown}: {', '.join(written)}")


def sentences(prediction: Prediction) -> list[str]:
    """Return the results of the prediction as sentences, marked as it is; only what its check supports."""
    return [one if one.startswith(" ") else _marked(prediction, one) for one in _sentences(prediction)]


def _marked(prediction: Prediction, text: str) -> str:
    return f"{prediction.mark}: {text}" if prediction.mark else text


def _sentences(prediction: Prediction) -> list[str]:
    if prediction.refused:
        return [f"Not established: any prediction, because {prediction.refused}."]
    er, space = prediction.targets["er"], prediction.space
    if prediction.best is None or er.surface is None or space is None:
        return [f"Not established: how ER depends on the mixture, because {_no_better(er)}; nothing is proposed."]

    def at(mixture: Mixture) -> str:
        return f"{space.describe(mixture)}: ER {_with_interval(er, space, mixture)}"

    share = len(prediction.as_good) / max(prediction.looked_at, 1)
    top = max(range(len(prediction.groups)), key=lambda i: er.values[i])
    trained = prediction.mixtures[top]
    return [
        f"Best inside the tried region: {at(prediction.best)}.",
        f"Not to be told from it (95 %): {percent(share, 0)} of the {prediction.looked_at:,} mixtures looked at; "
        f"{space.ranges(prediction.as_good)}.",
        f"Best of those trained: {space.describe(trained)}: ER {er.values[top]:+.1f} {_how(prediction)}, "
        f"{_with_interval(er, space, trained)} predicted.",
        "Next, where ER may be highest (upper end of the 80 % interval, each as if those before it were known):",
        *(f"  {space.describe(m)}: {_with_interval(er, space, m)}" for m in prediction.proposals),
    ]


def _trained(prediction: Prediction) -> list[str]:
    """Which of the groups trained may be best, as measured."""
    if not prediction.compared:
        return []
    among = some([formatting.name(group) for group in prediction.best_set], MOST_LISTED)
    of = f"Of {prediction.compared} groups trained, the one with the highest ER is among {among}"
    return [_marked(prediction, f"{of} (95 %, {_how(prediction)}).")]


def _how(prediction: Prediction) -> str:
    return "estimated" if ESTIMATE in prediction.mark else "measured"


def _with_interval(target: Target, space: Space, mixture: Mixture) -> str:
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
        record = _target_facts(target)
        coverage = percent(record["inside_95"], 0)
        numbers = (f"{record['error']:.2f}", f"{record['error_of_mean']:.2f}", percent(record["skill"], 0),
                   f"{record['p']:.3f}")  # fmt: skip
        grid.add_row(TARGETS[name], *numbers, coverage, "" if record["used"] else "no better than the mean: not used")
    return grid


def _confirmation(confirmation: Confirmation) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("composition", "predicted", "95 %", "in the larger run", "95 %"):
        grid.add_column(name, justify="left" if name == "composition" else "right")
    for row in confirmation.table.itertuples():
        mark = "" if row.inside else " (outside the tried region)"
        interval = f"{row.er_low:.1f} to {row.er_high:.1f}" if math.isfinite(row.er_low) else "–"
        predicted = f"{row.predicted_low:.1f} to {row.predicted_high:.1f}"
        name = escape(f"{row.mixture}{mark}")
        grid.add_row(name, f"{row.predicted:+.1f}", predicted, f"{row.observed:+.1f}", interval)
    return grid


def _of_confirmation(confirmation: Confirmation | str | None) -> list[str]:
    if not isinstance(confirmation, Confirmation):
        return [f"Not established: whether the order holds, because {confirmation}."] if confirmation else []
    correlations = []
    for name, (value, low, high) in (("Spearman", confirmation.spearman), ("Kendall", confirmation.kendall)):
        interval = f"({low:.2f} to {high:.2f})" if math.isfinite(low) else "(too few compositions for an interval)"
        correlations.append(f"{name} {value:.2f} {interval}")
    low = confirmation.spearman[1]
    head = "The order holds" if low > 0 else "Not established: that the order holds"
    return [
        f"{head}: rank correlation of ER predicted at {confirmation.reference:,} images with ER in the larger run over "
        f"{len(confirmation.table)} compositions: {', '.join(correlations)}.",
        f"The composition predicted to be best is {confirmation.regret:.1f} points of ER behind the best of the larger "
        "run."
        if confirmation.regret > 0
        else "The composition predicted to be best is the best of the larger run.",
    ]
