"""Errors of the user: one clear line each, all of them at once, and an exit code.

`Problem` (where, what is wrong, what would be right), `UserError` (some problems), `DataAbsent` (one that a plan can do
without), `Damaged` (a file that was altered since this program wrote it), `Outage` (nobody's error: a full disk, or
storage or a cluster that went away), `Refused` (an object store's answer to wrong credentials), `Unfinished` (a sweep
called from Python that is not complete), `Arguments` (a parser that raises UserError), `check_out`, `check_run_folder`
and `command`, under which every `main` runs: it turns a UserError into lines on standard error and exit code 2, a
Refused into a line and 2, an Outage into a line and 1, Ctrl-C into 130.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from ray_robust.redact import redact
from ray_robust.text.names import printable
from ray_robust.text.streams import steady

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130  # exit codes of every command
MOST_LINES = 200  # of errors that are printed


@dataclass(frozen=True)
class Problem:
    """One error. `where` is `file:line` or the like ("" where there is none), `what` a sentence in one line."""

    where: str
    what: str

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return redact(" ".join(printable(line).split()))


class UserError(Exception):
    """Errors of the user, raised before anything was written. Printed without a traceback."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self):  # an exception with its own __init__ must define how it is pickled
        return type(self), self.problems


class DataAbsent(UserError):
    """A source or task without any data; the message says how to obtain it. A plan can do without."""


class Damaged(UserError, ValueError):
    """A file of this program was altered: which one, how, and how to repair it. Callers that can do without the file
    catch it as the ValueError of a file that cannot be parsed."""


class Outage(OSError):
    """The disk is full, or storage or the cluster stays unavailable: one line that says what to do about it. Finished
    work is kept, and the same command continues from there."""

    def __init__(self, line: str) -> None:
        super().__init__(redact(printable(line)))


class Refused(PermissionError):
    """An object store refuses what is asked, today and tomorrow: wrong credentials, a missing right, no such bucket.
    Made as any OSError with errno, reason and address."""

    def __str__(self) -> str:
        return redact(printable(f"{self.filename}: {self.strerror}"))


class Unfinished(Exception):
    """A sweep that was run from Python ended with trials that failed or were not run, or without a report: one line
    that says which. What is done is kept, and the same call continues. `path` is the run folder."""

    def __init__(self, line: str, path: str) -> None:
        self.path = path
        super().__init__(redact(printable(line)))

    def __reduce__(self):
        return type(self), (str(self), self.path)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean num_images?` where a known word is near, else the (short) list of known words, else ""."""
    names = sorted(map(str, words))
    same = [name for name in names if name.casefold() == str(word).casefold()]
    near = same[:1] or difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""


def unexpanded(path: object, stop: str = "") -> str:
    """Return a hint where a $VARIABLE was left standing in a path that is not there; else `stop`."""
    return "; is the variable set?" if "$" in str(path) else stop


def install_hint(extra: str) -> str:
    """Return the command that installs an extra: of a checkout from its list, else of the installed project."""
    name = f"requirements-{extra}.txt"
    beside = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), name))
    return f"pip install -r {name}" if beside else f"pip install 'ray_robust[{extra}]'"


class Arguments(argparse.ArgumentParser):
    """A parser of a command's arguments that reports errors like all others: in one line, as a UserError. `called`
    replaces the first text in the program's name by the second: a command may be one of another program."""

    called: ClassVar[tuple[str, str]] = ("", "")

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog.replace(*self.called), **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help shows what there is")


def check_out(name: str, out: object) -> None:
    """Raise UserError where `out`, given by the flag or argument `name`, is no path or URI, or is empty, as a variable
    of a shell that is not set: that would be the working directory, or be taken for not given."""
    if not isinstance(out, str | os.PathLike | None):
        raise UserError(f"{name}: must be the path or URI of a folder, not {out!r}")
    if out is not None and not os.fspath(out).strip():
        raise UserError(f"{name}: is empty; wanted: the path or URI of a folder, or no {name}")


def check_local(name: str, folder: object) -> None:
    """Raise UserError where `folder`, given by the flag, argument or variable `name`, is an address: as a path it would
    lead to a folder called `s3:`."""
    if "://" in str(folder or ""):
        raise UserError(f"{name}: must be a folder of this machine, not the address {folder}")


def check_run_folder(name: str, out: object) -> None:
    """Raise UserError where `out` can be no run folder: as `check_out`, and a whole bucket, which has no place beside
    the run for the pre-trained weights that it shares with others."""
    check_out(name, out)
    scheme, between, path = str(out or "").partition("?")[0].partition("://")
    if between and scheme != "file" and "/" not in path.rstrip("/"):
        bucket = f"{scheme}://{path.rstrip('/')}"
        what = "is a whole bucket, and the weights that runs share go beside the run folder"
        raise UserError(f"{name}: {bucket} {what}; give a folder in it, e.g. {bucket}/first")


def command(main: Callable[[list[str]], int]) -> None:
    """Run `main(argv)` as a program and exit with its code: user errors are plain lines, Ctrl-C is 130, an unexpected
    error is a line with the file of its traceback. It runs on when its output is closed. SIGTERM, and SIGHUP of a
    terminal that is closed, act as Ctrl-C, unless they are ignored (nohup)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    with steady():
        code = _code(main)
    sys.exit(code)


def _code(main: Callable[[list[str]], int]) -> int:
    try:
        os.getcwd()
    except FileNotFoundError:
        print("the working directory is gone; change to one that is there", file=sys.stderr)
        return MISTAKE
    try:
        return main(sys.argv[1:])
    except UserError as error:
        for problem in error.problems[:MOST_LINES]:
            print(problem, file=sys.stderr)
        if (more := len(error.problems) - MOST_LINES) > 0:
            print(f"... and {more:,} more", file=sys.stderr)
        return MISTAKE
    except Outage as outage:
        print(outage, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Refused as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        print(unforeseen(error), file=sys.stderr)
        return MISTAKE
    except Exception as error:
        print(unforeseen(error), file=sys.stderr)
        return FAILED


def unforeseen(error: BaseException) -> str:
    """Return an error as a line that ends with the name of a new file with its traceback."""
    message = error.strerror if isinstance(error, OSError) and error.strerror and error.filename else str(error)
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else f"{type(error).__name__}: "
    line = redact(textwrap.shorten(printable(f"{where}{message}"), 300))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="ray_robust-", suffix=".txt", delete=False) as file:
            file.write(redact("".join(traceback.format_exception(error))))
    except OSError:  # nowhere to write
        return line
    return f"{line} (traceback: {file.name})"
