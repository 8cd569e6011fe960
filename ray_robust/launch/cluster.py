"""Joining a Ray cluster, or starting one on this machine for the time of a command, quietly.

A cluster started here listens on loopback alone: Ray runs whatever code it is sent, and asks nobody for a password. One
that is joined is as safe as its owner made it. Owns Ray's settings and its temporary folder, which is removed when a
local cluster ends: Ray itself never cleans it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ray_robust.choices import absolute
from ray_robust.errors import Outage, UserError
from ray_robust.launch.address import address_of, check_address

OWNED = "driver"  # in the folder of a local cluster: locked as long as its driver lives
FOLDERS = ("RAY_ROBUST_STORE", "RAY_ROBUST_CACHE")
OBJECT_STORE = 128 << 20  # bytes; images never travel through it
LONGEST_SOCKET = 107  # bytes that the path of a Unix socket may have on Linux
SOCKET = "/rr-12345678/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # the longest
SHORT_FOLDERS = (
    "/tmp",
    "/var/tmp",
    "/dev/shm",
)  # for its sockets, where the machine's own temporary folder is too long
LONGEST_CAUSE = 250  # characters
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our rows are the record; Tune's per-trial logs fill disks
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: exit code 130 and the command that continues
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read again: done markers are
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # seconds sooner to the end of a worker group
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # Ray would give way to everything else on the machine; training is what it is here for
}


@dataclass(frozen=True)
class Cluster:
    """A cluster in use. `scratch` is a folder for Ray's own bookkeeping; `dashboard` an address, or ""; `note` what the
    user should know of it, or ""."""

    dashboard: str
    scratch: Path
    local: bool
    note: str = ""


@contextlib.contextmanager
def connect(address: str | None = None, dashboard: bool = True) -> Iterator[Cluster]:
    """A cluster for the time of a with-block: the one at `address` (or RAY_ADDRESS), else one of this machine's cores.

    Raises UserError when there is no cluster at the address, or no folder for Ray's sockets; Outage when Ray does not
    start on this machine.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in FOLDERS:  # workers inherit them, and have other working directories
        if folder := os.environ.get(name):
            os.environ[name] = absolute(folder)
    check_address(address)
    joined = address_of(address)
    local = joined is None
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster on loopback; Ray's default flips between runs
    base, note = _temporary_folder() if local else (Path(tempfile.gettempdir()), "")
    _remove_leftovers(base)
    scratch = Path(tempfile.mkdtemp(prefix="rr-", dir=base))
    owned = _own(scratch)
    import ray

    try:
        if joined is None:
            info, more = _start(base, scratch, dashboard)
            note = "; ".join(filter(None, (note, more)))
        else:
            info = ray.init(address=joined.text, **QUIET)
    except Exception as error:  # whatever one of Ray's many parts raises
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
        owned.close()
        if joined is not None:
            raise UserError(f"{joined.where}: the cluster there cannot be joined: {_cause(error)}") from error
        raise Outage(f"Ray does not start on this machine: {_cause(error)}") from error
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's log has its tracebacks, and the screen a line
    try:
        yield Cluster(info.dashboard_url or "", scratch, local, note)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
        owned.close()


def _start(base: Path, scratch: Path, dashboard: bool) -> tuple[Any, str]:
    """A cluster on this machine, and a line where it has to do without the dashboard that it should have: on a busy
    machine that part may not answer in the time that Ray gives it, and no sweep needs it."""
    import ray

    try:
        return _init(base, scratch / "ray", dashboard), ""
    except Exception as error:
        if not dashboard:
            raise
        why = _cause(error)
    ray.shutdown()  # what had started would stay
    # the second folder's name is no longer than the first's: sockets lie below it
    return _init(base, scratch / "two", False), f"Ray's dashboard does not start, and is left out: {why}"


def _init(base: Path, folder: Path, dashboard: bool) -> Any:
    import ray

    with _on_loopback(), _temporary(base):
        return ray.init(address="local", include_dashboard=dashboard, _temp_dir=str(folder),
                        object_store_memory=OBJECT_STORE, **QUIET)  # fmt: skip


def _cause(error: Exception) -> str:
    """One line: the end of what Ray says, where the cause stands; it begins with pages of logs."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
    return text if len(text) <= LONGEST_CAUSE else "... " + text[-LONGEST_CAUSE:].partition(" ")[2]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray's processes on this machine find and serve each other on 127.0.0.1, as they do on macOS and Windows. On
    Linux they listen on every interface, the dashboard apart; no public setting says otherwise. The variable is for the
    processes that are started, the constant for this one, which may have imported Ray already."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Have the processes that are started keep their temporary files, and so their sockets, in `folder`."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _own(scratch: Path) -> IO[str]:
    """A lock on the folder that goes with this process, however it ends: other drivers leave the folder alone."""
    file = open(scratch / OWNED, "w")  # noqa: SIM115 - open as long as the process, and not in those that it starts
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _temporary_folder() -> tuple[Path, str]:
    """The folder for a local cluster's files, and a line on it where it is not the one asked for: the path of a Unix
    socket must be short. RAY_TMPDIR goes before TMPDIR, as with Ray. Raises UserError."""
    wanted = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    most = LONGEST_SOCKET - len(SOCKET)
    for folder in (wanted, *SHORT_FOLDERS, os.environ.get("XDG_RUNTIME_DIR") or wanted):
        path = os.path.abspath(folder)
        if len(os.fsencode(path)) <= most and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            short = "" if folder == wanted else f"Ray's files lie in {path}: {_why_not(wanted, most)}"
            return Path(path), short
    raise UserError(f"{_why_not(wanted, most)}; set RAY_TMPDIR to a folder with a shorter path")


def _why_not(folder: str, most: int) -> str:
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    if len(os.fsencode(os.path.abspath(folder))) > most:
        return f"{name} {folder} is too long for the paths of its sockets (at most {most} bytes)"
    return f"{name} {folder} is no folder that can be written"


def _remove_leftovers(base: Path) -> None:
    """Remove the temporary folders in `base` of local clusters whose driver was killed. Asked of the lock and not of a
    process id, which says nothing of a container's driver that shares the folder."""
    for lock in base.glob(f"rr-*/{OWNED}"):
        with contextlib.suppress(OSError), open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
