"""MLflow's own server on loopback for tests, with a SQLite file behind it; it can be away in the middle.

Server and guard are processes of their own: the guard ends the server, with all that it started, once the test's pipe
closes, however the test ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from deadlines import wait_for


class Server:
    """The server as a test sees it."""

    def __init__(self, folder: Path) -> None:
        self.database, self._log = folder / "mlflow.db", folder / "server.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._guard: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        with open(self._log, "a") as log:
            words = [sys.executable, __file__, str(self.port), str(self.database)]
            self._guard = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        wait_for(self._answers, 0.5)

    def stop(self) -> None:
        """Be away."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _answers(self) -> bool:
        assert self._guard is not None
        assert self._guard.poll() is None, self._log.read_text()[-2000:]
        with contextlib.suppress(URLError, OSError), urlopen(f"{self.url}/health") as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve on a free port of loopback until the block ends."""
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _guard(port: str, database: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", f"{database}-artifacts"]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    sys.stdin.read()  # ends with the test
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    _guard(*sys.argv[1:])
