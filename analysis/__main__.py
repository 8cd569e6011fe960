"""The command: `python -m analysis RUN_DIR...`, or `... TABLE.csv --id COL --ood COL --group COL --baseline VALUE`.

`python -m analysis power ...` is `ray_robust.prepare.power`, `RUN_DIR --predict` is `analysis.predict.text`.

Reads the arguments, runs the analysis, prints a summary for the terminal, and says where the report is. Runs, runs
joined and tables take the same way: `table.read_*` -> `study.analyse_all` -> `verdict`, `output.write`.
"""

from __future__ import annotations

import argparse
import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_robust.errors import DONE, Arguments, Problem, UserError, command
from ray_robust.files.regular_file import kind_at
from ray_robust.run.analysis_settings import DEFAULTS
from ray_robust.run.run_folder import RunFolder, suggestion
from ray_robust.text.names import clean

# `python -m analysis NAME ...` is another command; a run folder of that name is meant by ./NAME
COMMANDS = {"power": "ray_robust.prepare.power"}


def main(argv: list[str]) -> int:
    """Exit code 0 when a report was written. Raises UserError for mistakes in arguments or data."""
    if argv and argv[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))
    args = _parser().parse_args(argv)
    if args.predict:
        from analysis.predict import text as prediction_text

        if len(args.source) > 1:
            raise UserError(Problem(args.source[1], "a prediction is made from one run"))
        return prediction_text.main(args.source[0], args.out, args.at, args.confirm)
    warm_up()
    report_on(
        *args.source, out=args.out, scale=args.scale, margin=args.margin, id=args.id, ood=args.ood, group=args.group,
        baseline=args.baseline, cluster=args.cluster, percent=args.percent, id_min=args.id_min, unit=args.unit,
    )  # fmt: skip
    return DONE


def report_on(
    *sources: str,
    out: str | None = None,
    scale: str | None = None,
    margin: float | None = None,
    id: str | Sequence[str] = (),
    ood: str | None = None,
    group: str | None = None,
    baseline: str | None = None,
    cluster: str | None = None,
    percent: bool = False,
    id_min: float | None = None,
    unit: Sequence[str] = (),
    quiet: bool = False,
) -> str:
    """Analyse a run folder, several of them joined, or a CSV: write the report, print the summary; returns the address
    of the page."""
    from analysis import study
    from analysis.input import join_runs, plain_table
    from analysis.options import Options, check_options
    from analysis.report import output
    from analysis.verdict import verdict

    chosen: dict[str, Any] = {key: value for key, value in (("scale", scale), ("margin", margin)) if value is not None}
    columns = {"--id": id or None, "--ood": ood, "--group": group, "--baseline": baseline, "--cluster": cluster}
    tables = [source for source in sources if _is_table(source, columns)]
    if tables and len(sources) > 1:
        raise UserError(Problem(tables[0], "a table is analysed alone; only run folders are joined"))
    if tables:
        units, problems = _units(unit)
        first = id if isinstance(id, str) else next(iter(id), "")
        in_percent = units.get(first, "percent" if percent else "fraction") == "percent"
        floor = None if id_min is None else id_min / (100 if in_percent else 1)
        problems += [Problem(sources[0], f"{flag} is needed for a table") for flag, value in columns.items()
                    if value is None and flag != "--cluster"]  # fmt: skip
        names = () if isinstance(id, str) or len(id) < 2 else tuple(id)
        options = Options(
            clean(baseline or ""), **chosen, id_min=floor, unit="row" if cluster in (None, "none") else "cluster",
            id_names=names,
        )  # fmt: skip
        problems += check_options(options)
        if problems:
            raise UserError(*problems)
        found = plain_table.read_csv(sources[0], id=id, ood=ood or "", group=group or "", options=options,
                               cluster=cluster, percent=percent, units=units)  # fmt: skip
        target = out or f"{Path(sources[0]).stem}-analysis"
    else:
        given = [flag for flag, value in {
                    **columns, "--percent": percent or None, "--id-min": id_min, "--unit": unit or None}.items()
                 if value is not None]  # fmt: skip
        problems = [Problem(sources[0], f"{flag} is for tables; a run folder says it itself") for flag in given]
        if len(sources) > 1 and out is None:
            problems.append(Problem("", "several runs are joined: say with --out where their report goes"))
        problems += check_options(Options("", **chosen))
        if problems:
            raise UserError(*problems)
        found, options = join_runs.read_runs(sources)
        changed = {key: getattr(options, key) for key in chosen if chosen[key] != getattr(options, key)}
        said = [f"{key} is {_told(chosen[key])}, asked for on the command line; the spec had set {_told(before)}"
                for key, before in changed.items()]  # fmt: skip
        found, options = replace(found, warnings=(*found.warnings, *said)), replace(options, **chosen)
        target = out or (found.runs[0].storage / "report").address
    analyses = study.analyse_all(found, options)
    page, lost = output.write(target, found, analyses, verdict(analyses))
    if not quiet:
        from analysis.report.terminal import show

        show(found, analyses, page, lost)
    return page


def _units(declared: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
    """Column -> unit, of what was given as COL=percent or COL=fraction."""
    from analysis.input.units import UNITS

    units, problems = {}, []
    for text in declared:
        column, _, unit = text.rpartition("=")
        units[clean(column)] = unit
        if not column or unit not in UNITS:
            problems.append(Problem("", f"--unit: {text!r} is not COL=percent or COL=fraction"))
    return units, problems


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_table(source: str, columns: Mapping[str, object]) -> bool:
    path = Path(source)
    if path.is_dir() or "://" in source:
        return False
    if path.is_file() or path.suffix.lower() in (".csv", ".txt") or any(columns.values()):
        return True
    if what := kind_at(path):
        raise UserError(Problem(source, f"is {what}, not a file; wanted: a run folder or a table"))
    raise UserError(Problem(source, "no such run folder or table" + suggestion(RunFolder(source))))


def warm_up() -> None:
    """Load in the background what a report needs: a caller that waits for something else calls this first."""
    threading.Thread(target=_load, daemon=True).start()


def _load() -> None:
    """Start the process that draws and make the page's JavaScript while the other modules load: that takes two seconds,
    outside Python's lock."""
    from analysis.report.bundle import javascript
    from analysis.report.figures import warm_up as start_drawing

    start_drawing()
    javascript()


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="python -m analysis", description="From ID and OOD scores to a verdict.")
    source = "a finished or partial run, several to be joined, or any table of scores"
    parser.add_argument("source", metavar="RUN_DIR|TABLE.csv", nargs="+", help=source)
    add = parser.add_argument
    add("--id", metavar="COL", action="append", default=[],
        help="table: the column of in-distribution scores; again for another ID set")  # fmt: skip
    add("--ood", metavar="COL", help="table: the column of out-of-distribution scores")
    add("--group", metavar="COL", help="table: the column that names the group of a row")
    add("--baseline", metavar="VALUE", help="table: the group that the reference line is fitted on")
    add("--cluster", metavar="COL", help="table: the column that says which rows belong together, or none if none do")
    add("--percent", action="store_true", help="table: scores are 0-100 rather than 0-1")
    add("--unit", metavar="COL=percent|fraction", action="append", default=[],
        help="table: the unit of one column, whatever its scores look like and --percent says")  # fmt: skip
    add("--id-min", type=float, metavar="SCORE", help="table: leave out rows with a lower ID score (in its own unit)")
    add(
        "--scale",
        metavar="probit|logit|linear",
        help=f"axis that lines are fitted on (default: the spec's, or {DEFAULTS.scale})",
    )
    add("--margin", type=float, metavar="PP",
        help=f"points of ER that count as no effect (default: the spec's, or {DEFAULTS.margin:g})")  # fmt: skip
    add("--predict", action="store_true", help="run: predict ER, ID and OOD of mixtures that were not trained")
    add("--at", type=int, metavar="IMAGES", help="with --predict: write confirm.yaml for a run at this larger total")
    add("--confirm", metavar="RUN_DIR", help="with --predict: compare with that larger run")
    add("--out", metavar="DIR", help="where to write (default: RUN_DIR/report, or TABLE-analysis here)")
    return parser


if __name__ == "__main__":
    command(main)
