"""One driver per run folder, local, on a share or in an object store: a lease file that is renewed while it runs.

`lease.json` names host, process and time; a second driver is refused with that name. Clocks are not compared: a lease
that does not change for `EXPIRY` seconds is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_robust.errors import Damaged, Outage, UserError
from ray_robust.files.disk_room import FULL, blocking_part, no_room
from ray_robust.files.storage import Storage

FILE = "lease.json"
RENEW = 10.0  # seconds between two renewals
EXPIRY = 2.5 * RENEW  # seconds without one after which a lease of another machine is taken over
FIELDS = {"host": str, "pid": int, "time": int | float, "id": str}  # of whose lease it is
SETTLE = 1.0  # seconds before a new owner looks whether another took the lease in the same moment


@dataclass(frozen=True)
class Driver:
    """Who holds the lease of a folder, as one look at it shows.

    name     for people: process, host and when it last renewed
    alive    whether it runs; None where one look does not tell, since it runs on another machine or left no readable
             lease: it does where `renewal` changes within `EXPIRY` seconds
    renewal  changes whenever the lease is renewed
    own      whether it is this very process
    """

    name: str
    alive: bool | None
    renewal: str
    own: bool = False


def driver_of(folder: Storage) -> Driver | None:
    """Return who holds the lease of a folder, None where nobody does."""
    lease = _read(folder)
    if lease is None:
        return None
    alive = _began(int(lease["pid"])) == lease.get("began") if lease and _is_here(lease) else None
    own = bool(alive) and lease["pid"] == os.getpid()
    return Driver(_named(lease), alive, f"{lease.get('id')} {lease.get('time')}", own)


class Lease:
    """The lease of a folder, held."""

    def __init__(self, folder: Storage, mine: dict[str, Any]) -> None:
        self.folder, self.mine = folder, mine
        self.lost, self._stop = False, threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Outage when another driver took the lease while this one could not renew it."""
        if self.lost:
            raise Outage(f"{self.folder.shown}: {_named(_read(self.folder))} took over this folder while it could not "
                         f"be reached from here; that one goes on")  # fmt: skip

    def interrupted(self, *_: object) -> None:
        """What an interrupt means to a process that ignores them."""
        if self.lost:
            raise KeyboardInterrupt

    def release(self) -> None:
        """Let the next one in."""
        self._stop.set()
        self._thread.join()
        if not self.lost:
            with contextlib.suppress(OSError):
                self.folder.delete(FILE)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            try:
                now = _read(self.folder)
                if not now or now.get("id") == self.mine["id"]:  # another driver's is whole: a rename puts it there
                    self.folder.write_json(FILE, {**self.mine, "time": time.time()})
                    continue
            except (OSError, Damaged):  # away for a moment, or a folder in its place: the next round tells
                continue
            self.lost = True
            # who catches the KeyboardInterrupt asks `check` why
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return


@contextlib.contextmanager
def hold_lease(folder: Storage, waiting: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold the lease of a folder for the time of a with-block; a folder in which nothing else was written goes with it.

    `waiting` is called with the owner whose lease is watched. Raises UserError when another driver runs there, or the
    folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(folder))
            lease = Lease(folder, _take(folder, waiting))
        except Outage:
            raise
        except OSError as error:
            raise UserError(f"--out {folder.shown}: cannot be written: {_why_not(folder, error)}") from None
        stack.callback(lease.release)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # a job in the background of a script: Ctrl-C is not meant for it, but the loss of its lease is
            signal.signal(signal.SIGINT, lease.interrupted)
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        yield lease


def _why_not(folder: Storage, error: OSError) -> str:
    """Return why a folder cannot be written."""
    path = folder.local()
    if error.errno in FULL:
        return no_room(path)
    wrong = None if path is None else blocking_part(path)
    return f"{Storage(wrong[0]).shown} {wrong[1]}" if wrong else error.strerror or str(error)


def _take(folder: Storage, waiting: Callable[[str], None]) -> dict[str, Any]:
    """Write a lease of one's own, unless another driver's is alive."""
    there = _read(folder)
    if there is not None and _alive(folder, there, waiting):
        raise UserError(
            f"{folder.shown}: {_named(there)} is running in this folder; wait for it, or give another --out"
        )
    mine = {"host": platform.node(), "space": _space(), "pid": os.getpid(), "began": _began(os.getpid()),
            "id": uuid.uuid4().hex}  # fmt: skip
    folder.write_json(FILE, {**mine, "time": time.time()})
    if there is not None or folder.remote:  # two may have seen the same dead lease, or none, in the same moment
        time.sleep(SETTLE)
        now = _read(folder) or {}
        if now.get("id") != mine["id"]:
            raise UserError(
                f"{folder.shown}: {_named(now)} is running in this folder; wait for it, or give another --out"
            )
    return mine


def _alive(folder: Storage, lease: dict[str, Any], waiting: Callable[[str], None]) -> bool:
    """Return whether the owner of a lease still runs: on this machine by its process, else by whether it renews."""
    if _is_here(lease):
        return _began(int(lease.get("pid", 0))) == lease.get("began")
    waiting(_named(lease) if lease else "a driver whose lease.json cannot be read")
    until = time.monotonic() + EXPIRY
    while (begun := time.monotonic()) < until:
        time.sleep(min(1.0, RENEW / 4))
        now = _read(folder)
        if time.monotonic() - begun > RENEW / 2:  # the storage was away, from the owner as well: it gets its time anew
            until = time.monotonic() + EXPIRY
        if now is None:
            return False
        if now != lease:
            return True
    return False


def _is_here(lease: dict[str, Any]) -> bool:
    """Return whether the process that a lease names would be seen from here."""
    return lease.get("host") == platform.node() and lease.get("space", _space()) == _space()


def _read(folder: Storage) -> dict[str, Any] | None:
    try:
        lease = folder.read_json(FILE, dict)
    except Damaged:  # not by us, or cut short
        return {}
    sound = lease is None or all(isinstance(lease.get(key), kind) for key, kind in FIELDS.items())
    return lease if sound else {}


def _taken(folder: Storage, lease: dict[str, Any] | None) -> UserError:
    return UserError(f"{folder.shown}: {_named(lease)} is running in this folder; wait for it, or give another --out")


def _named(lease: dict[str, Any] | None) -> str:
    lease = lease or {}
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(lease["time"])) if "time" in lease else "?"
    return f"process {lease.get('pid', '?')} on {lease.get('host', '?')} (last seen {since})"


def _space() -> str:
    """Return where process numbers mean the same: a machine since it was started, or a container on it. Names of hosts
    do not tell: cloned machines and containers have them in common. "" where the system does not say."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _began(pid: int) -> str | None:
    """Return when a process of this machine began, in its own ticks, so that a number used again is no mistake; None:
    gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:  # no /proc: a Mac
        os.kill(pid, 0)
    except OSError:
        return None
    return str(pid)


@contextlib.contextmanager
def _lock(folder: Storage) -> Iterator[None]:
    """A lock that goes with the process, however it ends: two on one machine never race for the lease."""
    path = folder.local(".lock")
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(folder, _read(folder)) from None
        except OSError:  # a share without locks: the lease alone holds
            pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody removed it under us
                if os.listdir(path.parent) == [path.name]:
                    shutil.rmtree(path.parent, ignore_errors=True)
