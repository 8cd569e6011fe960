"""What a run declared before its scores were seen: declared.json, the decisions of its analysis and how many trials
were done when each was set.

The sweep records them with its plan, before the first trial. A command whose spec decides otherwise appends to the
record and changes nothing in it. A record begun when trials were done already (by a run of an earlier version, or in
place of one that was lost) says so by their number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ray_robust.errors import Damaged
from ray_robust.run.analysis_settings import AnalysisSettings, settings_of
from ray_robust.run.run_folder import DECLARED, RunFolder

KEYS = tuple(field.name for field in fields(AnalysisSettings))


@dataclass(frozen=True)
class Declaration:
    """One entry of the record: the settings, when they were recorded (UTC), and how many trials were done then."""

    settings: AnalysisSettings
    written: str
    done: int


@dataclass(frozen=True)
class Record:
    """All declarations of a run, the first one first; `damage` is what is wrong with the file, "" where nothing is."""

    entries: tuple[Declaration, ...] = ()
    damage: str = ""

    @property
    def standing(self) -> tuple[Declaration, ...]:
        """The last declaration before any trial was done (else the first of all), and every later one: what was decided
        anew before there was a score counts for nothing."""
        first = max((i for i, one in enumerate(self.entries) if one.done == 0), default=0)
        return self.entries[first:]


def read_record(run: RunFolder) -> Record | None:
    """Return what a run declared; None where it has no record. One that was altered holds nothing."""
    checksums = run.checksums().get(DECLARED)
    damage = run.defect(DECLARED, checksums)
    data = run.storage.recall(DECLARED)
    if damage:
        return Record(damage=damage)
    if data is None:
        return None
    try:
        return Record(tuple(_entry(one) for one in json.loads(data)))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Record(damage="is damaged: it is not a record any more")


def declare(run: RunFolder, spec: Mapping[str, Any], now: float) -> None:
    """Append the settings of a spec to the run's record where the last entry has others. `now` is the time, in seconds
    since the epoch; the folder's spec.yaml must still be that of the command before."""
    record, settings = read_record(run) or Record(), settings_of(spec)
    entries = list(record.entries)
    if entries and entries[-1].settings == settings:
        return
    written, done = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)), trials_done(run)
    if not entries and done and (before := _settings_before(run)) not in (None, settings):
        entries.append(Declaration(before, written, done))  # type: ignore[arg-type]
    entries.append(Declaration(settings, written, done))
    rows = [{"written": one.written, "trials_done": one.done, "settings": asdict(one.settings)} for one in entries]
    run.write(DECLARED, json.dumps(rows, indent=1) + "\n")


def trials_done(run: RunFolder) -> int:
    """Return how many trials of a folder are done, of whichever spec: their scores could be seen."""
    return sum(run.storage.exists(f"trials/{name}/done") for name in run.storage.names("trials"))


def _settings_before(run: RunFolder) -> AnalysisSettings | None:
    try:
        spec = run.spec()
    except Damaged:
        return None
    return settings_of(spec) if spec else None


def _entry(row: Mapping[str, Any]) -> Declaration:
    """Return an entry; keys that this version does not know are left out, those that an earlier one lacked have their
    defaults."""
    settings = {key: value for key, value in row["settings"].items() if key in KEYS}
    return Declaration(AnalysisSettings(**settings), str(row["written"]), int(row["trials_done"]))
