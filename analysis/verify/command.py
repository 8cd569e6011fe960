"""The command: `python -m analysis verify RUN_DIR`.

Reads every file of a run, makes its scores again from the predictions, its table of results from the trials, and its
report from both, and says which file differs: exit code 1, 0 where none does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from analysis.formatting import some
from analysis.verify import report, scores
from ray_robust import __version__
from ray_robust.errors import DONE, FAILED, Arguments, Problem
from ray_robust.files.storage import Storage, encoded
from ray_robust.run import integrity
from ray_robust.run.interim import interim_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import OWN
from ray_robust.run.trial_folder import key_of
from ray_robust.text import safe_csv
from ray_robust.text.console import Screen
from ray_robust.text.names import count_noun

REPORT = "report"
SHOWN = 4  # names of files that are listed


@dataclass
class Verification:
    """What was compared, and what is wrong.

    problems  a line for each file that is not as it was, or says something else than the trials
    compared  what was compared, a sentence each
    notes     what was not, and why
    """

    problems: list[Problem] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Verify a run folder; return exit code 1 where something differs, else 0. Raises UserError where it is no run."""
    parser = Arguments("python -m analysis verify", description="Does a run say what its trials gave?")
    parser.add_argument("run", metavar="RUN_DIR", help="a run folder; its report is the folder report in it")
    made = verify(parser.parse_args(argv).run)
    screen = Screen(highlight=False, markup=False, soft_wrap=True)
    for line in (*map(str, made.problems), *made.compared, *(f"not compared: {note}" for note in made.notes)):
        screen.print(line)
    files = len({problem.where for problem in made.problems})
    screen.print(f"altered: {count_noun(files, 'file')}" if files else "verified: nothing differs")
    return FAILED if made.problems else DONE


def verify(address: str) -> Verification:
    """Return how a run compares with what it was made of; of one that runs, as far as it is. Raises UserError where it
    is no run."""
    run, made = RunFolder(address), Verification()
    run.require()
    files = integrity.inspect(run, REPORT)
    made.problems += _problems(run.storage, files.altered.items())
    made.compared.append(f"{count_noun(len(files.whole), 'file')} of the run with their checksums")
    if files.unproved:
        made.notes.append(f"{count_noun(len(files.unproved), 'file')} of which no checksum was kept: "
                          f"{some(files.unproved, SHOWN)}")  # fmt: skip
    if any(name.startswith("trials/") or name == "plan.csv" for name in files.altered):
        made.notes.append("scores, results and report, which rest on what was altered")
        return made
    _verify_scores(run, made)
    if not made.problems:
        _verify_results(run, made)
    _verify_report(run, made)
    return made


def _verify_scores(run: RunFolder, made: Verification) -> None:
    """The scores of every trial that is done, and of the fine-tunings that ended well, of one that failed."""
    plan, trials, points = run.plan(), 0, 0
    for name, finetunings in zip(plan.get("trial", ()), map(json.loads, plan.get("finetunes", ())), strict=True):
        folder = run.trial(name)
        if rows := run.rows_of(name, finetunings):
            if others := {str(row.get("trial", name)) for row in rows} - {
                name
            }:  # of one that was named anew the key is the same
                what = [f"is of trial {one}" for one in sorted(others) if key_of(one) != key_of(name)]
                made.problems += _problems(folder.storage, (("rows.jsonl", one) for one in what))
            made.problems += _problems(folder.storage, scores.differences(folder, rows))
            trials, points = trials + 1, points + sum(row.get("shift", OWN) == OWN for row in rows)
    made.compared.append(f"scores of {count_noun(points, 'point')} of {count_noun(trials, 'trial')} with what their "
                         "predictions give")  # fmt: skip


def _verify_results(run: RunFolder, made: Verification) -> None:
    """results.csv and results.parquet."""
    table, compared = run.results(every_shift=True), []
    for name in ("results.csv", "results.parquet"):
        data = run.storage.recall(name)
        if data is None:
            made.notes.append(f"{name}, which is not there")
            continue
        compared.append(name)
        csv, text = name.endswith(".csv"), safe_csv.text_of(table)
        wanted = encoded(name, text) if csv else text.encode()
        try:
            there = data if csv else safe_csv.text_of(pd.read_parquet(io.BytesIO(data))).encode()
        except (ValueError, OSError, NotImplementedError):  # pyarrow's own among them
            made.problems += _problems(run.storage, [(name, "is no Parquet table")])
            continue
        if there != wanted:
            lacks = report.lacking("results.csv", there, wanted)
            what = report.in_table(there, wanted) or ("" if lacks else "is not what the trials give")
            made.problems += _problems(run.storage, [(name, what)] if what else [])
            made.notes += [_earlier(name, lacks)] if lacks and not what else []
    if compared:
        made.compared.append(f"{' and '.join(compared)} with the rows of the trials")


def _verify_report(run: RunFolder, made: Verification) -> None:
    """The report in the run folder."""
    folder = run.storage / REPORT
    kept, damage = report.provenance(folder)
    if damage:
        made.problems += _problems(folder, [(report.PROVENANCE, damage)])
    if not folder.exists("verdict.json"):
        made.notes.append(f"{folder.shown}: there is no report of the whole run")
        return
    changed = dict(report.altered(folder, kept))
    if kept:
        made.compared.append(f"{count_noun(len(kept['files']), 'file')} of the report with their checksums")
    else:
        made.notes.append("pages and figures: the report keeps no checksums")
    again = None if made.problems else _made_again(run, kept)
    if again is None:
        made.problems += _problems(folder, changed.items())
        why = "rest on what was altered" if made.problems else "the trials have not ended"
        made.notes.append(f"tables and sentences of the report: {why}")
        return
    by = kept.get("ray_robust")
    other = f" (the report is of version {by}, this is {__version__})" if by and by != __version__ else ""
    for name, what in report.differences(folder, again):
        changed[name] = f"{changed[name]}: {what}" if name in changed else what + other
    there = 0
    for name, content in again.items():
        data = folder.recall(name)
        there += data is not None
        if name not in changed and data is not None and (lacks := report.lacking(name, data, content)):
            made.notes.append(_earlier(f"{REPORT}/{name}", lacks))
    made.problems += _problems(folder, changed.items())
    made.compared.append(f"{count_noun(there, 'file')} of the report, tables and sentences, with what the trials give")


def _made_again(run: RunFolder, kept: dict) -> dict[str, bytes] | None:
    """The tables and the verdict of the run's report, made as that one was; None where the run has not ended."""
    from analysis.interface.request import Request, read
    from analysis.interface.study import Study
    from analysis.report.output import tables_and_verdict
    from analysis.study import analyse_all

    if interim_of(run, run.states()) is not None:
        return None
    scale, margin, look = (kept.get(key) for key in ("scale", "margin", "look"))
    table, options, target = read(Request((run.storage.address,), scale=scale, margin=margin, look=look))
    table = replace(table, title=kept.get("title", ""), name=kept.get("name", table.name))
    study = Study(table, analyse_all(table, options), target)
    return tables_and_verdict(table, study.analyses, study.verdict)


def _earlier(name: str, lacks: Sequence[str]) -> str:
    return f"{name}: it lacks {some(lacks, SHOWN)}, which an earlier version did not write"


def _problems(folder: Storage, differences: Iterable[tuple[str, str]]) -> list[Problem]:
    return [Problem((folder / name).shown, what) for name, what in differences]
