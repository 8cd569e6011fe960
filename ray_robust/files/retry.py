"""Trying again what storage refuses for a moment: which errors may pass, how often, how long, and what is left to say.

The one home of retries with backoff for files, whether on a disk, a share or in an object store.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from ray_robust.errors import Outage, Refused, UserError
from ray_robust.files.disk_room import FULL

T = TypeVar("T")
PATIENCE = 60.0  # seconds over which an operation is tried again
VARIABLE = "RAY_ROBUST_PATIENCE"  # of the environment, which replaces it
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0  # seconds between two tries: doubled each time, up to the longest
PASSING = (  # what a network, a mounted share or a disk under load says of something that may be over in a moment
    *FULL, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENETRESET, errno.ECONNABORTED, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EREMOTEIO, errno.EPIPE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
AWS = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during (\w+)[^:]*:? ?(.*)", re.DOTALL)
STORE = re.compile(r"AWS Error|google::cloud|curl|Azure|HDFS|hdfs")
REQUEST_ID = re.compile(r"\s*\(Request ID: [^)]*\)")
NAMES = re.compile(r"'[^']*'|\w+://\S*")  # in a message: whatever a key or a bucket may be called
NO_BUCKET = ("NO_SUCH_BUCKET", "BUCKET DOES NOT EXIST", "BUCKET NOT FOUND")
FINAL = ("ACCESS_DENIED", "ACCESS DENIED", "FORBIDDEN", "CREDENTIALS", "SIGNATURE", "INVALID_ACCESS", "INVALID_CLIENT",
         "UNRECOGNIZED_CLIENT", "TOKEN", "UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION")  # fmt: skip
PASSING_STATUS = (408, 425, 429)  # of HTTP below 500: a request may come again


def patiently(attempt: Callable[[], T], where: Callable[[], str], outage: Callable[[OSError, float], str]) -> T:
    """Return what `attempt` returns. An error that may pass is tried again, with waits that double, for `patience()`
    seconds in all; then Outage is raised, with the line that `outage` makes of the error and the seconds. An object
    store's refusal is raised at once, as Refused of `where()`; any other error as it is."""
    begun, wait, longest = time.monotonic(), FIRST_WAIT, patience()  # read first: an error is no time to be wrong
    while True:
        try:
            return attempt()
        except OSError as error:
            if not may_pass(error):
                if (why := refusal(error)) is not None:
                    raise Refused(errno.EACCES, why, where()) from error
                raise
            passed = time.monotonic() - begun
            if passed + wait > longest:
                raise Outage(outage(error, passed)) from error
        time.sleep(wait * random.uniform(0.5, 1.0))  # not all nodes of a cluster at the same moment
        wait = min(2 * wait, LONGEST_WAIT)


def patience() -> float:
    """Return seconds over which an operation is tried again. Raises UserError where the environment says otherwise."""
    written = os.environ.get(VARIABLE, "").strip()
    try:
        seconds = float(written) if written else PATIENCE
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # nan neither
        raise UserError(f"{VARIABLE}={written}: must be seconds, as a number of at least 0, e.g. {VARIABLE}=600")
    return seconds


def check_patience() -> None:
    """Raise UserError where RAY_ROBUST_PATIENCE is no number of seconds, before a command has done anything."""
    patience()


def may_pass(error: OSError) -> bool:
    """Return whether what the storage says may be over in a moment. Object stores give no number, only words."""
    if isinstance(error, Outage):  # it was waited for already
        return False
    if error.errno is not None:
        return error.errno in PASSING
    if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | PermissionError):
        return False
    return refusal(error) is None


def is_of_storage(error: OSError) -> bool:
    """Return whether a file cannot be read for what its storage says, which may pass or is a refusal. Damage within a
    file, as in an archive's member, has no number either, but no words of an object store."""
    if error.errno is not None or isinstance(error, FileNotFoundError):
        return may_pass(error)
    return STORE.search(str(error)) is not None


def refusal(error: OSError) -> str | None:
    """Return why an object store refuses a request whoever asks again, in a few words; None where it may not next time,
    or where it is no object store's error."""
    if error.errno is not None or isinstance(error, Outage | Refused):
        return None
    message = " ".join(str(error).split())
    aws = AWS.search(message)
    words = aws[1] if aws else NAMES.sub("", message).upper()
    if any(word in words for word in NO_BUCKET) or (not aws and re.search(r"Bucket '[^']*' not found", message)):
        return "there is no such bucket; create it, or name another one"
    if any(word in words for word in FINAL):
        return f"access is refused ({_reason(aws, message)}); check the credentials and what they may do there"
    if aws and aws[2] and 300 <= (status := int(aws[2])) < 500 and status not in PASSING_STATUS:
        return f"the request is refused ({_reason(aws, message)}); check the address, its region and the credentials"
    return None


def unread(path: str, error: OSError, seconds: float) -> str:
    """Return the line of an Outage in which a file could not be read."""
    what = f"cannot be read for {seconds:.0f} s: {why_away(error)}"
    return f"{path}: {what}; what was read is kept: run the same command again"


def why_away(error: OSError) -> str:
    """Return what is wrong with storage that is away, in a few words."""
    message = " ".join(str(error).split())
    aws = AWS.search(message)
    return error.strerror or (_reason(aws, message) if aws else message[:200])


def _reason(aws: re.Match[str] | None, message: str) -> str:
    """The store's own words: code, status, what was asked and its message, without the name of the request."""
    if aws is None:
        return message[:200]
    status = f", HTTP {aws[2]}" if aws[2] else ""
    words = REQUEST_ID.sub("", aws[4]).strip(" .")
    return f"{aws[1]}{status} of {aws[3]}{words and f': {words}'}"[:200]
