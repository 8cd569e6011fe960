"""A local folder that takes the ways of an object store."""

from __future__ import annotations

from pathlib import Path

from ray_robust.files.storage import Storage


class Remote(Storage):
    """A local folder that is read and written as an object store is, through pyarrow."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.remote, self.address = True, f"file://{address.removeprefix('file://')}"

    def __truediv__(self, name: str) -> Storage:
        return Remote(f"{self.address}/{name}")

    def _write(self, name: str, data: bytes, durable: bool) -> None:
        Path(self.address.removeprefix("file://"), name).parent.mkdir(parents=True, exist_ok=True)  # a store needs none
        super()._write(name, data, durable)
