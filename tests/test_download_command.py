"""The command `ingest NAME --download`: what it asks for and refuses before anything is requested."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from dataclasses import replace

import pytest
from make_downloads import list_pets, mistake, published, zipped
from make_server import Page, serving

from ray_robust import ingest as command
from ray_robust.data.downloads import obtain
from ray_robust.data.downloads.catalog import DOWNLOADS
from ray_robust.data.downloads.entries import RemoteFile


@pytest.fixture
def site():
    with serving() as one:
        yield one


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["pet", "--download", "--root", "x"], "--download: no download of 'pet' is listed; did you mean pets?"),
        (["pets", "--download"], "--download: needs --root, the folder that holds the data sets ($DATA in the shipped "
                                 "specs)"),
        (["pets", "--download", "--root", "x", "--archive", "y"],
         "--download: obtains the archive itself; leave --archive out"),
        (["pets", "--download", "--root", "x", "--size", "64", "--verify"],
         "--download: decodes nothing; give --size, --verify to the command that decodes, without it"),
        (["pets", "--yes"], "--yes: accepts the licence of a --download, which is not given"),
    ],
)  # fmt: skip
def test_arguments(monkeypatch, args, line):
    list_pets(monkeypatch, RemoteFile("pets.zip"))
    assert mistake(args) == line


def test_the_licence_must_be_accepted(tmp_path, site, monkeypatch, capsys):
    data = zipped({"a/1.jpg": b"1"})
    list_pets(monkeypatch, published("pets.zip", data, site.put("/a", Page(data))))
    args = ["pets", "--download", "--root", str(tmp_path)]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert mistake(args) == "pets: its licence must be accepted; read the terms above, then add --yes"
    assert "licence      CC BY 4.0" in capsys.readouterr().out
    terminal = io.StringIO("no\nyes\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert mistake(args) == "pets: its licence was not accepted, so nothing was downloaded"
    assert list(tmp_path.iterdir()) == []
    assert site.requests == []
    assert command.main(args) == 0
    assert command.main(args) == 0  # asked once


def test_what_is_only_to_be_had_by_hand(tmp_path, monkeypatch, capsys):
    base = ["--download", "--root", str(tmp_path), "--yes"]
    assert mistake(["imagenet", *base]).startswith(
        "imagenet: cannot be downloaded by a program. Obtain it: image-net.org/download after registration"
    )
    assert mistake(["inaturalist:2017", *base]).startswith("inaturalist:2017: cannot be downloaded by a program.")
    assert mistake(["office-home", *base]) == (
        "office-home: cannot be downloaded by a program: its link (www.hemanthdv.org/officeHomeDataset.html) is a page "
        f"of Google Drive for people; save OfficeHomeDataset_10072016.zip as {tmp_path}/downloads/"
        "OfficeHomeDataset_10072016.zip, then run the same command again: it is checked and unpacked"
    )
    data = zipped({"OfficeHomeDataset_10072016/Art/Bike/1.jpg": b"1"})
    saved = tmp_path / "downloads" / "OfficeHomeDataset_10072016.zip"
    saved.parent.mkdir(exist_ok=True)
    saved.write_bytes(data)
    assert mistake(["office-home", *base]) == (
        f"{saved}: has the md5 {hashlib.md5(data).hexdigest()}, not the published b1c14819770c4448fd5b6d931031c91c; "
        "remove it, then run the same command again"
    )
    file = replace(DOWNLOADS["office-home"].files[0], md5=hashlib.md5(data).hexdigest())
    monkeypatch.setitem(obtain.DOWNLOADS, "office-home", replace(DOWNLOADS["office-home"], files=(file,)))
    assert command.main(["office-home", *base]) == 0
    assert (tmp_path / "office-home/Art/Bike/1.jpg").exists()
    assert not saved.exists()


def test_room_is_asked_for_before_anything_is_requested(tmp_path, site, monkeypatch):
    monkeypatch.setattr(obtain, "free_bytes", lambda path: 999)
    file = RemoteFile("pets.zip", (site.base + "/a",), 10_000, "0" * 64)
    list_pets(monkeypatch, file)
    args = ["pets", "--download", "--root", str(tmp_path), "--yes"]
    assert mistake(args) == (
        f"{tmp_path}: pets takes about 21,000 bytes while it is unpacked, and 999 are free; free some room, or name a "
        "folder on another disk by --root"
    )
    list_pets(monkeypatch, file, replace(file, name="b.zip"), unpacked=2_000)
    assert "takes about 12,000 bytes" in mistake(args)  # both unpacked and the second archive: one at a time is kept
    assert site.requests == []
    assert list(tmp_path.iterdir()) == []


def test_two_commands_do_not_mix(tmp_path, site, monkeypatch):
    list_pets(monkeypatch, RemoteFile("pets.zip", (site.base + "/a",), 10, "0" * 64))
    with obtain._lock(tmp_path / "downloads", "pets"):
        assert mistake(["pets", "--download", "--root", str(tmp_path), "--yes"]) == (
            f"{tmp_path}/downloads/pets.lock: process {os.getpid()} on {os.uname().nodename} is downloading pets to "
            "this folder; wait for it"
        )
    assert site.requests == []
