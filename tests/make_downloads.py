"""Archives and entries of the table of downloads, for tests."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

from ray_robust import ingest as command
from ray_robust.data.downloads import obtain
from ray_robust.data.downloads.entries import DataSet, RemoteFile
from ray_robust.errors import UserError


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def published(name: str, data: bytes, *urls: str, **more) -> RemoteFile:
    return RemoteFile(name, urls, len(data), hashlib.sha256(data).hexdigest(), **more)


def list_pets(monkeypatch: pytest.MonkeyPatch, *files: RemoteFile, **more) -> None:
    """Put a data set `pets` of these files into the table."""
    monkeypatch.setitem(obtain.DOWNLOADS, "pets", DataSet("Pets", "CC BY 4.0", "Doe 2020", "pets", files, **more))


def mistake(args: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        command.main(args)
    assert "\n" not in str(caught.value)
    return str(caught.value)
