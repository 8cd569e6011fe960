"""The token that Ray asks for: in a file that is the user's alone from its first byte.

Owns `protect`, which has a cluster of this machine ask for a token, and keep no port that does not. Ray itself writes
the file as the umask says, readable for everyone as a rule; it is made here before Ray looks for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ray_robust.errors import Problem, UserError

FILE = "~/.ray/auth_token"  # where Ray and `ray get-auth-token` look
UNASKED = {  # what answers everyone: no setting of Ray's puts a password on it
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",  # no port: Ray notes that it cannot be bound, and goes on
    "DASHBOARD_METRIC_PORT": "-1",
}
HINT = "set RAY_AUTH_TOKEN_PATH to a file that is yours alone"


def protect() -> str:
    """Have Ray's processes that are started from now on ask for a token, made where there is none. Return a line for
    the user, or "". Raises UserError where the token would not be the user's alone."""
    os.environ["RAY_AUTH_MODE"] = "token"
    for name, value in UNASKED.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_AUTH_TOKEN"):
        return ""
    return keep_token(Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or FILE).expanduser())


def keep_token(file: Path) -> str:
    """Make the token where there is none; where there is one, close it to other accounts, and return what to do where
    they could read it, else "". Raises UserError where they still can."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = os.stat(file.parent).st_mode
        if mode & 0o022 and not mode & stat.S_ISVTX and not _closed(file.parent):
            raise _refused(file.parent, "others can write there, and so replace the token")
        return "" if _made(file) else _checked(file)
    except OSError as error:
        raise UserError(Problem(str(file), f"no token can be kept there: {error.strerror}; {HINT}")) from None


def _closed(folder: Path) -> bool:
    """Whether Ray's own folder could be closed to the writing of others; no other folder is touched."""
    if folder != Path(FILE).expanduser().parent:
        return False
    with contextlib.suppress(OSError):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~0o022)
    return not folder.stat().st_mode & 0o022


def _made(file: Path) -> bool:
    """Whether there was none. It is written under another name: who looks for it never reads half of it."""
    if os.path.lexists(file):
        return False
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))  # 256 bits, as Ray's own
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, file)  # unlike a rename, not over one that another command has made meanwhile
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            os.rename(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _checked(file: Path) -> str:
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise _refused(file, "is no file, and so no token", remove=True)
        if not os.read(handle, 1):
            raise _refused(file, "is empty, and so no token", remove=True)
        if state.st_uid == 0 != os.geteuid() and not state.st_mode & 0o007:
            return ""  # a mounted secret: root reads everything anyway
        if state.st_uid != os.geteuid():
            raise _refused(file, "belongs to another account, which knows the token")
        if not state.st_mode & 0o077:
            return ""
        os.fchmod(handle, 0o600)
        if os.fstat(handle).st_mode & 0o077:
            raise _refused(file, "can be read by other accounts, and its file system keeps no rights")
    finally:
        os.close(handle)
    return f"{file} could be read by other accounts, and is yours alone now; remove it for a token that nobody has read"


def _refused(file: Path, what: str, remove: bool = False) -> UserError:
    return UserError(Problem(str(file), f"{what}; {'remove it, or ' if remove else ''}{HINT}"))
