"""`Run`: a run folder from Python, its plan, points, state and analysis.

Reads the folder anew at every call, so that a run which is still going shows how far it is. Needs no cluster, and
imports neither torch nor Ray.
"""

from __future__ import annotations

import html
import os
import time
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import pandas as pd

from ray_robust.errors import UserError
from ray_robust.run.run_folder import RunFolder, suggestion
from ray_robust.status.progress import Status, read_status
from ray_robust.status.tables import by_group, headline
from ray_robust.text.names import count_noun, printable

if TYPE_CHECKING:
    from analysis.interface.study import Study

STATUS = ("trial", "group", "state", "stage", "done", "reason")


class Settings(TypedDict, total=False):
    """What replaces the spec's own settings in an analysis: `scale` ("probit", "logit" or "linear"), `margin` in
    percentage points, `look` ("mean", "last" or "id_val"), and the `title` of the report."""

    scale: str
    margin: float
    look: str
    title: str


class Run:
    """A run: `Run("runs/quantity")`, a path or a URI, finished or not.

    Raises UserError where there is no such folder, or it is no run folder.
    """

    def __init__(self, path: str | os.PathLike[str] | Run) -> None:
        if not isinstance(path, str | os.PathLike | Run):
            raise UserError(f"Run: must be the path or URI of a run folder, not {path!r}")
        storage = RunFolder(path._address if isinstance(path, Run) else path).storage
        self.path: str = storage.shown
        self._address: str = storage.address
        folder = RunFolder(self._address)
        if (local := folder.storage.local()) is not None and local.is_file():
            raise UserError(f"{self.path}: is a file; wanted: a run folder")
        if not folder.exists(""):
            raise UserError(f"{self.path}: no such run folder{suggestion(folder)}")
        folder.require()

    @property
    def plan(self) -> pd.DataFrame:
        """One row per planned trial, columns as in plan.csv (docs/results.md)."""
        return self._folder().plan()

    @property
    def points(self) -> pd.DataFrame:
        """One row per evaluation of a fine-tuned model, of every finished trial: columns as in results.csv
        (docs/results.md), scores from 0 to 1, on the task's own OOD test. Trials that failed are in `status`."""
        return self._scored(self._folder().results())

    @property
    def shifts(self) -> pd.DataFrame:
        """The same with a row for each shift of every evaluation, in the column `shift` (docs/shifts.md)."""
        return self._scored(self._folder().results(every_shift=True))

    @property
    def spec(self) -> dict[str, Any]:
        """The spec with every default filled in, as its spec.yaml has it."""
        return self._folder().spec()

    def status(self) -> pd.DataFrame:
        """Return one row per trial in the plan's order: trial, group, state (done, started, failed, ...), stage of a
        started one, the share of its work that is done (0 to 1), and the reason of a failure or damage.

        `attrs` of the table has `share_done` of the whole (0 to 1) and `seconds_left`, None when nothing runs.
        """
        status = self._status()
        reasons = {name: str(one.get("reason") or "") for name, one in status.failures.items()} | status.damage
        rows = []
        for name, state in status.states.items():
            latest = status.progress.get(name, {})
            share = 1.0 if state in ("done", "stopped") else float(latest.get("share") or 0.0)
            stage = latest.get("stage", "starting") if state == "started" else ""
            rows.append((name, status.groups[name], state, stage, share, reasons.get(name, "")))
        table = pd.DataFrame(rows, columns=list(STATUS))
        table.attrs = {"share_done": status.share_done, "seconds_left": status.left}
        return table

    def analyse(self, *others: Run | str | os.PathLike[str], **settings: Unpack[Settings]) -> Study:
        """Return the analysis of what is finished, with the points of `others` joined. `settings` replace the spec's.

        Nothing is written; `Study.write` writes the report. Raises UserError where there is nothing to analyse, or
        where the runs are not of one task, metric, scale and baseline.
        """
        from analysis.interface.arguments import check_arguments
        from analysis.interface.request import NOWHERE, Request, study_of

        if unknown := set(settings) - set(Settings.__annotations__):
            raise TypeError(f"analyse() got an unexpected keyword argument {min(unknown)!r}")
        addresses = (self._address, *(Run(other)._address for other in others))
        check_arguments(settings)
        return study_of(Request(addresses, NOWHERE if others else None, python=True, **settings))

    def _scored(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows.loc[rows["id"].notna() | rows["ood"].notna()].reset_index(drop=True)

    def _folder(self) -> RunFolder:
        folder = RunFolder(self._address)
        folder.require()
        return folder

    def _status(self) -> Status:
        return read_status(self._folder(), time.time())

    def __repr__(self) -> str:
        return f"Run({printable(self.path)!r})"

    def _repr_html_(self) -> str:
        """What the status command says of it, and a table of its groups by state."""
        folder = RunFolder(self._address)
        if not folder.exists("plan.csv"):
            return f"<p>{html.escape(repr(self))}: nothing is planned there yet</p>"
        status = self._status()
        lines = "<br>".join(html.escape(printable(line)) for line in headline(status, folder))
        counts = {printable(group): states for group, states in by_group(status).items()}
        table = pd.DataFrame.from_dict(counts, orient="index").rename_axis(index="group")
        return f"<p>{lines}</p>{table.to_html(border=0)}"


def why_unfinished(run: RunFolder) -> str:
    """Return what a sweep that did not end well lacks, in a line."""
    shown, states = run.storage.shown, run.states()
    failures = {name: run.trial(name).failure() or {} for name, state in states.items() if state == "failed"}
    not_run = sum(state not in ("done", "stopped", "failed") for state in states.values())
    if not failures and not not_run:
        return f"{shown}: every trial is done, but its report could not be written"
    counts = ((len(failures), "failed"), (not_run, "not run"))
    listed = ", ".join(f"{count_noun(count, 'trial')} {what}" for count, what in counts if count)
    first = next((f"; {name}: {failure.get('reason', '')}" for name, failure in failures.items()), "")
    return f"{shown}: {listed}{first}; the same call runs what is missing"
