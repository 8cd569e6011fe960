"""A real S3 server on loopback for tests (moto's, which speaks S3 over HTTP), with failures.

The server is a process of its own, so that it answers while a test computes, and it ends when its test does, however
that ends: it reads commands from the test's pipe and exits where that closes. A layer before moto makes requests fail:
`every=20` one in twenty by chance, by turns in the ways of `WAYS`; `away` seconds without any answer. It counts what it
does.

    with serving() as server:
        server.make_bucket("bucket")
        subprocess.run(..., env={**os.environ, **server.environment})
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # of Amazon's documentation
WAYS = ("500", "503", "reset", "429", "cut", "lost")  # cut: half of the body; lost: the work is done, the answer is not
REASONS = {"500": "500 Internal Server Error", "503": "503 Slow Down", "429": "429 Too Many Requests"}
CODES = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests"}
NEVER = {
    "AWS_EC2_METADATA_DISABLED": "true",  # nobody is asked for credentials
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
}


class Server:
    """The server as a test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._lock = process, threading.Lock()
        self.port: int = json.loads(self._line())["port"]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a program finds it."""
        return {**NEVER, "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip

    def set(self, **command: Any) -> dict[str, Any]:
        """Set what fails from now on (`every`, `ways`, `match`, `away`, `refuse`: all keys are wrong), and return the
        counts so far."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._line()))

    def counts(self) -> dict[str, Any]:
        """Return how many requests came (`requests`), failed, by way (`failed 503`), and were retries of the client's
        own (`retried`), and the seconds away (`away`)."""
        return self.set()

    def client(self) -> Any:
        """Return boto3's client of it."""
        import boto3

        return boto3.client("s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
                            region_name="us-east-1")  # fmt: skip

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self.client().create_bucket(Bucket=name)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the S3 server has ended"
        return line


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of loopback until the block ends."""
    words = [sys.executable, __file__]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


# --- in the server's process


class Failures:
    """A WSGI layer that makes requests fail before the application, or after it."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application, self.counts, self._lock = application, Counter[str](), threading.Lock()
        self.every, self.ways, self.match, self.away_until = 0, WAYS, "", 0.0
        self._number, self._random = 0, random.Random(7)

    def set(self, command: dict[str, Any]) -> dict[str, Any]:
        """Take a command of the test's; return the counts."""
        with self._lock:
            self.every = command.get("every", self.every)
            self.ways = tuple(command.get("ways", self.ways))
            self.match = command.get("match", self.match)
            if "away" in command:
                self.away_until = time.monotonic() + command["away"]
                self.counts["away"] += command["away"]
            return dict(self.counts)

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        with self._lock:
            way = self._way(environ)
            self.counts["requests"] += 1
            self.counts["retried"] += not environ.get("HTTP_AMZ_SDK_REQUEST", "attempt=1").startswith("attempt=1")
            if way:
                self.counts["failed"] += 1
                self.counts[f"failed {way}"] += 1
        if way in ("away", "reset"):
            return _reset(environ)
        if way in REASONS:
            body = f"<Error><Code>{CODES[way]}</Code><Message>Please try again.</Message></Error>".encode()
            start_response(REASONS[way], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        if way == "lost":
            for _ in self.application(environ, lambda *_: None):
                pass
            return _reset(environ)
        if way == "cut":
            body = b"".join(self.application(environ, start_response))
            return _cut(environ, body)
        return self.application(environ, start_response)

    def _way(self, environ: dict[str, Any]) -> str:
        if time.monotonic() < self.away_until:
            return "away"
        if not self.every or self.match not in f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}":
            return ""
        if self._random.random() * self.every >= 1:
            return ""
        self._number += 1
        return str(self.ways[self._number % len(self.ways)])


def _reset(environ: dict[str, Any]) -> Iterable[bytes]:
    """Close the connection so that the client sees a reset, without an answer."""
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionResetError


def _cut(environ: dict[str, Any], body: bytes) -> Iterable[bytes]:
    yield body[: len(body) // 2]
    yield from _reset(environ)


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's
    from moto import settings
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *args: Any) -> None: ...

    failures = Failures(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failures, threaded=True, request_handler=Quiet)
    server.handle_error = server.log = lambda *_, **__: None  # of connections that were reset
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": server.server_port}), flush=True)
    for line in sys.stdin:  # ends with the test
        command = json.loads(line)
        if "refuse" in command:  # keys are checked after so many requests, and there are none
            settings.INITIAL_NO_AUTH_ACTION_COUNT = 0 if command["refuse"] else float("inf")
        print(json.dumps(failures.set(command)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _serve()
