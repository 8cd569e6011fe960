"""One trial's folder: its files, their checksums, and what of them is reused.

All files in trials/<id>/ are read and written here (`run_folder` lists them). `done` and a fine-tuning's file hold row
counts and checksums of the files that they speak for; a finished trial that was altered since is damaged, and is run
again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray_robust.errors import Damaged
from ray_robust.files.storage import Stamp, Storage
from ray_robust.redact import redacted
from ray_robust.run import checkpoint_paths, results_schema
from ray_robust.run.checksums import CHECKSUM, Entry, checksum, defect, seal, unseal
from ray_robust.run.earlier_attempt import FILE as EARLIER
from ray_robust.run.earlier_attempt import EarlierAttempt, reasons_of
from ray_robust.run.learning_curve import LearningCurve
from ray_robust.run.shifts import OWN
from ray_robust.run.trial_rows import RERUN, is_number, is_sound, parsed, text_of

ALTERED = "was altered: its checksum is another"
FAILURES = "failures"  # the folder of what failed of an attempt that goes on
RECORDS = ("log.txt", "progress.json", "attempts.json", "parts.json")  # of how a trial ran
PROGRESS = ("epoch", "epochs", "images", "images_per_second", "share", "worked", "seconds", "time")
ATTEMPT = {"time", "kind", "reason", "counts"}


def key_of(trial: str) -> str:
    """Return what a trial means, the hash at the end of its id: another name of its sweep does not change it."""
    return trial.rpartition("-")[2]


class TrialFolder:
    """One trial's own folder; nobody else writes there.

    proved  by address the `done` of trials that were compared with what they left, and what it says; None where the
            rows that were read are others
    stamps  those of a remote run's files, by address, as they were listed at once
    """

    def __init__(
        self,
        storage: Storage,
        proved: dict[str, tuple[bytes, dict[str, Any] | None]] | None = None,
        stamps: Callable[[], Mapping[str, Stamp]] = dict,
    ) -> None:
        self.storage, self._stamps = storage, stamps
        self._proved = {} if proved is None else proved

    def finished(self) -> dict[str, Any] | None:
        """Return the contents of `done` ({"finetunings": [ids], ...}) where all is there that the trial left, else
        None."""
        done, damage = self._inspect()
        return None if damage else done

    def is_done(self, finetunings: list[str]) -> bool:
        """Return whether the trial is done with at least these fine-tunings, and all that it left has the size and time
        that it was left with, or the checksum."""
        return self.done_with(finetunings) is not None

    def done_with(self, finetunings: list[str]) -> dict[str, Any] | None:
        """Return what `finished` does where at least these fine-tunings are among what was done, else None."""
        done = self.finished()
        return done if done is not None and set(finetunings) <= set(done["finetunings"]) else None

    def damage(self) -> str:
        """Return what of a finished trial is not as it was left ("rows.jsonl is empty"), "" where all is or none is
        done."""
        return self._inspect()[1]

    def _inspect(self) -> tuple[dict[str, Any] | None, str]:
        """Return what `done` says, None where there is none that can be read, and what is not as it says."""
        try:
            data = self.storage.read("done")
        except Damaged:
            return None, "done is a folder, where a file belongs"
        if data is None:
            return None, ""
        proved = self._proved.get(self.storage.address)
        if proved is not None and proved[0] == data:
            return proved[1], "" if proved[1] is not None else f"rows.jsonl {ALTERED}"
        done, sealed = unseal(data)
        if done is None or not isinstance(done.get("finetunings"), list) or sealed != ("files" in done):
            return None, "done is empty" if not data.strip() else "done is damaged"
        damage = self._defects(done["files"]) if sealed else self._of_before(done["finetunings"])
        if not damage:
            self._proved[self.storage.address] = data, done
        return done, ", ".join(f"{name} {what}" for name, what in damage.items())

    def _defects(self, files: Mapping[str, list[Any]]) -> dict[str, str]:
        """Return in what way files are not as they were left, by name."""
        changed = self._of_other_time(files)
        damage = {name: defect(self.storage, name, files[name], self.storage.stamp(name)) for name in changed}
        return {name: what for name, what in damage.items() if what}

    def _of_other_time(self, files: Mapping[str, list[Any]]) -> list[str]:
        """Return those whose size or time is another than it was: a loop as short as it can be, for a run has 20,000
        files."""
        if self.storage.remote:
            listed = self._stamps()
            return [
                name
                for name, (_, size, time, _) in files.items()
                if listed.get((self.storage / name).address) != (size, time)
            ]
        changed, look = [], os.stat
        try:  # every name is looked up from here: half of the path, and a sixth of the time
            here = os.open(self.storage.address, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return list(files)
        try:
            for name, (_, size, time, _) in files.items():
                try:
                    now = look(name, dir_fd=here)
                except OSError:
                    changed.append(name)
                    continue
                if now.st_size != size or now.st_mtime_ns != time:
                    changed.append(name)
        finally:
            os.close(here)
        return changed

    def _of_before(self, finetunings: list[str]) -> dict[str, str]:
        """Return what is wrong with the rows of a trial whose `done` knows no checksums: an earlier version's."""
        try:
            lacking = set(finetunings) - {row["finetune"] for row in parsed(self.storage)}
        except Damaged as damaged:
            return {"rows.jsonl": damaged.problems[0].what.partition(";")[0]}
        return {"rows.jsonl": f"has no rows of {', '.join(sorted(map(str, lacking)))}"} if lacking else {}

    def finetuning(self, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of a finished fine-tuning, or None; also where it or its predictions are not as they were
        left."""
        data = self.storage.recall(f"finetunings/{name}.json")
        if data is None:
            return None
        stored, sealed = unseal(data)
        if sealed and stored is not None:  # one stamp at a time: a worker need not list the whole of a remote run
            stamps = ((name, entry, self.storage.stamp(name)) for name, entry in stored["files"].items())
            return None if any(defect(self.storage, *of) for of in stamps) else stored["rows"]
        with contextlib.suppress(ValueError, RecursionError):  # an earlier version's: the rows alone
            rows = json.loads(data)
            if is_sound(rows) and rows and all(row["finetune"] == name for row in rows):
                return rows
        return None

    def has_finetuning(self, name: str) -> bool:
        """Return whether a fine-tuning is finished: on a local disk compared with what it left, on remote storage as
        far as its file is listed, with one request for the whole run."""
        if self.storage.remote:
            return (self.storage / f"finetunings/{name}.json").address in self._stamps()
        try:
            return self.finetuning(name) is not None
        except OSError:
            return False

    def keep_finetuning(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Mark a fine-tuning as finished, once its predictions are written. Raises SchemaError for rows that the
        results cannot hold."""
        results_schema.check(rows)
        files = self._entries(f"predictions/{name}.parquet", f"groups/{name}.parquet", _curves(name))
        self.storage.write(f"finetunings/{name}.json", seal({"rows": redacted(rows), "files": files}))

    def fail_finetuning(self, name: str, reason: str, traceback: str = "") -> None:
        """Note why a fine-tuning failed, until the trial's others have ended and `fail` tells it of all: ranks write it
        side by side."""
        self.storage.write_json(f"{FAILURES}/{name}.json", redacted({"reason": reason, "traceback": traceback}))

    def finetuning_failures(self, names: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
        """Return why each of these fine-tunings (None: of all) failed in this attempt ({"reason", "traceback"}), those
        that did not being absent."""
        every = (name.removesuffix(".json") for name in self.storage.names(FAILURES))
        names = every if names is None else names
        notes = {name: self.storage.recall_json(f"{FAILURES}/{name}.json") for name in names}
        keys = ("reason", "traceback")
        return {name: {key: str(note.get(key, "")) for key in keys} for name, note in notes.items() if note is not None}

    def keep_curves(self, name: str, curves: Sequence[LearningCurve]) -> None:
        """Write the learning curves of a fine-tuning, or of the pre-training ("pretrain"); `done` proves them too."""
        self.storage.write(_curves(name), json.dumps([curve.as_json() for curve in curves], allow_nan=False))

    def curves(self, name: str) -> list[LearningCurve] | None:
        """Return the learning curves of a fine-tuning, or of the pre-training ("pretrain"), in the order of its stages;
        None where there are none: they were trained by an earlier version, or the file cannot be read."""
        stored = self.storage.recall_json(_curves(name), list)
        curves = [LearningCurve.read(value) for value in stored or ()]
        return [curve for curve in curves if curve is not None] if curves and None not in curves else None

    def _entries(self, *names: str) -> dict[str, list[Any]]:
        entries = ((name, Entry.of(self.storage, name)) for name in names)
        return {name: entry.listed() for name, entry in entries if entry is not None}

    def failure(self) -> dict[str, Any] | None:
        """Return why the trial failed the last time it ran ({"reason", "log"}), or None; of one that is run again since
        `EarlierAttempt` does."""
        failure = self._without_seal("failed.json")
        if failure is None and not self.storage.exists("failed.json"):
            return None
        why = {"reason": "it cannot be read why: failed.json is damaged", "log": (self.storage / "log.txt").shown}
        return failure if failure and isinstance(failure.get("reason"), str) else why

    def rows_so_far(self, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of those of these fine-tunings (None: of all) that ended well, for every shift, of a trial
        that has been done or failed, whatever was asked of it since; [] of any other, and of one that is damaged."""
        done, damage = self._inspect()
        if damage or (done is None and self.failure() is None and EarlierAttempt.read(self.storage) is None):
            return []
        every = (name.removesuffix(".json") for name in self.storage.names("finetunings"))
        return [row for name in (every if names is None else names) for row in self.finetuning(name) or ()]

    def rows(self, every_shift: bool = False) -> list[dict[str, Any]]:
        """Return the rows of a finished trial: those of the task's own OOD test, or of every shift. Raises Damaged
        where they are not those that it left."""
        return [row for row in self._rows() if every_shift or row.get("shift", OWN) == OWN]

    def _rows(self) -> list[dict[str, Any]]:
        for _ in range(2):  # it may have been run again since, also between two of these lines
            data = self.storage.read("rows.jsonl")
            proved = self._proved.get(self.storage.address)
            done = proved[1] if proved is not None else self._inspect()[0]
            entry = Entry.read((done or {}).get("files", {}).get("rows.jsonl"))
            if (proved is None or proved[1] is not None) and (entry is None or entry.checksum == checksum(data or b"")):
                return parsed(self.storage, data)
            self._proved.pop(self.storage.address, None)
        self._proved[self.storage.address] = self.storage.read("done") or b"", None
        raise self.storage.damaged("rows.jsonl", ALTERED, RERUN)

    def finish(self, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        """Write the rows of every fine-tuning, then the marker, which proves what the trial left; what only resuming
        needed is dropped. The fine-tunings' files are not among it: nobody reads them of a trial that is done, unless
        to use them again, and then each is compared with its own checksum. Raises SchemaError for
        rows that the results cannot hold."""
        results_schema.check(rows)
        self.storage.write("rows.jsonl", text_of(rows))
        finetunings = sorted({row["finetune"] for row in rows})
        names = [f"finetunings/{name}.json" for name in finetunings]
        files = self._entries("rows.jsonl", "trial.json", "subset.parquet", _curves("pretrain"))
        for name in names:  # each proves itself and holds the entries of its predictions, which are not read again
            stored, _ = unseal(self.storage.recall(name) or b"")
            files |= (stored or {}).get("files", {})
        records = self._entries(*RECORDS)  # nothing rests on these: no trial is run again for them
        self.storage.write("done", seal({"finetunings": finetunings, **facts, "files": files, "records": records}))
        for name in (checkpoint_paths.TRIAL_STATES, FAILURES, "failed.json", EARLIER, "worker.json"):
            self.storage.delete(name)

    def _drop_damaged(self) -> None:
        """Remove what is not as it was left, so that what is left whole is all that is used again."""
        done = self._inspect()[0] or {}
        wrong = self._defects(done.get("files", {})) if done else {"subset.parquet": "not known to be whole"}
        for name in wrong:
            folder, _, file = name.rpartition("/")
            if folder or name == "subset.parquet":
                self.storage.discard(f"finetunings/{file.rpartition('.')[0]}.json" if folder else name)

    def progress(self) -> dict[str, Any]:
        """Return the contents of progress.json; {} before the first, or where it cannot be read."""
        progress = self.storage.recall_json("progress.json") or {}
        numbers = {key: progress.get(key, 0.0) for key in PROGRESS}
        scores = [score for key in ("id", "ood") if (score := progress.get(key)) is not None]
        sound = all(map(is_number, (*numbers.values(), *scores))) and isinstance(progress.get("stage", ""), str)
        return {**progress, **numbers} if progress and sound else {}

    def progress_now(self) -> dict[str, Any]:
        """Return the same; {} where it is that of a trial which had ended, as it left it: what is open of it since then
        is not as far as it was."""
        if (done := self.finished()) is not None:
            records = {name: entry for name, entry in done.get("records", {}).items() if name == "progress.json"}
            return self.progress() if self._defects(records) else {}
        progress = self.progress()
        return {} if self.is_earlier(progress) else progress

    def is_earlier(self, progress: Mapping[str, Any]) -> bool:
        """Return whether this is what an attempt left that has ended, and the one that goes on has told nothing yet."""
        earlier = EarlierAttempt.read(self.storage) if progress else None
        return earlier is not None and earlier.progress == progress["time"]

    def mend(self) -> bool:
        """Make rows.jsonl again from the fine-tunings' files, where it is all of a finished trial that is not as it was
        left; returns whether that was so. Nothing needs to be trained then, nor weights that may be gone by now."""
        done, _ = self._inspect()
        if done is None:
            with contextlib.suppress(Damaged):
                done = unseal(self.storage.read("done") or b"")[0]  # its rows have been read, and are others
        if not done or "files" not in done or set(self._defects(done["files"])) - {"rows.jsonl"}:
            return False
        stored = [self.finetuning(name) for name in done["finetunings"]]
        rows = [row for own in stored for row in own or ()]
        there = self.storage.recall("rows.jsonl") or b""
        if not all(stored) or sorted(text_of(rows).splitlines()) == sorted(there.splitlines()):  # in the plan's order
            return False
        try:
            results_schema.check(rows)
        except results_schema.SchemaError:  # of another version, which `RunFolder.results` reports
            return False
        self._proved.pop(self.storage.address, None)
        self.finish(rows, {key: value for key, value in done.items() if key not in ("finetunings", "files", "records")})
        return True

    def begin(self) -> str:
        """Begin an attempt at the trial, another one where it had ended. What killed writers left half-written goes,
        and what of a finished trial is not as it was left; returns what that was, or "".

        So does `done`: of a trial that gets more fine-tunings it would speak for files that are about to change, and
        whoever looked meanwhile, or after a crash, would take them for damaged."""
        damage = self.damage()
        if damage:
            self._drop_damaged()
        self.end_attempt()
        self.storage.discard("done")
        self.storage.delete(FAILURES)
        self.storage.delete("stopped.json")
        self.storage.tidy()
        return damage

    def end_attempt(self) -> None:
        """Note of a trial that failed, or was done, that it is run again: how that was is not how this attempt ends."""
        failure = self.failure()
        if failure is not None or self.storage.exists("done"):
            why, progress = failure or {}, self.progress().get("time")
            EarlierAttempt(why.get("reason", ""), self.reasons(why), progress).write(self.storage)
        self.storage.delete("failed.json")

    def reasons(self, failure: Mapping[str, Any]) -> dict[str, str]:
        """Why fine-tunings failed that have not ended well since, by id: in this attempt or in one before."""
        earlier = EarlierAttempt.read(self.storage) or EarlierAttempt()
        before = failure.get("before")
        every = {**earlier.finetunings, **(before if isinstance(before, dict) else {}), **reasons_of(failure)}
        return {name: str(reason) for name, reason in every.items() if self.finetuning(name) is None}

    def fail(self, reason: str, quarantined: bool = False, finetunings: Mapping[str, str] | None = None) -> None:
        """Write why the trial failed, in one line, for the results table and the report. A trial is `quarantined` when
        it failed so often that there is no other attempt until the command is run again; attempts.json lists them.
        `finetunings`: those for which it failed, with their reasons, where all others have ended well."""
        failure: dict[str, Any] = {
            "reason": " ".join(reason.split()),
            "log": (self.storage / "log.txt").shown,
            "quarantined": quarantined,
        }
        noted = {name: note["reason"] for name, note in self.finetuning_failures().items()}
        if finetunings:
            failure["finetunings"] = dict(finetunings)
        elif reasons := self.reasons({"finetunings": noted}):
            failure["before"] = reasons
        self.storage.write("failed.json", seal(redacted(failure)))
        for name in (FAILURES, EARLIER):
            self.storage.delete(name)

    def stopped(self) -> dict[str, Any] | None:
        """Return why a search stopped the trial before its end ({"reason", "log", and of a trial that had begun
        "milestone", "value", "cutoff", "images_seen", "seconds"}), or None."""
        return self._without_seal("stopped.json")

    def stop(self, reason: str, facts: dict[str, Any]) -> None:
        """Note that the trial is not run to its end; what only resuming needed is dropped. What it scored in an attempt
        that had ended is kept."""
        self.end_attempt()
        stop = {"reason": reason, "log": (self.storage / "log.txt").shown, **facts}
        self.storage.write("stopped.json", seal(redacted(stop)))
        for name in (checkpoint_paths.TRIAL_STATES, FAILURES, "worker.json"):
            self.storage.delete(name)

    def _without_seal(self, name: str) -> dict[str, Any] | None:
        """Return sealed JSON as it is read, whole or not: `integrity` compares it with its checksum."""
        value = self.storage.recall_json(name)
        return value and {key: one for key, one in value.items() if key != CHECKSUM}

    def attempts(self) -> list[dict[str, Any]]:
        """Return the trial's failed attempts in order: {"time" in seconds since the epoch, "host", "kind", "reason",
        "counts" (whether towards quarantine)}."""
        recorded = self.storage.recall_json("attempts.json", list) or []
        return [one for one in recorded if isinstance(one, dict) and one.keys() >= ATTEMPT and is_number(one["time"])]

    def note_attempt(self, attempt: dict[str, Any]) -> None:
        """Add to `attempts`."""
        self.storage.write_json("attempts.json", [*self.attempts(), attempt])

    def grad_accum_steps(self) -> int:
        """Return in how many parts a batch goes through the model: 1 unless the whole did not fit into memory."""
        parts = (self.storage.recall_json("parts.json") or {}).get("parts")
        return parts if isinstance(parts, int) and parts > 0 else 1

    def set_grad_accum_steps(self, steps: int, reason: str) -> None:
        """Take a batch through the model in so many parts from now on."""
        self.storage.write_json("parts.json", {"parts": steps, "reason": reason})


def _curves(name: str) -> str:
    return f"curves/{name}.json"
