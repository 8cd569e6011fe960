"""Which columns of a plain table were asked for, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_robust.text.names import normalise


@dataclass(frozen=True)
class Roles:
    """Which columns were asked for: the ID sets, the OOD score, the group, and the cluster or None."""

    ids: tuple[str, ...]
    ood: str
    group: str
    cluster: str | None

    @staticmethod
    def of(id: str | Sequence[str], ood: str, group: str, cluster: str | None) -> Roles:
        """Return the roles of these columns, their names cleaned as those of the header are."""
        ids = tuple(normalise(name) for name in ([id] if isinstance(id, str) else id))
        return Roles(ids, normalise(ood), normalise(group), normalise(cluster) if cluster else None)

    @property
    def scores(self) -> dict[str, str]:
        """Key of the points ("id" or "id_1", ..., "ood") -> column of the table."""
        keys = ["id"] if len(self.ids) == 1 else [f"id_{i + 1}" for i in range(len(self.ids))]
        return dict(zip([*keys, "ood"], [*self.ids, self.ood], strict=True))

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Flag and column, of all."""
        asked = [*(("--id", name) for name in self.ids), ("--ood", self.ood), ("--group", self.group)]
        return [*asked, ("--cluster", self.cluster)] if self.cluster else asked

    @property
    def used(self) -> list[str]:
        """The columns that were asked for, each once."""
        return list(dict.fromkeys(name for _, name in self.asked))
