"""Other accounts on this machine: whether one could reach a port that listens on loopback.

`others` errs towards yes, since a wrong no would let a stranger run code as the user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from pathlib import Path

FIRST = 500 if sys.platform == "darwin" else 1000  # the lowest number of a person's account (UID_MIN in login.defs)
NOBODY = 65534
NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")  # programs in the place of a shell
LOCAL = {
    "files",
    "compat",
    "systemd",
    "altfiles",
    "extrausers",
    "myhostname",
}  # NSS modules that know this machine alone
SHARED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "panfs", "afs", "9p",
          "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"}  # file systems that several machines use  # fmt: skip
JOBS = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF", "JOB_ID": "Grid Engine"}
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
SHOWN = 3


def others() -> str:
    """Return why other accounts may reach this machine's loopback ("this machine has the accounts ann, bob"), "" where
    none may. A container that has a network of its own has its own loopback too."""
    return _scheduler() or _accounts() or _directory() or _running() or _home() or _container()


def _scheduler() -> str:
    for name, program in JOBS.items():
        if os.environ.get(name, "").isdigit() or (name != "JOB_ID" and os.environ.get(name)):
            return f"this is a job of {program}, on a machine that others use"
    return ""


def _accounts() -> str:
    names = [one.pw_name for one in pwd.getpwall() if _is_person(one.pw_uid) and _can_log_in(one.pw_shell)]
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"this machine has the account{'s' * (len(names) > 1)} {', '.join(names[:SHOWN])}{more}"


def _is_person(uid: int) -> bool:
    return uid >= FIRST and uid not in (os.geteuid(), NOBODY)


def _can_log_in(shell: str) -> bool:
    return os.path.basename(shell) not in NO_LOGIN


def _directory() -> str:
    """Accounts that a directory gives (LDAP, SSSD, NIS) need not be listed."""
    for line in _lines("/etc/nsswitch.conf"):
        name, _, modules = line.partition(":")
        if name.strip() == "passwd":
            words = [word for word in modules.partition("#")[0].split() if not word.startswith("[")]
            if foreign := [word for word in words if word not in LOCAL]:
                return f"this machine's accounts come from a directory ({', '.join(foreign)})"
    return ""


def _running() -> str:
    """Of processes, since an account need not be listed. Those of others are hidden where /proc is mounted so."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        entries = [entry for entry in os.scandir("/proc") if entry.name.isdigit()]
    except OSError:
        return ""
    if not any(entry.name == "1" for entry in entries):
        return "this machine hides the processes of others"
    for entry in entries:
        with contextlib.suppress(OSError):  # it ended
            if _is_person(uid := entry.stat().st_uid):
                return f"account {uid} has processes on this machine"
    return ""


def _home() -> str:
    """A home folder that several machines share belongs to machines that several people share."""
    home, best, kind = os.path.realpath(os.path.expanduser("~")), "", ""
    for line in _lines("/proc/mounts"):
        _, where, name, *_ = line.split(" ")
        where = where.replace(r"\040", " ")
        if (home == where or home.startswith(where.rstrip("/") + "/")) and len(where) >= len(best):
            best, kind = where, name
    return f"the home folder lies on a shared file system ({kind})" if kind in SHARED else ""


def _container() -> str:
    """A container with the machine's network cards has the machine's loopback, and sees none of its accounts."""
    inside = any(os.path.exists(mark) for mark in CONTAINERS) or "container" in os.environ
    cards = Path("/sys/class/net")
    if inside and cards.is_dir() and any((card / "device").exists() for card in cards.iterdir()):
        return "this container uses its machine's network"
    return ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
