"""One command for a GPU that is at hand for minutes: `python -m bench.on_gpu [--dry-run] [--out FOLDER]`.

Stages by value, each in a process of its own with a limit of its own, all within `--minutes`: the tests marked `gpu`; a
step of training from the stores over the same compiled step on tensors that lie on the GPU, and over timm's benchmark,
for ResNet-50 and ViT-S; several fine-tunings of ResNet-18 at once, in every way. Results are written as they come, so
that a stage that is cut off, or a machine that is taken away, leaves what it had. While the tests run, what later
stages need is compiled beside them.

Ends with 1 where a stage fails or is cut off, or a ratio falls short of what is wanted. `--dry-run` runs every stage in
small on the CPU. `--read` prints, and with `--write` puts into a document, what was measured on another machine.
Needs no Ray, and no installed project: torch, torchvision, timm, pandas, pydantic, pyyaml, rich, pytest and hypothesis.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import command_of, here_and_now, print_table, write_table
from bench.on_gpu.stages import BESIDE, STAGES, Rows, Run, Stage

HEADER = ("stage", "what", "way", "measured", "ratio", "wanted")
RESULTS, LOG = "results.jsonl", "log.txt"
SLOWER = 60  # a dry run may take so many times as long: no CPU is promised to it
Line = dict[str, Any]


def main(argv: list[str]) -> int:
    """Run the stages, or read the results of another machine; print the table."""
    parser = argparse.ArgumentParser("python -m bench.on_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="every stage in small, on the CPU")
    parser.add_argument("--out", type=Path, default=Path("on-gpu"), help=f"folder for {RESULTS} and {LOG}")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--stages", nargs="*", choices=[stage.name for stage in STAGES], metavar="STAGE",
                        help=f"default: {', '.join(stage.name for stage in STAGES)}")  # fmt: skip
    parser.add_argument("--read", action="store_true", help="run nothing: take what lies in --out")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    if not args.read:
        stages = [stage for stage in STAGES if args.stages is None or stage.name in args.stages]
        run_all(stages, args.dry_run, args.out, args.minutes, command_of("bench.on_gpu", argv))
    lines = read(args.out / RESULTS)
    print_table(HEADER, rows_of(lines))
    if args.write:
        start = next(line for line in lines if "command" in line)
        write_table(args.write, "on a gpu", [HEADER, *rows_of(lines)], start["command"], start["where"])
    missed = missing(lines)
    print(json.dumps({"passed": not missed, "missed": missed}), flush=True)
    return int(bool(missed))


def run_all(stages: Sequence[Stage], dry: bool, out: Path, minutes: float, command: str) -> None:
    """Run the stages one after the other; see the head of this module."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, LOG):
        (out / name).unlink(missing_ok=True)
    run, over = Run(dry), time.monotonic() + 60 * minutes * (SLOWER if dry else 1)
    if Child(Stage("card", 60.0, lambda run, report: _look(run, out, command)), run, out).wait(60.0) != "passed":
        sys.exit("no GPU that can be used; --dry-run runs every stage in small on the CPU")
    beside = Child(BESIDE, run, out) if not dry and len(stages) > 1 else None
    try:
        for stage in stages:
            limit = min(stage.limit * (SLOWER if dry else 1), over - time.monotonic())
            if limit <= 0:
                write(out, {"stage": stage.name, "ended": "no time was left", "seconds": 0.0})
                continue
            begun = time.monotonic()
            ended = Child(stage, run, out).wait(limit)
            write(out, {"stage": stage.name, "ended": ended, "seconds": round(time.monotonic() - begun, 1)})
            if beside is not None:  # it would disturb what is timed from here on
                beside.wait(max(0.0, min(BESIDE.limit - (time.monotonic() - begun), over - time.monotonic())))
                beside = None
    finally:
        if beside is not None:
            beside.wait(0.0)


class Child:
    """A stage in a process of its own, forked before CUDA has begun, so that nothing is imported twice."""

    def __init__(self, stage: Stage, run: Run, out: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_child, args=(stage, run, out))
        sys.stdout.flush()
        self.process.start()

    def wait(self, limit: float) -> str:
        """Return how it ended: "passed", "failed" or "cut off"; it, and what it has started, has ended then."""
        self.process.join(limit)
        ended = {0: "passed", None: "cut off"}.get(self.process.exitcode, "failed")
        with suppress(ProcessLookupError, PermissionError):  # what it left behind
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        if ended == "cut off":
            self.process.kill()
        self.process.join()
        return ended


def _look(run: Run, out: Path, command: str) -> bool:
    """Note what is measured where, in a process of its own: CUDA must not begin in that which forks the others."""
    if run.is_possible:
        write(out, {"command": command, "where": here_and_now()})
    return run.is_possible


def _child(stage: Stage, run: Run, out: Path) -> None:
    os.setsid()
    log = os.open(out / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
    print(f"--- {stage.name}", flush=True)
    try:
        if run.dry:
            torch.set_num_threads(1)
        passed = stage.work(run, _writer(stage.name, out))
    except BaseException as error:
        traceback.print_exc()
        write(out, {"stage": stage.name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
        passed = False
    sys.stdout.flush()
    os._exit(0 if passed else 1)  # no clean-up of CUDA or of threads may hold it up


def _writer(stage: str, out: Path) -> Callable[[Rows], None]:
    def report(rows: Rows) -> None:
        for row in rows:
            write(out, {"stage": stage, **asdict(row)})

    return report


def write(out: Path, line: Line) -> None:
    """Append a line to the results; it is on the disk when this returns."""
    with open(out / RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(file: Path) -> list[Line]:
    """Return the lines of the results; of those with one stage, subject and way the last."""
    lines: dict[tuple[Any, ...], Line] = {}
    for text in file.read_text("utf-8").splitlines():
        line = json.loads(text)
        lines[(line.get("stage"), line.get("subject"), line.get("way"), "ended" in line, "error" in line)] = line
    return list(lines.values())


def rows_of(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    rows = []
    for line in lines:
        if "subject" in line:
            ratio, wanted = line["ratio"], line["wanted"]
            rows.append((line["stage"], line["subject"], line["way"], line["value"],
                         "" if ratio is None else f"{ratio:.3f}", "" if wanted is None else f"{wanted:g}"))  # fmt: skip
        elif "error" in line:
            rows.append((line["stage"], "error", line["error"], "", "", ""))
        elif "ended" in line:
            rows.append((line["stage"], "stage", line["ended"], f"{line['seconds']:.0f} s", "", ""))
    return rows


def missing(lines: Sequence[Line]) -> list[str]:
    """Return what did not pass: stages, and ratios below what is wanted of them."""
    missed = [f"{line['stage']}: {line['ended']}" for line in lines if line.get("ended", "passed") != "passed"]
    for line in lines:
        if line.get("wanted") is not None and (line["ratio"] is None or line["ratio"] < line["wanted"]):
            missed.append(
                f"{line['stage']}: {line['subject']}, {line['way']}: {line['ratio']}, wanted {line['wanted']}"
            )
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
