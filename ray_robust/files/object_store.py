"""Object stores through pyarrow's file systems: one request for a small object, and reads of one version.

pyarrow reads an object in two requests, for its size and for its bytes. One that another process replaces in between by
a longer one would come cut to the old size, as if it were whole; `read_object` compares what came with the store's own
checksum, or asks again which version is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Any

from ray_robust.errors import UserError

ONE_REQUEST = "allow_delayed_open=true"  # of S3: else a small object takes three, and each of them may fail
BUCKETS = ("s3", "gcs")  # file systems of pyarrow's whose first folder is a bucket
MD5 = re.compile(rb'"([0-9a-f]{32})"')  # the ETag of an object that came in one request, unless it is encrypted by KMS


def open_filesystem(address: str, shown: str) -> tuple[Any, str]:
    """Return pyarrow's file system for an address, and the path of the address in it. Raises UserError for one that
    pyarrow cannot read, with the address as `shown`, and the store's own OSError, which may be asked for its region."""
    from pyarrow.fs import FileSystem

    if address.startswith("s3://") and "allow_delayed_open=" not in address:
        address += f"{'&' if '?' in address else '?'}{ONE_REQUEST}"
    try:
        return FileSystem.from_uri(address)
    except (ValueError, NotImplementedError) as error:  # pyarrow's own for an address that it cannot read
        raise UserError(f"{shown}: cannot be opened: {error}") from None


def without_bucket(filesystem: Any, path: str) -> str:
    """Return that a path's bucket is not there, to be put behind what is wrong with the path; "" where it is, or where
    the store does not tell."""
    from pyarrow.fs import FileType

    bucket = path.partition("/")[0]
    with contextlib.suppress(OSError):
        if filesystem.type_name in BUCKETS and filesystem.get_file_info(bucket).type == FileType.NotFound:
            return f"; there is no bucket {bucket}"
    return ""


def read_object(filesystem: Any, path: str) -> bytes:
    """Return the bytes of an object, all of one version. Raises OSError where they are not, as after any failure that
    may pass."""
    with filesystem.open_input_stream(path, compression=None) as stream:  # bytes as they are, whatever the name
        tag, data = etag(stream), stream.read()
    md5 = MD5.fullmatch(tag)
    if md5 is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() == md5[1].decode():
        return data
    with filesystem.open_input_stream(path, compression=None) as now:
        same = etag(now) == tag if tag else filesystem.get_file_info(path).size == len(data)
    if not same:
        raise OSError(f"{path} was replaced while it was read")
    return data


def etag(stream: Any) -> bytes:
    """Return the ETag of the version that was opened; b"" where the store has none."""
    facts = {_text(key).lower(): value for key, value in (stream.metadata() or {}).items()}
    return bytes(facts.get("etag", b""))


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("utf-8", "replace")  # bytes in earlier releases
