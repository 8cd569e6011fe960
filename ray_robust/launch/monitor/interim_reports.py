"""The report while a sweep runs: written again as trials end, as often as a share of the time allows.

Another process writes it (`analysis.interface.interim`), so that the sweep waits for nothing; one that fails costs a
line in the log. What reports cost is the processor time of these processes, measured here, over the time that has
passed: on a machine that is busy they take longer, and no more from the sweep.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import ray_robust
from ray_robust.run.interim import SHARE

FIRST = 8.0  # seconds of a processor that a report is expected to take before one was written
NEAR = 3.0  # times that: when less is left of the sweep, its last report comes soon enough
PROGRAM = "import sys; sys.path.append({!r}); from analysis.interface import interim; interim.command(interim.main)"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "RAYON")}


class ReportProcess:
    """A process that writes a report, in a session of its own: Ctrl-C is the driver's, which stops it. `seconds` of
    processor time that it took, once it is over."""

    def __init__(self, address: str, complaints: IO[bytes]) -> None:
        self.seconds = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(Path(ray_robust.__file__).parents[1].as_posix()), address],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints, env={**os.environ, **ONE_THREAD},
            start_new_session=True,
        )  # fmt: skip

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Return the exit code, None while it runs."""
        if self._process.returncode is None:
            try:
                pid, status, usage = os.wait4(self._process.pid, options)
            except ChildProcessError:  # somebody else has waited for it
                return self._process.poll()
            if pid:
                self.seconds = usage.ru_utime + usage.ru_stime
                self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode

    def wait(self) -> int | None:
        """Return the exit code once it is over."""
        return self.poll(options=0)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self.wait()


class InterimReports:
    """The reports of one run.

    address   the run folder
    log       takes a line where a report fails, the same one once
    clock     in seconds
    start     starts the process that writes a report, with its standard error

    written, spent   reports so far, and the processor seconds that they took, failed ones too
    """

    def __init__(
        self,
        address: str,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[str, IO[bytes]], ReportProcess] | None = None,
    ) -> None:
        self.address, self.log, self.clock, self.start = address, log, clock, start or ReportProcess
        self.begun, self.written, self.spent = clock(), 0, 0.0
        self._expected = FIRST
        self._process: ReportProcess | None = None
        self._complaints: IO[bytes] | None = None
        self._ended, self._reported, self._last_failure = 0, 0, ""
        self._closed = False

    @property
    def share(self) -> float:
        """The share of the time since the trials began that reports took, 0-1."""
        return self.spent / max(self.clock() - self.begun, 1e-9)

    def update(self, ended: int, left: float | None = None) -> None:
        """Look after the process, and start one where trials have ended since the last report and the time allows it.
        Returns at once.

        ended  trials that have ended
        left   seconds until the sweep is done; None when it is too early to tell
        """
        if self._closed or (self._process is not None and not self._is_over(self._process)):
            return
        allowed = self.spent + self._expected <= SHARE * (self.clock() - self.begun)
        if ended > self._reported and allowed and (left is None or left > NEAR * self._expected):
            self._begin(ended)

    def close(self) -> None:
        """Stop a report that is being written, and start no other: the sweep's own follows."""
        self._closed = True
        if self._process is not None and not self._is_over(self._process):
            self._process.stop()
            self.spent += self._process.seconds
            self._forget()

    def _begin(self, ended: int) -> None:
        self._ended = ended
        try:  # a full temporary folder costs the report, not the thread that watches the sweep
            self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
            self._process = self.start(self.address, self._complaints)
        except OSError as error:
            self._reported = ended
            self._fail(error.strerror or str(error))
            self._forget()

    def _is_over(self, process: ReportProcess) -> bool:
        code = process.poll()
        if code is None:
            return False
        took = process.seconds
        self.spent, self._expected, self._reported = self.spent + took, took, self._ended
        if code == 0:
            self.written += 1
        else:
            self._fail(self._complaint() or f"the process that writes it ended with code {code}")
        self._forget()
        return True

    def _complaint(self) -> str:
        if self._complaints is None:
            return ""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def _fail(self, why: str) -> None:
        if why != self._last_failure:
            self.log(f"no report while it runs: {why}")
        self._last_failure = why

    def _forget(self) -> None:
        if self._complaints is not None:
            self._complaints.close()
        self._process = self._complaints = None
