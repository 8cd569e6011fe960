"""Preemption: this process must leave its machine soon, since its node is drained (a spot instance is taken back, an
autoscaler shrinks, `ray drain-node`) or it was sent SIGTERM. The training sees it at its next step, saves its state and
ends; the trial then continues elsewhere. Runs in a Ray worker, one for all trials of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from ray_robust.launch.cluster import private_apis

POLL = 1.0  # seconds between two looks at the cluster's list of draining nodes
GRACE = 20.0  # seconds that a process sent SIGTERM gives its training to save


class Preemption:
    """Calling it returns why to leave, "" as long as there is no reason.

    node      the id of this process's node
    draining  returns the draining nodes by id
    """

    def __init__(self, node: str, draining: Callable[[], Mapping[str, int]]) -> None:
        self.node, self.draining = node, draining
        self._why = ""
        self._idle, self._ended = threading.Event(), threading.Event()
        self._idle.set()

    def __call__(self) -> str:
        return self._why

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Mark that a trial runs here, for the time of a with-block."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    def check(self) -> None:
        """Ask the cluster once."""
        with contextlib.suppress(Exception):  # a head that is away is no reason to leave
            if self.node in self.draining():
                self._why = "its node is drained"

    def end(self) -> None:
        """Have a running trial save its state, and wait for it: the interpreter ends."""
        if not self._idle.is_set():
            self._why = "the process was told to end"
            self._idle.wait(GRACE)

    def watch(self) -> None:
        """Check in the background from now on."""
        atexit.register(self.end)
        threading.Thread(target=self._watch, name="preemption", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(POLL) and not self._why:
            self.check()


@lru_cache(maxsize=1)
def preemption() -> Preemption:
    """Return the `Preemption` of this Ray worker."""
    import ray

    watched = Preemption(ray.get_runtime_context().get_node_id(), private_apis.draining_nodes)
    watched.watch()
    return watched
