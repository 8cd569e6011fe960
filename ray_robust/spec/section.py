"""What every section of a spec is: a frozen model that refuses unknown keys and reports all its contradictions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from ray_robust.spec.values import number_for

LARGEST_SEED = 2**32
MOST_TRIALS = 1_000_000  # of a sweep: more is a typing error, and would fill the memory before anyone saw it

Contradiction = tuple[Collection[str], str]  # the keys that contradict each other, and what would be right


class Contradictions(ValueError):
    """Everything in a section that contradicts something else in it."""

    def __init__(self, clashes: Sequence[Contradiction]) -> None:
        self.all = tuple(clashes)
        super().__init__("; ".join(what for _, what in clashes))


class Section(BaseModel):
    """A part of the YAML: frozen, no unknown keys, numbers read by the field's type (`3e-4`, `64k`, `1_000`).

    `only_for` maps a key to the methods that use it. Any other method ignores the key, so that methods can vary over
    one section and no trial is named by what it does not use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {}

    @classmethod
    def idle(cls, method: str) -> set[str]:
        """Return the keys that this method ignores."""
        return {key for key, methods in cls.only_for.items() if method not in methods}

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _leave_out_idle_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not cls.only_for:
            return raw
        idle = cls.idle(str(raw.get("method", cls.model_fields["method"].default)))
        return {key: value for key, value in raw.items() if key not in idle}

    @model_validator(mode="before")
    @classmethod
    def _read_numbers(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: number_for(cls.model_fields.get(key), value) for key, value in raw.items()}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Section:
        if clashes := list(self.contradictions()):
            raise Contradictions(clashes)
        return self
