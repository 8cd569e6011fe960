"""Files into a folder that the user chose: why it cannot be written, in a line that names it.

Hands on to the report and to predictions.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from ray_robust.errors import Outage, Problem, UserError
from ray_robust.files.storage import Storage

DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)  # of a folder that is read-only, or somebody else's


class Unwritable(UserError):
    """The folder cannot be written: what was to lie there can be, in another one."""


def put(folder: Storage, contents: Mapping[str, bytes | str]) -> None:
    """Write files, by name. Raises Unwritable."""
    if (path := folder.local()) is not None and path.is_file():
        raise Unwritable(Problem(folder.shown, "is a file, where the report's folder belongs; give a folder by --out"))
    for name, content in contents.items():
        try:
            folder.write(name, content)
        except OSError as error:
            if isinstance(error, Outage) or error.errno not in DENIED:
                raise
            what = f"cannot be written: {error.strerror}; give another folder by --out"
            raise Unwritable(Problem(folder.shown, what)) from None
