"""Write what the studies came to: `python -m bench.studies [NAME=]RUN... [--write docs/studies.md] [--headers]`.

Reads finished run folders and keeps an entry of each in docs/studies.json (beside the document that is written). From
all entries there it makes docs/studies.md, a table per study with paper, photographs and rendered world side by side
and a sentence per world that follows from the intervals, and with `--headers` the lines `# Cost:` and `# Result:` of
the sweeps' files, so that no figure is typed by hand; without a run both are made again from the entries. A run is
called by the sweep that it noted (`quantity`, `photos/quantity`, `quantity --set task.shift=0`); NAME= calls it
otherwise. `--costs` adds the sweeps under `sweeps/paper`: the images that their plans count, over the training rate of
their models measured here and now, an estimate. `--figure RUN` copies the figure of a report to where README shows it.
Without `--write` the Markdown is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench import filled
from bench.studies.claims import STUDIES
from bench.studies.costs import costs
from bench.studies.document import section, study_of
from bench.studies.figures import copy_figure
from bench.studies.headers import write_headers
from bench.studies.record import Record, changed_since, entry_of, read_entries, write_entries
from ray_robust.errors import DONE, UserError, command

PAPER, ENTRIES = Path("sweeps/paper"), "studies.json"


def main(argv: list[str]) -> int:
    """Print, or write, what the runs and the costs come to; the last line of what is printed is JSON."""
    parser = argparse.ArgumentParser("python -m bench.studies", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="*", help="run folders, e.g. runs/quantity or photos/quantity=RUN")
    parser.add_argument(
        "--costs", action="store_true", help="measure rates and estimate the sweeps of the paper's size"
    )
    parser.add_argument("--write", metavar="FILE", help="put the pieces into this document")
    parser.add_argument("--headers", action="store_true", help="write the headers of the sweeps' files, too")
    parser.add_argument("--figure", metavar="RUN", action="append", default=[], help="copy the figure of its report")
    args = parser.parse_args(argv)
    document = Path(args.write or "docs/studies.md")
    entries = read_entries(document.with_name(ENTRIES))
    read = dict(map(_read, args.run))
    entries = dict(sorted({**entries, **read}.items()))
    pieces = sections(entries) if args.run or args.write else {}
    if args.costs:
        pieces["costs"] = "\n".join(costs(sorted(PAPER.glob("*.yaml"))))
    if args.write:
        document.write_text(filled(document.read_text("utf-8"), pieces), "utf-8")
        write_entries(document.with_name(ENTRIES), entries)
    else:
        asked = {study.name for name in read if (study := study_of(name)) is not None} | {"costs"}
        print("\n\n".join(f"<!-- {name} -->\n{piece}" for name, piece in pieces.items() if name in asked))
    headers = write_headers(Path(), entries) if args.headers else []
    copied = [copy_figure(address, Path(), name) for address, name in map(_named, args.figure)]
    print(json.dumps({"read": sorted(read), "pieces": sorted(pieces), "headers": headers, "figures": copied}))
    return DONE


def _read(run: str) -> tuple[str, Record]:
    """Return the entry of `RUN` or `NAME=RUN`; report on standard error where its sweep's file has changed since."""
    address, name = _named(run)
    name, record = entry_of(address, name)
    file = Path(f"sweeps/{name.partition(' ')[0]}.yaml")
    if " --confirm" not in name and (keys := changed_since(address, file)):
        print(f"{run}: was not run with {file} as it is now: {', '.join(keys)}", file=sys.stderr)
    return name, record


def sections(entries: Mapping[str, Record]) -> dict[str, str]:
    """Return the text between the marks of every study that was run in some world."""
    studies = [study for study in STUDIES.values() if any(study_of(name) == study for name in entries)]
    return {study.name: "\n".join(section(study, entries)) for study in studies}


def _named(run: str) -> tuple[str, str]:
    """Return the address and the name of `RUN` or `NAME=RUN`; an address may hold an `=` itself."""
    name, sign, address = run.partition("=")
    if not sign or Path(run).exists():
        return run, ""
    if not name or not address:
        raise UserError(f"{run}: neither a run folder nor NAME=RUN")
    return address, name


if __name__ == "__main__":
    command(main)
