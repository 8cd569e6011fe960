"""The run folder: the only door to it, for the sweep that writes it and for everyone who reads it.

    spec.yaml  plan.csv  data.json  run.json  samples/  duplicates/  results.{csv,parquet}  report/
    trials/<id>/  trial.json subset.parquet finetunings/<id>.json predictions/<id>.parquet groups/<id>.parquet
                  rows.jsonl progress.json log.txt and `done`, written last
                  failed.json why it failed; stopped.json why a search left it; attempts.json what went wrong before;
                  parts.json when memory was short

State is never stored twice: a trial is finished when its `done` says so, a fine-tuning when its file is there.
"""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pandas as pd
import yaml

from ray_robust import csv_text
from ray_robust.storage import Storage

TRIAL_COLUMNS = (
    "trial", "group", "status", "model", "seed", "subset_seed", "num_images", "num_classes", "images_per_class",
    "granularity", "semantics", "sources", "pretrain_method", "pretrain_epochs", "pretrain_images_seen",
    "upstream_accuracy", "seconds_pretrain",
)  # fmt: skip
FINETUNE_COLUMNS = (
    "finetune", "finetune_method", "finetune_lr", "finetune_weight_decay", "finetune_images", "seconds_finetune",
    "task",
)  # fmt: skip
POINT_COLUMNS = (
    "epoch", "step", "metric", "id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy", "id_groups",
    "ood_groups",
)  # fmt: skip
SCORE_COLUMNS = (
    "id_macro_f1", "ood_macro_f1", "id_worst_group", "ood_worst_group", "id_class_accuracy", "ood_class_accuracy",
    "id_ece", "ood_ece",
)  # fmt: skip
COLUMNS = (*TRIAL_COLUMNS, *FINETUNE_COLUMNS, *POINT_COLUMNS, "id_images", "ood_images", *SCORE_COLUMNS, "wise_alpha")
_WHOLE = ("seed", "subset_seed", "num_images", "num_classes", "images_per_class", "pretrain_images_seen",
          "finetune_images", "epoch", "step", "id_groups", "ood_groups", "id_images", "ood_images")  # fmt: skip
_REAL = ("pretrain_epochs", "upstream_accuracy", "seconds_pretrain", "seconds_finetune", "finetune_lr",
         "finetune_weight_decay", "id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy",
         *SCORE_COLUMNS, "wise_alpha")  # fmt: skip


class TrialFolder:
    """One trial's own folder; nobody else writes there."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def finished(self) -> dict[str, Any] | None:
        """The contents of `done` ({"finetunings": [ids], ...}), or None."""
        return self.storage.read_json("done")

    def has(self, finetunings: list[str]) -> bool:
        """Whether the trial is done with at least these fine-tunings."""
        done = self.finished()
        return done is not None and set(finetunings) <= set(done["finetunings"])

    def finetuning(self, name: str) -> list[dict[str, Any]] | None:
        """The rows of a finished fine-tuning, or None."""
        return self.storage.read_json(f"finetunings/{name}.json")

    def failure(self) -> dict[str, Any] | None:
        """Why the trial failed the last time it ran ({"reason", "log"}), or None."""
        return self.storage.read_json("failed.json")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of a finished trial."""
        text = (self.storage.read("rows.jsonl") or b"").decode()
        return [json.loads(line) for line in text.splitlines()]

    def finish(self, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        """Write the rows of every fine-tuning, then the marker; what only resuming needed is dropped."""
        self.storage.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.storage.delete("failed.json")
        self.storage.write_json("done", {"finetunings": sorted({row["finetune"] for row in rows}), **facts})
        for name in ("checkpoints", "worker.json"):
            self.storage.delete(name)

    def begin(self) -> None:
        """Forget why the trial failed the last time: it is tried again. What killed writers left half-written goes."""
        self.storage.delete("failed.json")
        self.storage.delete("stopped.json")
        self.storage.tidy()

    def fail(self, reason: str, quarantined: bool = False) -> None:
        """Leave the reason, in one line, where the results table and the report find it. A trial is `quarantined` when
        it broke down so often that it is left alone until the command is run again; attempts.json tells of each time.
        """
        said = {"reason": " ".join(reason.split()), "log": (self.storage / "log.txt").shown, "quarantined": quarantined}
        self.storage.write_json("failed.json", said)

    def stopped(self) -> dict[str, Any] | None:
        """Why a search stopped the trial before its end ({"reason", "log", and of a trial that had begun "milestone",
        "value", "cutoff", "images_seen", "seconds"}), or None."""
        return self.storage.read_json("stopped.json")

    def stop(self, reason: str, facts: dict[str, Any]) -> None:
        """Note that the trial is not run to its end; what only resuming needed is dropped."""
        said = {"reason": reason, "log": (self.storage / "log.txt").shown, **facts}
        self.storage.write_json("stopped.json", said)
        for name in ("checkpoints", "worker.json"):
            self.storage.delete(name)

    def attempts(self) -> list[dict[str, Any]]:
        """What went wrong each time that the trial broke off: {"time" in seconds since the epoch, "host", "kind",
        "reason", "counts" (whether towards quarantine)}, in order."""
        return self.storage.read_json("attempts.json") or []

    def note_attempt(self, attempt: dict[str, Any]) -> None:
        """Add to `attempts`."""
        self.storage.write_json("attempts.json", [*self.attempts(), attempt])

    def parts(self) -> int:
        """In how many parts a batch goes through the model, since the whole did not fit into memory; else 1."""
        return (self.storage.read_json("parts.json") or {"parts": 1})["parts"]

    def divide(self, parts: int, reason: str) -> None:
        """From now on a batch goes through the model in so many parts."""
        self.storage.write_json("parts.json", {"parts": parts, "reason": reason})


class RunFolder:
    """A sweep's folder, local or remote."""

    def __init__(self, address: str | os.PathLike | Storage) -> None:
        self.storage = address if isinstance(address, Storage) else Storage(address)
        self._folders: dict[str, str] | None = None
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def trial(self, name: str) -> TrialFolder:
        """The folder of a trial, by its id. One that an earlier spec named otherwise keeps its name."""
        if self._folders is None:
            self._folders = {known.rpartition("-")[2]: known for known in self.storage.names("trials")}
        return TrialFolder(self.storage / f"trials/{self._folders.get(name.rpartition('-')[2], name)}")

    def write_plan(self, rows: list[dict[str, Any]]) -> None:
        """plan.csv, one row per trial."""
        self.storage.write("plan.csv", csv_text.text_of(pd.DataFrame(rows)))

    def plan(self) -> pd.DataFrame:
        """The planned trials; empty when nothing was planned yet."""
        data = self.storage.read("plan.csv")
        return pd.DataFrame() if data is None else csv_text.frame_of(data)

    def spec(self) -> dict[str, Any]:
        """The resolved spec; empty when absent."""
        return yaml.safe_load(self.storage.read("spec.yaml") or b"") or {}

    def data(self) -> dict[str, Any]:
        """data.json: every pool's facts, broken images and sample sheets."""
        return self.storage.read_json("data.json") or {}

    def trials(self) -> list[dict[str, Any]]:
        """trial.json of every planned trial that has one, in the plan's order."""
        found = (self.trial(name).storage.read_json("trial.json") for name in self.plan().get("trial", ()))
        return [trial for trial in found if trial is not None]

    def states(self) -> dict[str, str]:
        """Every planned trial: done, stopped, failed, started or planned."""
        plan, states = self.plan(), {}
        for name, finetunes in zip(plan.get("trial", ()), plan.get("finetunes", ()), strict=True):
            folder = self.trial(name)
            if folder.has(list(json.loads(finetunes))):
                states[name] = "done"
            elif folder.stopped() is not None:
                states[name] = "stopped"
            elif folder.failure() is not None:
                states[name] = "failed"
            else:
                states[name] = "started" if folder.storage.exists("trial.json") else "planned"
        return states

    def results(self) -> pd.DataFrame:
        """One row per point of every finished trial, one with empty scores per trial that failed or was stopped."""
        rows: list[dict[str, Any]] = []
        plan = self.plan().to_dict("records")
        for planned in sorted(
            plan, key=lambda row: (row["group"] != "scratch", row["group"], row["model"], row["trial"])
        ):
            name, wanted = planned["trial"], json.loads(planned["finetunes"])
            folder = self.trial(name)
            if folder.has(list(wanted)):
                if name not in self._rows:
                    self._rows[name] = folder.rows()
                # names come from the plan: another axis in the spec renames groups and tasks, not trials
                own = {"trial": name, "status": "done"}
                order = {finetune: i for i, finetune in enumerate(wanted)}
                points = [row for row in self._rows[name] if row["finetune"] in order]
                rows += [
                    {**row, **own, "group": _group(planned["group"], row), "task": wanted[row["finetune"]]}
                    for row in sorted(points, key=lambda row: (order[row["finetune"]], row["epoch"]))
                ]
            elif (stopped := folder.stopped() is not None) or folder.failure() is not None:
                known = {key: value if value != "" else None for key, value in planned.items() if key in TRIAL_COLUMNS}
                rows.append({**known, "status": "stopped" if stopped else "failed"})
        table = pd.DataFrame(rows, columns=[*COLUMNS])
        for column in _WHOLE:
            table[column] = pd.to_numeric(table[column]).astype("Int64")
        for column in _REAL:
            table[column] = pd.to_numeric(table[column]).astype("float64")
        return table

    def write_results(self) -> pd.DataFrame:
        """Collect and write results.csv and results.parquet; returns the table."""
        table = self.results()
        self.storage.write("results.csv", csv_text.text_of(table))
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        self.storage.write("results.parquet", buffer.getvalue())
        return table

    def read_bytes(self, name: str) -> bytes | None:
        """Any file of the run, or None."""
        return self.storage.read(name)

    def write(self, name: str, data: bytes | str) -> None:
        """Any file of the run."""
        self.storage.write(name, data)

    def exists(self, name: str) -> bool:
        return self.storage.exists(name)


def _group(group: str, row: dict[str, Any]) -> str:
    """A point between pre-trained and fine-tuned weights is of a group of its own: it must not shift its trial's."""
    return group if row.get("wise_alpha") is None else f"{group}, wise_ft"
