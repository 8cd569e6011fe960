"""The journal of an Optuna study: one line per operation in the run folder's search.jsonl, local or remote.

Owns the file. A last line that a crash cut short is dropped when the file is opened. The run folder has one driver at a
time, so nothing is locked here.
"""

from __future__ import annotations

import json
import os
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from ray_robust.files.storage import Storage
from ray_robust.redact import redacted

FILE = "search.jsonl"
REMEDY = "remove the file, then run the same command again: it draws anew, and every trial that is done counts"


class Journal(BaseJournalBackend):
    """Reads the whole file once. What is appended is on disk when `append_logs` returns. Raises Damaged for a line that
    is no JSON object."""

    def __init__(self, folder: Storage) -> None:
        self.folder = folder
        data = folder.read(FILE) or b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            folder.write(FILE, whole)
        self.logs: list[dict[str, Any]] = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self.logs.append({**json.loads(line)})
            except (ValueError, TypeError, RecursionError):
                raise folder.damaged(FILE, f"line {number} is damaged", REMEDY) from None

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        logs = redacted(logs)  # what is remembered here is what the next command reads
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self.logs += [json.loads(line) for line in lines.splitlines()]
        path = self.folder.local(FILE)
        if path is None:  # an object store cannot append
            whole = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in self.logs)
            self.folder.write(FILE, whole)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
