"""What the runs of an analysis declared before their scores were seen, and which settings were others before.

Owns `Declared` (the records of all runs, with what their specs say now) and `Earlier`: settings that an analysis would
have been made under, had nothing been changed once trials were done. A plain table has declared nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.formatting import format_value, listed, name
from analysis.options import Options
from ray_robust.run.analysis_settings import AnalysisSettings
from ray_robust.run.declared import KEYS, Declaration, Record, read_record
from ray_robust.run.run_folder import DECLARED, RunFolder
from ray_robust.text.names import count_noun

UNRECORDED = "not recorded"
OPTION = "by an option of this analysis"


def strictest(parts: Sequence[AnalysisSettings | Options]) -> dict[str, float]:
    """Return what holds for several runs together: their strictest margin and floor."""
    return {"margin": min(one.margin for one in parts), "min_r2": max(one.min_r2 for one in parts)}


@dataclass(frozen=True)
class Earlier:
    """Settings that held before: the options of the analysis with them, and a sentence on what was changed and when."""

    options: Options
    sentence: str


@dataclass(frozen=True)
class OfRun:
    """One run: its name, its record (None: it has none), and what its spec.yaml says now."""

    name: str
    record: Record | None
    now: AnalysisSettings

    @classmethod
    def read(cls, run: RunFolder, name: str, now: AnalysisSettings) -> OfRun:
        """Return what a run declared."""
        return cls(name, read_record(run), now)

    @property
    def standing(self) -> tuple[Declaration, ...]:
        """What was declared and every later change; empty where that is not recorded."""
        return self.record.standing if self.record else ()

    @property
    def declared(self) -> AnalysisSettings:
        """The settings that were declared, or else those of spec.yaml."""
        return self.standing[0].settings if self.standing else self.now

    @property
    def text(self) -> str:
        """When they were declared."""
        if self.record is not None and self.record.damage:
            return f"not known: {DECLARED} {self.record.damage}"
        if not self.standing:
            return UNRECORDED
        first, *later = self.standing
        changed = f"; changed since, {count_noun(len(later), 'time')}" if later else ""
        if first.done:
            return f"recorded {_when(first)}; before that {UNRECORDED}{changed}"
        return f"before any trial was done, {first.written}{changed}"

    def changed(self, key: str, value: Any) -> str:
        """Return when a setting became the one that spec.yaml has now, "" where it did not."""
        if self.record is None or not self.standing or getattr(self.declared, key) == value == getattr(self.now, key):
            return ""
        since = None
        for one in reversed(self.standing):
            if getattr(one.settings, key) != value:
                break
            since = one
        if since is None:
            return "in spec.yaml, not by the sweep's command"
        return _when(since)


@dataclass(frozen=True)
class Declared:
    """What the runs of an analysis declared, in their order."""

    runs: tuple[OfRun, ...]

    @property
    def text(self) -> str:
        """When the settings were declared, of several runs each."""
        if len(self.runs) == 1 or len({one.text for one in self.runs}) == 1:
            return self.runs[0].text
        return "; ".join(f"{name(one.name)}: {one.text}" for one in self.runs)

    def earlier(self, options: Options) -> list[Earlier]:
        """Return the settings that held before those of `options`, the declared ones first; none where nothing was
        changed."""
        others: dict[AnalysisSettings, Earlier] = {}
        used = AnalysisSettings(**{key: getattr(options, key) for key in KEYS})
        for settings, origin in self._settings():
            if settings != used and settings not in others:
                whole = replace(options, **asdict(settings))
                others[settings] = Earlier(whole, self._sentence(settings, used, origin))
        return list(others.values())

    def plain(self) -> dict[str, Any]:
        """Return it for verdict.json."""
        return {
            "when": self.text,
            "runs": [
                {
                    "run": one.name,
                    "recorded": bool(one.record and one.record.entries),
                    "entries": [
                        {"written": entry.written, "trials_done": entry.done, "settings": asdict(entry.settings)}
                        for entry in (one.record.entries if one.record else ())
                    ],
                }
                for one in self.runs
            ],
        }

    def _settings(self) -> Iterator[tuple[AnalysisSettings, str]]:
        """Yield every setting that the runs together have had, and where it comes from."""
        declared, now = [one.declared for one in self.runs], [one.now for one in self.runs]
        firsts = [one.standing[0] for one in self.runs if one.standing]
        if len(firsts) < len(self.runs):
            origin = f"in the spec (when it was set is {UNRECORDED})"
        elif any(first.done for first in firsts):
            origin = f"recorded {_when(max(firsts, key=lambda first: first.done))}"
        else:
            origin = "declared before any trial was done"
        yield from ((_together(declared, one), origin) for one in declared)
        for i, run in enumerate(self.runs):
            for entry in run.standing[1:]:
                parts = [*now[:i], entry.settings, *now[i + 1 :]]
                yield _together(parts, entry.settings), f"set {_when(entry)}"
        yield from ((_together(now, one), "in spec.yaml") for one in now)

    def _sentence(self, settings: AnalysisSettings, used: AnalysisSettings, origin: str) -> str:
        parts = []
        for key in KEYS:
            earlier, value = getattr(settings, key), getattr(used, key)
            if earlier != value:
                was = f"{_text(earlier)} was {origin}, and changed {self._how(key, value)}"
                parts.append(f"{key} is {_text(value)}: {was}")
        return "; ".join(parts)

    def _how(self, key: str, value: Any) -> str:
        now = getattr(_together([one.now for one in self.runs], self.runs[0].now), key)
        if now != value:
            return OPTION
        times = [(one.name, one.changed(key, getattr(one.now, key))) for one in self.runs]
        several = len(self.runs) > 1
        return listed([f"{when} in {name(run)}" if several else when for run, when in times if when]) or OPTION


def _when(one: Declaration) -> str:
    done = f"{count_noun(one.done, 'trial')} {'was' if one.done == 1 else 'were'} done"
    return f"when {done}, {one.written}" if one.done else f"before any trial was done, {one.written}"


def _together(parts: Sequence[AnalysisSettings], base: AnalysisSettings) -> AnalysisSettings:
    """The settings of an analysis of runs with these: of one of them, but for what is the strictest."""
    return replace(base, **strictest(parts))  # type: ignore[arg-type]


def _text(value: object) -> str:
    return name(value) if isinstance(value, str) else format_value(value)
