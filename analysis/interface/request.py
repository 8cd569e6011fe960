"""What an analysis is asked for, by the command or from Python, and doing it: points are read, analysed, written.

A run, runs joined and a table go the same way: `read` gives points and options, `study_of` their analysis as a
`Study`, `report_on` also writes the report and prints the summary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import kind_at
from ray_robust.text.names import normalise, printable

if TYPE_CHECKING:
    import pandas as pd

    from analysis.input.table import Table
    from analysis.interface.study import Study
    from analysis.options import Options

NOWHERE = ""  # `out` of a request whose report is written later, if at all
FRAME = "DataFrame"  # what a table that is given as one is called in errors


@dataclass(frozen=True)
class Request:
    """What an analysis was asked for.

    sources        one run folder, several to be joined, or one table
    out            the folder of the report; None: the run's own, or one beside the user; NOWHERE: not yet said
    scale, margin, look  in place of the spec's, or of the defaults
    title          what the report is called, in place of the run's question or the table's name
    frame          the table itself, where it is no file; `sources` then has its name
    python         whether it was asked for from Python: messages name arguments, not flags
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
    frame: pd.DataFrame | None = None
    look: str | None = None
    python: bool = False

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
        given = {"scale": self.scale, "margin": self.margin, "look": self.look}
        return {key: value for key, value in given.items() if value is not None}


def report_on(request: Request, quiet: bool = False) -> str:
    """Analyse a run folder, several of them joined, or a table: write the report and print the summary unless `quiet`.
    Return the address of the page. Raises UserError with every mistake in the request or the data."""
    return study_of(request).write(quiet=quiet)


def study_of(request: Request) -> Study:
    """Return the analysis of what was asked for. Raises UserError with every mistake in the request or the data."""
    if not request.python:
        return _study_of(request, str)
    from analysis.interface.arguments import in_python

    try:
        return _study_of(request, in_python)
    except UserError as error:
        raise UserError(*(replace(one, what=in_python(one.what)) for one in error.problems)) from None


def _study_of(request: Request, worded: Callable[[str], str]) -> Study:
    from analysis import study
    from analysis.interface.study import Study

    title = _title(request.title)
    if request.title is not None and not title:
        raise UserError(Problem("", "--title is empty; wanted: what the report is called, or no --title"))
    table, options, target = read(request)
    table = replace(table, title=title, warnings=tuple(map(worded, table.warnings)))
    return Study(table, study.analyse_all(table, options), target)


def read(request: Request) -> tuple[Table, Options, str]:
    """Return the points of a request, their options, and the folder of their report. Raises UserError."""
    if request.frame is not None:
        return _read_table(request)
    tables = [source for source in request.sources if _is_table(source, request.columns)]
    if tables and len(request.sources) > 1:
        raise UserError(Problem(tables[0], "a table is analysed alone; only run folders are joined"))
    return _read_table(request) if tables else _read_runs(request)


def _read_table(request: Request) -> tuple[Table, Options, str]:
    """The points of the request's table, its options, and the folder of its report."""
    from analysis.input import dependence, plain_table
    from analysis.input.data_frame import FrameRows
    from analysis.input.table import own_folder
    from analysis.options import Options, check_options
    from analysis.report.output import refuse_another

    source, ids = request.sources[0], request.ids
    if request.out is None and request.frame is None:
        refuse_another(own_folder(Path(source).stem), source)
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
    table = plain_table.read_table(
        source if request.frame is None else FrameRows(request.frame, source),
        id=request.id, ood=request.ood or "", group=request.group or "", options=options,
        cluster=request.cluster, percent=request.percent, units=units,
    )  # fmt: skip
    return table, options, request.out or NOWHERE


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
    own = (table.runs[0].storage / "report").address if request.out is None else request.out
    return table, replace(options, **request.settings), own


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
