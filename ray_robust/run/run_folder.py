"""The run folder: the sweep writes it, and everyone reads it, through this module only.

    spec.yaml  declared.json  plan.csv  data.json  run.json  checksums.json  samples/  duplicates/  report/
    results.{csv,parquet}
    baseline.json, seeds.json, which a pilot and a first stage of seeds decided; store.json, how images are stored
    progress.json, while a sweep runs (`sweep_progress`)
    trials/<id>/  trial.json subset.parquet finetunings/<id>.json predictions/<id>.parquet groups/<id>.parquet
                  curves/{pretrain,<id>}.json, the learning curves
                  rows.jsonl progress.json log.txt and `done`, written last
                  failed.json why it failed, or which of its fine-tunings did; stopped.json why a search stopped it;
                  earlier.json of one that had ended and is run again (`earlier_attempt`);
                  attempts.json earlier failures; parts.json the number of micro-batches when memory was short

State is stored once: a trial is finished when its `done` says so, a fine-tuning when its file is there. Both hold the
checksums of the files that they speak for (`checksums`): a trial that was finished and was altered since is `damaged`,
and is run again.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ray_robust.errors import Damaged, Problem, UserError
from ray_robust.files.storage import Stamp, Storage, describe_damage, encoded
from ray_robust.run import results_schema
from ray_robust.run.analysis_settings import BASELINE
from ray_robust.run.checksums import checksum, seal, unseal
from ray_robust.run.earlier_attempt import EarlierAttempt
from ray_robust.run.shifts import OWN
from ray_robust.run.trial_folder import TrialFolder, key_of
from ray_robust.text import safe_csv

__all__ = ["RunFolder", "TrialFolder"]

CHECKSUMS = "checksums.json"
DECLARED = "declared.json"  # `declared`
SPREAD = "baseline.json"  # what the pilot of `baseline.spread: auto` chose
TABLES = ("results.csv", "results.parquet")
PROVED = ("spec.yaml", DECLARED, "plan.csv", "data.json", "run.json", *TABLES)  # that others rely on
ANEWS = (CHECKSUMS, "spec.yaml", "plan.csv", *TABLES)  # written whenever the command ends
MARKS = ("done", "stopped.json", "failed.json", "trial.json", "progress.json")  # of a trial, which tell its state
Marks = tuple[Stamp | None, ...]
ANEW = "the same command again writes it anew"
_CHECKSUMS = threading.Lock()  # one for all run folders, so that these can be pickled
PARTIAL = "the report does without it until a trial is run again"
LOST = "what was declared before the scores were seen is not known any more"
REMEDIES = {**dict.fromkeys(ANEWS, ANEW), DECLARED: LOST}


class RunFolder:
    """A sweep's folder, local or remote."""

    def __init__(self, address: str | os.PathLike | Storage) -> None:
        self.storage = address if isinstance(address, Storage) else Storage(address)
        self._folders: dict[str, str] | None = None
        self._rows: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}  # and the `done` that they are of
        self._proved: dict[str, tuple[bytes, dict[str, Any] | None]] = {}
        self._stamps: dict[str, Stamp] | None = None

    def require(self) -> None:
        """Raise UserError where this is no run folder: any other has no plan and no points, as a run that has just
        begun."""
        if not self.exists("plan.csv") and not self.exists("spec.yaml"):
            what = f"no run folder: it has neither spec.yaml nor plan.csv{suggestion(self)}"
            raise UserError(Problem(self.storage.shown, what))

    def trial(self, name: str) -> TrialFolder:
        """Return the folder of a trial, by its id. One that an earlier spec named otherwise keeps its name."""
        if self._folders is None:
            self._folders = {key_of(one): one for one in self.storage.names("trials")}
        folder = self.storage / f"trials/{self._folders.get(key_of(name), name)}"
        return TrialFolder(folder, self._proved, self._listed)

    def finished_beside(self, plan: Iterable[str]) -> list[str]:
        """Return the finished trials of this folder that are not in a plan (ids), and so in no results of it."""
        planned = {key_of(name) for name in plan}
        beside = [name for name in self.storage.names("trials") if key_of(name) not in planned]
        return [name for name in beside if self.storage.exists(f"trials/{name}/done")]

    def _listed(self) -> dict[str, Stamp]:
        """Return the stamps of a remote run's files by address: one request for a thousand, not one for each."""
        if self._stamps is None:
            stamps = self.storage.stamps("trials")
            self._stamps = {(self.storage / name).address: stamp for name, stamp in stamps.items()}
        return self._stamps

    def write_plan(self, rows: list[dict[str, Any]]) -> None:
        """plan.csv, one row per trial; a whole number stays one beside trials that have none."""
        self.write("plan.csv", safe_csv.text_of(pd.DataFrame(rows, dtype=object)))

    def plan(self) -> pd.DataFrame:
        """Return the planned trials; empty when nothing was planned yet. Raises Damaged for a file that is no plan."""
        data = self.storage.read("plan.csv")
        if data is None:
            return pd.DataFrame()
        try:
            plan = safe_csv.frame_of(data)
            finetunes = [json.loads(cell) for cell in plan["finetunes"]]
            trainings = [json.loads(cell) for cell in plan.get("trainings", ())]
            sound = all(isinstance(names, dict) for names in finetunes + trainings) and plan["trial"].is_unique
            if not sound or not {"group", "model"} <= set(plan):
                raise ValueError
            if "cost_images" in plan:
                plan["cost_images"].astype(float)
        except (ValueError, KeyError, TypeError, RecursionError):  # pandas' own are ValueErrors
            raise self.storage.damaged("plan.csv", describe_damage(data, "a plan"), ANEW) from None
        return plan

    def spec(self) -> dict[str, Any]:
        """Return the resolved spec; empty when absent. Raises Damaged for a file that is none."""
        data = self.storage.read("spec.yaml")
        if data is None:
            return {}
        try:
            spec = yaml.safe_load(data)
        except (yaml.YAMLError, ValueError, RecursionError):
            spec = None
        if not isinstance(spec, dict) or not isinstance(spec.get("analysis") or {}, dict):
            raise self.storage.damaged("spec.yaml", describe_damage(data, "a spec"), ANEW)
        return spec

    def data(self) -> dict[str, Any]:
        """data.json: every pool's facts, broken images and sample sheets; {} where it is not as it was written, which
        `altered` says."""
        if self.defect("data.json", self.checksums().get("data.json")):
            return {}
        data = self.storage.recall_json("data.json") or {}
        for key in ("pools", "duplicates"):
            if key in data:
                data[key] = [entry for entry in data[key] or () if isinstance(entry, dict)]
        return data

    def trainings(self) -> dict[str, str] | None:
        """Return of every fine-tuning with further tests the id that it has without them: the same training. None where
        the plan is of an earlier version, which did not keep it. Raises Damaged."""
        plan = self.plan()
        if "trainings" not in plan:
            return None
        return {name: training for cell in plan["trainings"] for name, training in json.loads(cell).items()}

    def trials(self) -> list[dict[str, Any]]:
        """trial.json of every planned trial that has one, in the plan's order."""
        names = self.plan().get("trial", ())
        facts = (self.trial(name).storage.recall_json("trial.json") for name in names)
        return [trial for trial in facts if trial is not None]

    def states(self) -> dict[str, str]:
        """Return every planned trial: done, damaged (it was done, and what it left is not as it was), stopped, failed,
        started or planned."""
        plan = self.plan()
        trials = zip(plan.get("trial", ()), plan.get("finetunes", ()), strict=True)
        return {name: self.state_of(name, list(json.loads(finetunes))) for name, finetunes in trials}

    def state_of(self, name: str, finetunings: list[str]) -> str:
        """Return the state of a planned trial with these fine-tunings, one of those of `states`."""
        folder = self.trial(name)
        if folder.is_done(finetunings):
            return "done"
        if folder.damage():
            return "damaged"
        if folder.stopped() is not None:
            return "stopped"
        if folder.failure() is not None:
            return "failed"
        return "started" if folder.storage.exists("trial.json") else "planned"

    def marks(self, name: str) -> Marks:
        """Return the stamps of the files that tell a trial's state: what has the same ones has the same state, unless
        another file of it was altered. Of a remote run they are those of the last listing (`look_again`)."""
        folder = self.trial(name).storage
        if folder.remote:
            listed = self._listed()
            return tuple(listed.get((folder / file).address) for file in MARKS)
        return tuple(folder.stamp(file) for file in MARKS)

    def look_again(self) -> None:
        """Forget what was listed: the trials of a run that goes on change. What was read of finished ones is kept."""
        self._folders = self._stamps = None

    def results(self, every_shift: bool = False) -> pd.DataFrame:
        """Return one row per point of every finished trial, one with empty scores per trial that failed, was stopped,
        or is damaged; of a trial of which some fine-tunings ended well one for each of the others, beside their
        points. Columns as in `results_schema`. With `every_shift` a point has a row for each of its shifts,
        beside that of the task's own OOD test. Raises UserError for rows with columns of another version."""
        rows: list[dict[str, Any]] = []
        of_trial = set(results_schema.names(results_schema.TRIAL))
        plan = self.plan().to_dict("records")
        for planned in sorted(
            plan, key=lambda row: (row["group"] != BASELINE, row["group"], row["model"], row["trial"])
        ):
            name, wanted = planned["trial"], json.loads(planned["finetunes"])
            scored = self.rows_of(name, wanted)
            rows += _points(planned, wanted, scored, every_shift)
            lacking = [one for one in wanted if one not in {row["finetune"] for row in scored}]
            facts = {key: value if value != "" else None for key, value in planned.items() if key in of_trial}
            if scored:
                ended = [(one, how) for one in lacking if (how := self._status_of(name, one))]
                rows += [{**facts, "finetune": one, "task": wanted[one], "status": how} for one, how in ended]
            elif status := _status(self.trial(name)):
                rows.append({**facts, "status": status})
        try:
            return results_schema.table_of(rows)
        except results_schema.SchemaError as error:
            what = f"rows of its trials do not fit this version's results: {error}"
            raise UserError(Problem(self.storage.shown, what)) from None

    def has_rows(self, name: str, finetunings: list[str]) -> bool:
        """Return whether a trial is done with at least these fine-tunings (`TrialFolder.is_done`), and its rows are
        those that it left: they are read, and kept in memory until it is done with more, since no size or time tells of
        a bit that turned on the disk."""
        folder = self.trial(name)
        if (done := folder.done_with(finetunings)) is None:
            return False
        if name not in self._rows or self._rows[name][0] != done:
            try:
                self._rows[name] = done, folder.rows(every_shift=True)
            except Damaged:
                return False
        return True

    def rows_of(self, name: str, finetunings: Collection[str]) -> list[dict[str, Any]]:
        """Return the rows that count of a trial with these fine-tunings, for every shift: all of one that is done, of
        one that failed, or was done before more was asked of it, those of the fine-tunings that ended well, none of any
        other."""
        if self.has_rows(name, list(finetunings)):
            return self._rows[name][1]
        return self.trial(name).rows_so_far(finetunings)

    def _status_of(self, name: str, finetuning: str) -> str:
        """Return the status of a fine-tuning that has no scores, "" while it is open: failed are all of a trial that
        failed (it diverged, was not run, or altered since), and of one that is run again those for which it had."""
        folder = self.trial(name)
        earlier = EarlierAttempt.read(folder.storage)
        if folder.failure() is not None or (earlier is not None and finetuning in earlier.finetunings):
            return "failed"
        return "stopped" if folder.stopped() is not None else ""

    def write_results(self) -> pd.DataFrame:
        """Collect and write results.csv and results.parquet; returns the table."""
        table = self.results(every_shift=True)
        self.write("results.csv", safe_csv.text_of(table))
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        self.write("results.parquet", buffer.getvalue())
        return table

    def read_bytes(self, name: str) -> bytes | None:
        """Return any file of the run, or None."""
        return self.storage.read(name)

    def write(self, name: str, data: bytes | str) -> None:
        """Any file of the run. Its checksum is kept beside those that it had before, and first: who is killed in
        between leaves one of them. Once the file is written those are dropped: an earlier one that is put back is
        altered. Of all processes the one that holds the lease writes here, and its threads in turn."""
        data = encoded(name, data)
        with _CHECKSUMS:
            checksums, own = self.checksums(), checksum(data)
            before = checksums.get(name, [])
            if before[-1:] != [own]:
                checksums[name] = [*before[-2:], own]
                self.storage.write(CHECKSUMS, seal(checksums))
            self.storage.write(name, data)
            if checksums[name] != [own]:
                self.storage.write(CHECKSUMS, seal({**checksums, name: [own]}))

    def damaged(self, trials: Iterable[str]) -> Iterator[str]:
        """Yield a line for each of these trials that was finished and is damaged now, then those of `altered`."""
        for name in trials:
            if damage := self.trial(name).damage():
                yield f"damaged  {name}: {damage}; it is run again, with what is whole of it"
        yield from self.altered()

    def altered(self) -> list[str]:
        """Return a line for each of the run's own files that is not as it was written, with what mends it."""
        return [
            str(self.storage.damaged(name, what, REMEDIES.get(name, PARTIAL)).problems[0])
            for name, what in self._changed().items()
        ]

    def checksums(self) -> dict[str, list[str]]:
        """Return the checksums that each of the run's own files may have, by name; {} where they cannot be read."""
        value, sealed = unseal(self.storage.recall(CHECKSUMS) or b"")
        return value if sealed and value is not None else {}

    def _changed(self) -> dict[str, str]:
        """Return what is wrong with the files that others rely on, by name: `PROVED` and the tables of duplicates."""
        changed, checksums = {}, self.checksums()
        if not checksums and self.storage.exists(CHECKSUMS):
            changed[CHECKSUMS] = "is damaged"
        names = dict.fromkeys((*PROVED, *(name for name in checksums if name.endswith(".csv"))))
        defects = {name: self.defect(name, checksums.get(name)) for name in names}
        return changed | {name: what for name, what in defects.items() if what}

    def defect(self, name: str, checksums: list[str] | None) -> str:
        """Return what is wrong with a file that should have one of these checksums (None: any), "" where nothing is."""
        data = self.storage.recall(name)
        if data is None:
            return "cannot be read" if self.storage.exists(name) else "" if checksums is None else "is missing"
        if checksums is None or checksum(data) in checksums:
            return ""
        return "was altered since it was written" if data.strip() else "is empty"

    def exists(self, name: str) -> bool:
        return self.storage.exists(name)


def _status(folder: TrialFolder) -> str | None:
    """Return the status of a trial that has no points to show, None for one that is not over."""
    if folder.damage():
        return "damaged"
    if folder.stopped() is not None:
        return "stopped"
    return "failed" if folder.failure() is not None else None


def _points(
    planned: Mapping[str, Any], wanted: Mapping[str, str], rows: Iterable[dict[str, Any]], every_shift: bool
) -> list[dict[str, Any]]:
    """Return the rows of a planned trial's fine-tunings (`wanted`: id to task) in the plan's order. Names come from the
    plan: another axis in the spec renames groups, models and tasks, not trials."""
    own = {"trial": planned["trial"], "status": "done", "model": planned["model"]}
    order = {finetune: i for i, finetune in enumerate(wanted)}
    points = [{"shift": OWN, **row} for row in rows if row["finetune"] in order]
    return [
        {**row, **own, "group": _group(planned["group"], row), "task": wanted[row["finetune"]]}
        for row in sorted(points, key=lambda row: (order[row["finetune"]], row["epoch"]))
        if every_shift or row["shift"] == OWN
    ]


def _group(group: str, row: dict[str, Any]) -> str:
    """Return the group of a point. One between pre-trained and fine-tuned weights has its own, so that it does not
    shift its trial's."""
    return group if row.get("wise_alpha") is None else f"{group}, wise_ft"


def suggestion(run: RunFolder) -> str:
    """Return the run beside a folder that is not there, or in `runs/`, that was probably meant; in an object store
    whether its bucket is there."""
    if run.storage.remote:
        return run.storage.without_bucket()
    shown = Path(run.storage.shown)
    beside = {
        file.parent.name: str(file.parent)
        for folder in (shown.parent / "runs", shown.parent)
        for file in folder.glob("*/plan.csv")
    }
    likely = get_close_matches(shown.name, beside, n=1)  # by name: whole paths are alike in what they share
    return f"; did you mean {beside[likely[0]]}?" if likely else ""
