"""HTTP requests of a download: where they may go, and whether an answer is final or may be over in a moment.

By requests, without its redirects (each is judged here), without decoding, and without passwords of ~/.netrc.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import requests
import urllib3

from ray_robust.data.downloads.entries import HUB, RemoteFile
from ray_robust.text.names import printable

MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may not get
LARGEST_LIST = 8 << 20  # bytes of a repository's list of files
LONGEST_WAIT = 60.0  # seconds that a server may ask to wait
CHUNK = 1 << 20
HUB_ADDRESS = "https://huggingface.co"


class Refused(Exception):
    """This mirror cannot be used, now or later; the text is the reason."""


class Passing(Exception):
    """A try failed in a way that may be over in a moment; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Wire:
    """How requests are made.

    connect, read  seconds without an answer after which a connection counts as cut
    tries          of a mirror without progress
    slowest        bytes/s, over `window` seconds, below which a connection counts as cut
    """

    connect: float = 20.0
    read: float = 60.0
    tries: int = 5
    slowest: int = 1024
    window: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def get(self, url: str, file: RemoteFile, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """Yield the answer to a GET request after redirects, its body unread. Raises Refused and Passing."""
        with _Session() as session:
            session.auth = _no_password
            check_address(url, file)
            for _ in range(MOST_REDIRECTS + 1):
                with _reporting():
                    answer = session.get(
                        url,
                        headers={"Accept-Encoding": "identity", "User-Agent": "ray_robust", **headers},
                        stream=True,
                        allow_redirects=False,
                        timeout=(self.connect, self.read),
                    )
                with answer:
                    if answer.status_code not in REDIRECTS:
                        _check_status(answer)
                        yield answer
                        return
                    before, url = url, _target(url, answer)
                    if url == before:
                        raise Refused("redirects to itself")
                    if urlsplit(before).scheme == "https" and urlsplit(url).scheme != "https":
                        raise Refused(f"redirects to {shown(url)}, which is not https: refused")
                    check_address(url, file)
            raise Refused(f"redirects more than {MOST_REDIRECTS} times")

    def body(self, answer: requests.Response) -> Iterator[bytes]:
        """Yield the bytes of an answer as they travel, undecoded. Raises Passing where the connection is cut, stands
        still or crawls."""
        began, amount = self.clock(), 0
        while True:
            with _reporting():
                chunk = answer.raw.read1(CHUNK, decode_content=False)
            if not chunk:
                return
            yield chunk
            amount += len(chunk)
            if (seconds := self.clock() - began) >= self.window:
                if amount < self.slowest * seconds:
                    raise Passing(f"sent {amount:,} bytes in {seconds:.0f} s")
                began, amount = self.clock(), 0

    def address(self, mirror: str, file: RemoteFile) -> str:
        """Return the address of a file at a mirror; of a repository of the hub, that of the file with its sha256."""
        if not mirror.startswith(HUB):
            return mirror
        hub = (os.environ.get("HF_ENDPOINT") or HUB_ADDRESS).rstrip("/")
        repository = mirror.removeprefix(HUB)
        with self.get(f"{hub}/api/datasets/{repository}/tree/main?recursive=true", file, {}) as answer:
            text = b""
            for chunk in self.body(answer):
                text += chunk
                if len(text) > LARGEST_LIST:
                    raise Refused(f"lists its files in more than {LARGEST_LIST:,} bytes")
        try:
            path = next((e["path"] for e in json.loads(text) if _sha256_of(e) == file.sha256), None)
        except (ValueError, TypeError, KeyError):
            raise Refused("does not list its files as the hub does") from None
        if path is None:
            raise Refused(f"holds no file with the sha256 {file.sha256}")
        return f"{hub}/datasets/{repository}/resolve/main/{quote(str(path))}"


class _Session(requests.Session):
    """A session that follows no redirect, and so does not read the body of one either, as requests does otherwise."""

    def get_redirect_target(self, resp: Any) -> None:
        return None


def _target(url: str, answer: requests.Response) -> str:
    try:
        return urljoin(url, answer.headers.get("Location", ""))
    except ValueError:
        raise Refused("redirects to an address that cannot be read") from None


def check_address(url: str, file: RemoteFile) -> None:
    """Raise Refused for an address that may not be asked for `file`: https always may, http only where a published
    sha256 shows any change on the way."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("https", "http"):
        raise Refused(f"{shown(url)} is no https address")
    if parts.scheme == "http" and not file.strong:
        raise Refused(f"{shown(url)} is http, and no sha256 is published to see a change on the way: refused")


def shown(url: str) -> str:
    """Return an address for people: no user, password, query or fragment, any of which may be a key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return printable(urlunsplit((parts.scheme, f"{host}{port}", parts.path, "", "")))[:200]


def _no_password(request: Any) -> Any:
    """Instead of what requests would read in ~/.netrc: downloads are public."""
    return request


def _sha256_of(entry: Any) -> str:
    return str((entry.get("lfs") or {}).get("oid", ""))


def _check_status(answer: requests.Response) -> None:
    code = answer.status_code
    if code in (200, 206, 416):
        return
    reason = printable(str(answer.reason or ""))[:40]
    text = f"answers {code} {reason}".strip()
    if code not in PASSING:
        raise Refused(text)
    asked = answer.headers.get("Retry-After", "")
    raise Passing(text, min(float(asked), LONGEST_WAIT) if asked.isdecimal() and len(asked) < 9 else 0.0)


@contextmanager
def _reporting() -> Iterator[None]:
    """Turn the exceptions of requests and urllib3 into Refused and Passing, with reasons of a few words."""
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise Refused(f"its certificate is not trusted ({_innermost(error)})") from None
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        raise Passing("does not answer, or stopped sending") from None
    except requests.exceptions.ProxyError as error:
        raise Passing(f"the proxy cannot be used ({_innermost(error)})") from None
    except requests.exceptions.ConnectionError as error:
        raise Passing(f"cannot be reached ({_innermost(error)})") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
            raise Refused("is no address that can be asked") from None
        raise Passing(f"the connection was cut ({_innermost(error)})") from None


def _innermost(error: BaseException) -> str:
    """Return the system's own reason of a nested error, else the name of its kind: texts of the outer ones repeat the
    address with its query."""
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo and len(seen) < 20:
        one = todo.pop(0)
        seen.append(one)
        todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
        todo = [each for each in todo if isinstance(each, BaseException) and each not in seen]
    if system := next((e for e in reversed(seen) if isinstance(e, OSError) and e.strerror), None):
        return printable(str(system.strerror))[:80]
    return type(seen[-1]).__name__
