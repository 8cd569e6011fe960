"""The gallery of the documentation site: every sweep under `sweeps/` with its question, its result, and its report.

Reads the headers of the sweeps and the run folders; imports nothing of the project, which the site's environment lacks.
A report is shown for a sweep only where its run folder is of that file as it is now.
"""

from __future__ import annotations

import contextlib
import csv
import html
import json
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KINDS = {  # folder under sweeps/ -> heading and what is behind it
    "": ("The built-in world", "Rendered animals in front of cameras, on two CPU cores."),
    "photos": ("Photographs", "Public collections of photographs, small enough for one machine."),
    "paper": ("The paper's data", "ImageNet, iNaturalist and iWildCam at the scale of the paper; they need GPUs."),
}
INTRODUCTION = """# Gallery

Every sweep that comes with the project: its question, what came out, and the report that it wrote. Reports are no part
of the repository (7 MB each): `make docs` takes those of finished runs from `runs/`. Where there is none, the command
makes it.
"""


@dataclass(frozen=True)
class Shown:
    """One sweep of the gallery.

    file      relative to the checkout, e.g. sweeps/paper/quantity.yaml
    header    Question, Run, Cost, Result as the file's header has them, continued lines kept apart by newlines
    text      the whole file
    report    the folder of its report, or None
    made      when and of which commit the report is
    instead   how a run of it differs from the file, so that it is not shown, or ""
    """

    file: str
    header: dict[str, str]
    text: str
    report: Path | None = None
    made: str = ""
    instead: str = ""

    @property
    def slug(self) -> str:
        """Its name in addresses: `quantity`, `paper-quantity`."""
        return "-".join(Path(self.file).with_suffix("").parts[1:])

    @property
    def question(self) -> str:
        """The question in one line."""
        return " ".join(self.header["Question"].split())


def header_of(text: str) -> dict[str, str]:
    """Return the entries of a sweep's first comments, `# Key: value` with deeper lines continuing it."""
    entries: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if match := re.match(r"# (\w+):\s+(.*)", line):
            key = match[1]
            entries[key] = [match[2].strip()]
        elif key:
            entries[key].append(line.lstrip("#").strip())
    return {key: "\n".join(lines) for key, lines in entries.items()}


def _plain(value: Any) -> Any:
    """A value as it compares: `16k`, `16000` and `"1.6e4"` are one number."""
    if isinstance(value, bool) or value is None:
        return value
    match = re.fullmatch(r"([-+]?[\d_]*\.?\d+(?:e[-+]?\d+)?)([kM]?)", str(value), re.IGNORECASE)
    return float(match[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()] if match else str(value)


def differences(asked: Any, ran: Any, key: str = "") -> list[str]:
    """Return the keys whose values a run's spec has otherwise. Short forms (`seeds: 3`) are compared with nothing."""
    if isinstance(asked, dict) and isinstance(ran, dict):
        return [name for part, value in asked.items() if part in ran
                for name in differences(value, ran[part], f"{key}.{part}".lstrip("."))]  # fmt: skip
    if isinstance(asked, list) and isinstance(ran, list):
        if len(asked) != len(ran):
            return [key]
        return sorted({name for pair in zip(asked, ran, strict=True) for name in differences(*pair, key)})
    if isinstance(asked, dict | list) or isinstance(ran, dict | list):
        return []
    if isinstance(asked, str) and re.match(r"\$|~", asked):  # where the data lie, no part of what was asked
        return []
    return [] if _plain(asked) == _plain(ran) else [key]


def is_of(run: Path, file: str) -> bool:
    """Whether the run is one of that sweep, by the command that it keeps."""
    given = next((word for word in _command_of(run) if word.endswith((".yaml", ".yml"))), "")
    return given.removeprefix("./") == file or given.endswith("/" + file)


def changed(run: Path, text: str) -> str:
    """Return how a run of a sweep differs from the sweep's file as it is now, or ""."""
    options = [word.split("=")[0] for word in _command_of(run) if word.split("=")[0] in ("--set", "--limit")]
    if options:
        return f"it was run with {options[0]}"
    ran = yaml.safe_load((run / "spec.yaml").read_text("utf-8"))
    keys = differences(yaml.safe_load(text), {key: value for key, value in ran.items() if key != "provenance"})
    return f"it was run with another {keys[0]}" if keys else ""


def _command_of(run: Path) -> list[str]:
    provenance = yaml.safe_load((run / "spec.yaml").read_text("utf-8")).get("provenance", {})
    return shlex.split(str(provenance.get("command", "")))


def _made(run: Path) -> str:
    """When the run was started last, of which commit, and how many of its trials are done where some are not."""
    provenance = yaml.safe_load((run / "spec.yaml").read_text("utf-8")).get("provenance", {})
    commit = f", commit {provenance['commit']}" if provenance.get("commit") else ""
    file = run / "run.json"
    invocations = json.loads(file.read_text("utf-8"))["invocations"] if file.is_file() else []
    with contextlib.suppress(FileNotFoundError), (run / "plan.csv").open(encoding="utf-8", newline="") as plan:
        planned, done = len(list(csv.DictReader(plan))), len(list(run.glob("trials/*/done")))
        commit += f", {done} of {planned} trials done" if done < planned else ""
    return f"run {invocations[-1]['started'][:10]}{commit}" if invocations else commit.removeprefix(", ")


def shown(root: Path, runs: Path) -> list[Shown]:
    """Return every sweep of the checkout, by kind, those with a report first."""
    rank = {folder: number for number, folder in enumerate(KINDS)}
    sweeps = []
    for path in sorted((root / "sweeps").rglob("*.yaml")):
        file, text = path.relative_to(root).as_posix(), path.read_text("utf-8")
        report, made, instead = None, "", ""
        inner = path.relative_to(root / "sweeps").with_suffix("")
        for run in dict.fromkeys((runs / inner, runs / inner.name)):
            finished = (run / "report/index.html").is_file() and (run / "spec.yaml").is_file()
            if finished and is_of(run, file) and report is None:
                instead = changed(run, text)
                report, made = (None, "") if instead else (run / "report", _made(run))
        sweeps.append(Shown(file, header_of(text), text, report, made, instead))
    return sorted(sweeps, key=lambda sweep: (rank.get(folder_of(Path(sweep.file)), len(rank)), not sweep.report))


def folder_of(file: Path) -> str:
    """The folder under sweeps/ that a sweep lies in; "" for sweeps/ itself."""
    return "/".join(file.parts[1:-1])


def _sentences(report: Path) -> list[str]:
    """The first sentences of a report: raw scores, then effective robustness; those of its first task."""
    file = report / "verdict.json"
    scores = json.loads(file.read_text("utf-8")).get("scores", {}) if file.is_file() else {}
    return [text for text in ((scores.get("deployment") or {}).get("text"), scores.get("robustness")) if text]


def _escaped(text: str) -> str:
    """Prose of a header as Markdown that shows it unchanged."""
    return re.sub(r"([\\`*_\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _command(run: str) -> str:
    """The lines of `Run`, with what stands in brackets behind a command as its comment."""
    return "\n".join(re.sub(r"\s+\((.*)\)$", r"    # \1", line) for line in run.splitlines())


def entry(sweep: Shown) -> str:
    """Return the Markdown of one sweep."""
    lines = [f"### {_escaped(sweep.question)} {{ #{sweep.slug} data-toc-label='{Path(sweep.file).stem}' }}", ""]
    if sweep.report is not None:
        folder = f"gallery/{sweep.slug}"
        if (sweep.report / "trend.svg").is_file():
            figure = f"![The figure of the report]({folder}/trend.svg){{ .figure loading=lazy }}"
            lines += [f"[{figure}]({folder}/index.html)", ""]
        lines += [*(line for sentence in _sentences(sweep.report) for line in (_escaped(sentence), ""))]
        button = f"[Open the report]({folder}/index.html){{ .md-button }} {sweep.made}"
        lines += [button, "", f"Recorded in the sweep's file: {_escaped(sweep.header['Result'])}", ""]
    else:
        lines += [_escaped(sweep.header["Result"]), ""]
        if sweep.instead:
            lines += [f"The run in `runs/` is not shown here: {sweep.instead}.", ""]
        lines += ["```sh", _command(sweep.header["Run"]), "```", ""]
    if sweep.header.get("Cost"):
        lines += [f"Cost: {_escaped(sweep.header['Cost'])}", ""]
    block = textwrap.indent(f"```yaml\n{sweep.text.rstrip()}\n```", "    ")
    return "\n".join([*lines, f'??? note "{sweep.file}"', "", block, ""])


def page(sweeps: list[Shown]) -> str:
    """Return the Markdown of the gallery."""
    parts, last = [INTRODUCTION], None
    for sweep in sweeps:
        folder = folder_of(Path(sweep.file))
        if folder != last:
            title, what = KINDS.get(folder, (folder.replace("_", " ").capitalize(), ""))
            parts.append(f"## {title}\n\n{what}\n")
            last = folder
        parts.append(entry(sweep))
    return "\n".join(parts)
