"""The command: `python -m analysis RUN_DIR...`, or `... TABLE.csv --id COL --ood COL --group COL --baseline VALUE`.

`python -m analysis power ...` is `ray_robust.prepare.power`, `RUN_DIR --predict` is `analysis.predict.text`.

Owns the arguments and `Request`, what they ask for. A run, runs joined and a table go the same way: points are read
(`input`), analysed (`study`), written (`report.output`) and summarised on the terminal.
"""

from __future__ import annotations

import argparse
import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_robust.errors import DONE, Arguments, Problem, UserError, command
from ray_robust.files.regular_file import kind_at
from ray_robust.run.analysis_settings import DEFAULTS
from ray_robust.text.names import normalise, printable

if TYPE_CHECKING:
    from analysis.input.table import Table
    from analysis.options import Options

# `python -m analysis NAME ...` is another command; a run folder of that name is meant by ./NAME
COMMANDS = {"power": "ray_robust.prepare.power"}


def main(argv: list[str]) -> int:
    """Return exit code 0 when a report was written. Raises UserError for errors in arguments or data."""
    if argv and argv[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))
    args = _parser().parse_args(argv)
    if args.predict:
        from analysis.predict import text as prediction

        if len(args.source) > 1:
            raise UserError(Problem(args.source[1], "a prediction is made from one run"))
        return prediction.main(args.source[0], args.out, args.at, args.confirm)
    warm_up()
    report_on(Request(
        tuple(args.source), args.out, args.scale, args.margin, tuple(args.id), args.ood, args.group, args.baseline,
        args.cluster, args.percent, args.id_min, tuple(args.unit), args.title,
    ))  # fmt: skip
    return DONE


@dataclass(frozen=True)
class Request:
    """What an analysis was asked for.

    sources        one run folder, several to be joined, or one table
    out            the folder of the report; None: the run's own, or one beside the user
    scale, margin  in place of the spec's, or of the defaults
    title          what the report is called, in place of the run's question or the table's name
    The rest is for a table alone: the names of its columns (`id` one or several), the baseline's group, whether scores
    are in per cent, the lowest ID score that enters in that unit, and `COL=percent` or `COL=fraction` for columns whose
    unit is another.
    """

    sources: tuple[str, ...]
    out: str | None = None
    scale: str | None = None
    margin: float | None = None
    id: str | tuple[str, ...] = ()
    ood: str | None = None
    group: str | None = None
    baseline: str | None = None
    cluster: str | None = None
    percent: bool = False
    id_min: float | None = None
    unit: tuple[str, ...] = ()
    title: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The columns of ID scores."""
        return (self.id,) if isinstance(self.id, str) else self.id

    @property
    def columns(self) -> dict[str, object]:
        """Flag -> what was given for it, None where nothing was, of those that name a column or a value in one."""
        given = {"--ood": self.ood, "--group": self.group, "--baseline": self.baseline, "--cluster": self.cluster}
        return {"--id": self.ids or None, **given}

    @property
    def settings(self) -> dict[str, Any]:
        """The options that replace the spec's, by name."""
        given = {"scale": self.scale, "margin": self.margin}
        return {key: value for key, value in given.items() if value is not None}


def report_on(request: Request, quiet: bool = False) -> str:
    """Analyse a run folder, several of them joined, or a CSV: write the report and print the summary unless `quiet`.
    Return the address of the page. Raises UserError with every mistake in the request or the data."""
    from analysis import study
    from analysis.report import output
    from analysis.verdict import verdict

    if request.title is not None and not _title(request.title):
        raise UserError(Problem("", "--title is empty; wanted: what the report is called, or no --title"))
    tables = [source for source in request.sources if _is_table(source, request.columns)]
    if tables and len(request.sources) > 1:
        raise UserError(Problem(tables[0], "a table is analysed alone; only run folders are joined"))
    table, options, target = _read_table(request) if tables else _read_runs(request)
    title = _title(request.title)
    table = replace(table, title=title)
    analyses = study.analyse_all(table, options)
    made = {"title": title, **verdict(analyses, table)} if title else verdict(analyses, table)
    page, lost = output.write(target, table, analyses, made)
    if not quiet:
        from analysis.report.terminal import show

        show(table, analyses, page, lost, advice=output.advice_in(made))
    return page


def _read_table(request: Request) -> tuple[Table, Options, str]:
    """The points of the request's table, its options, and the folder of its report."""
    from analysis.input import dependence, plain_table
    from analysis.options import Options, check_options

    source, ids = request.sources[0], request.ids
    units, problems = _units(request.unit)
    in_percent = units.get(ids[0] if ids else "", "percent" if request.percent else "fraction") == "percent"
    floor = None if request.id_min is None else request.id_min / (100 if in_percent else 1)
    problems += [Problem(source, f"{flag} is needed for a table") for flag, value in request.columns.items()
                 if value is None and flag != "--cluster"]  # fmt: skip
    options = Options(
        normalise(request.baseline or ""), **request.settings, id_min=floor,
        unit="row" if request.cluster in (None, dependence.INDEPENDENT) else "cluster",
        id_names=ids if len(ids) > 1 else (),
    )  # fmt: skip
    problems += check_options(options)
    if problems:
        raise UserError(*problems)
    table = plain_table.read_csv(
        source, id=request.id, ood=request.ood or "", group=request.group or "", options=options,
        cluster=request.cluster, percent=request.percent, units=units,
    )  # fmt: skip
    return table, options, request.out or f"{Path(source).stem}-analysis"


def _read_runs(request: Request) -> tuple[Table, Options, str]:
    """The points of the request's run folders, joined, their options, and the folder of their report."""
    from analysis.input import join_runs
    from analysis.options import Options, check_options

    for_tables = {**request.columns, "--percent": request.percent or None, "--id-min": request.id_min,
                  "--unit": request.unit or None}  # fmt: skip
    problems = [Problem(request.sources[0], f"{flag} is for tables; a run folder says it itself")
                for flag, value in for_tables.items() if value is not None]  # fmt: skip
    if len(request.sources) > 1 and request.out is None:
        problems.append(Problem("", "several runs are joined: say with --out where their report goes"))
    problems += check_options(Options("", **request.settings))
    if problems:
        raise UserError(*problems)
    table, options = join_runs.read_runs(request.sources)
    replaced = [
        f"{key} is {_text(value)}, asked for on the command line; the spec had set {_text(getattr(options, key))}"
        for key, value in request.settings.items()
        if value != getattr(options, key)
    ]
    table = replace(table, warnings=(*table.warnings, *replaced))
    return table, replace(options, **request.settings), request.out or (table.runs[0].storage / "report").address


def _title(text: str | None) -> str:
    """The title on one line, with signs that cannot be shown as their codes."""
    return printable(" ".join((text or "").split()))


def _units(declared: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
    """Column -> unit, of what was given as COL=percent or COL=fraction."""
    from analysis.input.units import UNITS

    units, problems = {}, []
    for text in declared:
        column, _, unit = text.rpartition("=")
        units[normalise(column)] = unit
        if not column or unit not in UNITS:
            problems.append(Problem("", f"--unit: {text!r} is not COL=percent or COL=fraction"))
    return units, problems


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_table(source: str, columns: Mapping[str, object]) -> bool:
    path = Path(source)
    if path.is_dir() or "://" in source:
        return False
    if path.is_file() or path.suffix.lower() in (".csv", ".txt") or any(columns.values()):
        return True
    if what := kind_at(path):
        raise UserError(Problem(source, f"is {what}, not a file; wanted: a run folder or a table"))
    from ray_robust.run.run_folder import RunFolder, suggestion  # late: pandas, which `--help` does without

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
    add("--title", metavar="TEXT", help="what the report is called (default: the spec's question, or the table's name)")
    add("--predict", action="store_true", help="run: predict ER, ID and OOD of mixtures that were not trained")
    add("--at", type=int, metavar="IMAGES", help="with --predict: write confirm.yaml for a run at this larger total")
    add("--confirm", metavar="RUN_DIR", help="with --predict: compare with that larger run")
    add("--out", metavar="DIR", help="where to write (default: RUN_DIR/report, or TABLE-analysis here)")
    return parser


if __name__ == "__main__":
    command(main)
