"""Joining a Ray cluster, or starting one on this machine for the time of a command, quietly.

A cluster started here listens on loopback alone, and asks for a token where other accounts could reach it there: Ray
runs whatever code it is sent, and by itself asks nobody for a password. One that is joined is as safe as its owner made
it. Owns Ray's settings.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_robust.errors import Outage, UserError
from ray_robust.files.retry import VARIABLE
from ray_robust.launch.cluster import private_apis
from ray_robust.launch.cluster.accounts import others
from ray_robust.launch.cluster.address import address_of, check_address
from ray_robust.launch.cluster.auth_token import protect
from ray_robust.launch.cluster.temporary_folder import folder_for_sockets, scratch, temporary_files_in
from ray_robust.spec.class_selection import absolute

FOLDERS = ("RAY_ROBUST_STORE", "RAY_ROBUST_CACHE")
PASSED = (VARIABLE,)  # what workers do as this command does, on every node of a cluster
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what `ray job submit` gave a job, as Ray tells the job
OBJECT_STORE = 128 << 20  # bytes; images never travel through it
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
    """A cluster in use. `scratch` is a folder for Ray's own bookkeeping; `dashboard` an address, or ""; `note` a line
    for the user, or ""; `locked` whether this command has it ask for a token."""

    dashboard: str
    scratch: Path
    local: bool
    note: str = ""
    locked: bool = False


@contextlib.contextmanager
def connect(address: str | None = None, dashboard: bool = True) -> Iterator[Cluster]:
    """Yield a cluster for the time of a with-block: the one at `address` (or RAY_ADDRESS), else one of this machine's
    cores.

    Raises UserError when there is no cluster at the address, no folder for Ray's sockets, or this process uses Ray
    already; Outage when Ray does not start on this machine.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in FOLDERS:  # workers inherit them, and have other working directories
        if given := os.environ.get(name):
            os.environ[name] = absolute(given)
    check_address(address)
    _check_unused()
    joined = address_of(address)
    with contextlib.ExitStack() as stack:
        notes = []
        if joined is None:
            stack.callback(_set_mode, os.environ.get("RAY_AUTH_MODE"))  # as the user has it, for the next cluster
            notes.append(_guard())
            base, note = folder_for_sockets()
            notes.append(note)
        else:
            base = Path(tempfile.gettempdir())
        folder = stack.enter_context(scratch(base))
        stack.callback(_shutdown)
        import ray

        terminated = signal.getsignal(signal.SIGTERM)
        try:
            if joined is None:
                info, note = _start(base, folder, dashboard)
                notes.append(note)
            else:
                info = ray.init(address=joined.text, runtime_env=_passed_on(), **QUIET)
        except SystemExit as ended:  # Ray's own handler, which it sets first of all
            if ended.code == signal.SIGTERM:
                raise KeyboardInterrupt from None
            raise
        except Exception as error:  # whatever one of Ray's many parts raises
            if joined is not None:
                raise UserError(f"{joined.where}: the cluster there cannot be joined: {_cause(error)}") from error
            again = "where the machine was too busy for it, the same command later starts it"
            raise Outage(f"Ray does not start on this machine: {_cause(error)}; {again}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminated)
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's log has its tracebacks, the screen a line
        locked = joined is None and os.environ["RAY_AUTH_MODE"] == "token"
        yield Cluster(info.dashboard_url or "", folder, joined is None, "; ".join(filter(None, notes)), locked)


def _check_unused() -> None:
    """Raise UserError where this process uses Ray already, as a notebook may: it has one cluster at a time, and the
    caller's would end with ours."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise UserError("Ray is in use in this process; call ray.shutdown() first, or run the sweep in another process")


def _passed_on() -> dict[str, Any] | None:
    """Ray's runtime environment for the workers of a cluster that is joined: they have the environment of their node,
    not this command's. What the job of this command was given reaches them anyhow; Ray refuses it a second time."""
    job = json.loads(os.environ.get(JOB) or "{}").get("runtime_env") or {}
    given = {name: value for name in PASSED if (value := os.environ.get(name)) and name not in job.get("env_vars", {})}
    return {"env_vars": given} if given else None


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _guard() -> str:
    """Have a cluster of this machine ask for a token where others could reach it, or as RAY_AUTH_MODE says. Return a
    line for the user, or "". Raises UserError where no token can be kept."""
    why, mode = others(), os.environ.get("RAY_AUTH_MODE")
    note = ""
    if mode == "disabled" and why:
        note = f"RAY_AUTH_MODE=disabled: other accounts could run code as you: {why}"
    if mode == "token" or (mode is None and why):
        note = protect()
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # Ray's own default depends on whether a token is there
    private_apis.reread_environment()
    return note


def _set_mode(mode: str | None) -> None:
    if mode is None:
        os.environ.pop("RAY_AUTH_MODE", None)
    else:
        os.environ["RAY_AUTH_MODE"] = mode


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

    with private_apis.on_loopback(), temporary_files_in(base):
        return ray.init(address="local", include_dashboard=dashboard, _temp_dir=str(folder),
                        object_store_memory=OBJECT_STORE, **QUIET)  # fmt: skip


def _cause(error: Exception) -> str:
    """The end of Ray's message in one line, where the cause is; it begins with pages of logs."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
    return text if len(text) <= LONGEST_CAUSE else "... " + text[-LONGEST_CAUSE:].partition(" ")[2]
