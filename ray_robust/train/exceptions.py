"""How a training may end other than by finishing. Light, so that the driver tells these apart without torch."""

from __future__ import annotations

from typing import Any

BATCH_OF_ONE = "more than 1 value per channel"  # torch's message of batch normalisation


class TrainingFailed(Exception):
    """A training that cannot continue, with its reason in one line: its trial fails, of a fine-tuning once the trial's
    others have ended, and the other trials run on."""


class Preempted(Exception):
    """A training that stopped because its process must leave this machine; its state is on disk."""


class Stopped(Exception):
    """A training that a search ended, since it is behind others; `facts` are plain values that say how it compared."""

    def __init__(self, reason: str, facts: dict[str, Any]) -> None:
        super().__init__(reason)
        self.facts = facts

    def __reduce__(self) -> tuple:  # an exception with its own __init__ must say how it travels between processes
        return type(self), (str(self), self.facts)
