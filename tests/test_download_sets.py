"""Data sets to download: the table, licences, room, locks, archives, kill -9, and that specs find what was unpacked."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from make_downloads import list_pets, mistake, published, zipped
from make_pools import open_pool
from make_server import Page, certificate, serving

from ray_robust import ingest as command
from ray_robust import registry
from ray_robust.data.downloads import obtain, progress
from ray_robust.data.downloads.catalog import DOWNLOADS
from ray_robust.data.downloads.connection import Wire, check_address
from ray_robust.data.downloads.entries import HUB, DataSet, RemoteFile
from ray_robust.data.downloads.transfer import Transfer
from ray_robust.data.tasks import official
from ray_robust.errors import UserError
from ray_robust.text.console import Screen
from tests import make_images as make
from tests import make_tasks

ROOT = Path(__file__).parents[1]
FILES = [(name, file) for name, entry in DOWNLOADS.items() for file in entry.files]


@pytest.fixture
def site():
    with serving() as one:
        yield one


# --- the table


@pytest.mark.parametrize(("name", "file"), FILES, ids=[f"{name} {file.name}" for name, file in FILES])
def test_every_file_of_the_table_is_well_formed(name, file):
    assert re.fullmatch(r"[\w.-]+\.(zip|tar\.gz|tgz|txt)", file.name)
    assert re.fullmatch(r"(?:[0-9a-f]{64})?", file.sha256)
    assert re.fullmatch(r"(?:[0-9a-f]{32})?", file.md5)
    assert file.size is None or file.about is None
    for url in file.urls:
        if url.startswith(HUB):
            assert file.strong
        else:
            check_address(url, file)  # http only with a sha256
            assert "@" not in url
            assert "?" not in url


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_data_set_says_its_terms_and_what_reads_it(name, tmp_path):
    entry = DOWNLOADS[name]
    assert entry.licence
    assert entry.cite
    assert entry.by_hand or all(file.urls for file in entry.files)
    assert len({file.name for file in entry.files}) == len(entry.files)
    spec = yaml.safe_load("\n".join(entry.use).replace("ROOT", "/data/x").replace("ABOVE", "/data")) or {}
    for source, options in spec.get("pretrain", {}).get("sources", {}).items():
        registry.find("source", source).Options.model_validate(options)
    if task := spec.get("task"):
        options = {key: value for key, value in task.items() if key != "name"}
        registry.find("task", task["name"]).Options.model_validate(options)
    if entry.task:
        assert spec["task"]["name"] == entry.task == name


def test_files_do_not_collide():
    assert len({file.name for _, file in FILES}) == len(FILES)


def test_the_shipped_specs_look_where_downloads_lie():
    """`$DATA/...` of every spec is the folder of a data set, or above it."""
    text = "".join(file.read_text() for file in (ROOT / "sweeps").rglob("*.yaml"))
    wanted = set(re.findall(r"\$DATA/(wilds|imagenet|inaturalist)\b", text))
    assert wanted == {"wilds", "imagenet", "inaturalist"}
    assert wanted <= {entry.folder.partition("/")[0] for entry in DOWNLOADS.values()}


def test_the_readme_lists_every_name():
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in DOWNLOADS if f"`{name}`" not in text] == []


# --- from the command to the pool


def test_a_wilds_set_is_read_by_its_task(tmp_path, site, monkeypatch, capsys):
    made = make_tasks.archive(make.iwildcam(tmp_path / "made") / "iwildcam_v2.0", tmp_path / "archive.tar.gz")
    data = made.read_bytes()
    sizes = {"train": 6, "id_val": 6, "id_test": 6, "val": 6, "test": 6}
    file = published("iwildcam.tar.gz", data, site.put("/a", Page(data)))
    monkeypatch.setitem(
        official.DATASETS,
        "iwildcam",
        replace(official.DATASETS["iwildcam"], sizes=sizes, archive=official.PublishedArchive(len(data), file.sha256)),
    )
    monkeypatch.setitem(obtain.DOWNLOADS, "wilds:iwildcam", replace(DOWNLOADS["wilds:iwildcam"], files=(file,)))
    for root in (tmp_path / "data", tmp_path / "data" / "wilds"):  # the same folder, named either way
        assert command.main(["wilds:iwildcam", "--download", "--root", str(root), "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"archive      {len(data):,} bytes, sha256 as published" in lines
    assert "splits       the official sizes, and every image is there" in lines
    assert f"complete     {tmp_path}/data/wilds/iwildcam_v2.0: nothing is downloaded" in lines
    task = yaml.safe_load(lines[-1])["task"]
    assert task == {"name": "wilds:iwildcam", "root": f"{tmp_path}/data/wilds"}
    assert len(open_pool("task", task.pop("name"), task).catalog) == 30
    (tmp_path / "data/downloads/wilds-iwildcam.json").unlink()  # as where it was unpacked from a copy
    assert command.main(["wilds:iwildcam", "--download", "--root", str(tmp_path / "data")]) == 0
    assert len(site.requests) == 1


def test_domains_below_a_folder_that_is_left_out(tmp_path, site, monkeypatch, capsys):
    """As GitHub packs PACS: by the commit; a blank in the path of --root makes the YAML need quotes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for domain in ("photo", "sketch", "cartoon", "art_painting"):
            make.tree(tmp_path / "made" / domain, {"cat": 20, "dog": 20})
        tar.add(tmp_path / "made", "repo-abc/PACS")
    data = file.getvalue()
    archive = published("pacs.tar.gz", data, site.put("/a", Page(data)), top="repo-abc")
    entry = replace(DOWNLOADS["pacs"], files=(archive,), holds={"PACS/photo": 40})
    monkeypatch.setitem(obtain.DOWNLOADS, "pacs", entry)
    root = tmp_path / "my data"
    assert command.main(["pacs", "--download", "--root", str(root), "--yes"]) == 0
    task = yaml.safe_load(capsys.readouterr().out.splitlines()[-1])["task"]
    assert task["root"] == f"{root}/pacs"
    assert len(open_pool("task", task.pop("name"), task).catalog) > 0
    monkeypatch.setitem(obtain.DOWNLOADS, "pacs", replace(entry, holds={"PACS/photo": 1_670}, folder="other"))
    assert mistake(["pacs", "--download", "--root", str(root), "--yes"]) == (
        f"{root}/other/PACS/photo: holds 40 files, not 1,670: not the data set that is listed here"
    )


def test_several_files_of_which_some_are_no_archives(tmp_path, site, monkeypatch, capsys):
    images, text = zipped({"real/cat/1.jpg": b"1"}), b"real/cat/1.jpg 0\n"
    listing = published("real_train.txt", text, site.put("/t", Page(text)), unpack=False)
    list_pets(monkeypatch, listing, published("real.zip", images, site.put("/z", Page(images))))
    command.main(["pets", "--download", "--root", str(tmp_path), "--yes"])
    assert (tmp_path / "pets/real_train.txt").read_bytes() == text
    assert (tmp_path / "pets/real/cat/1.jpg").exists()
    assert "use          no source reads these files in place; they lie in" in capsys.readouterr().out


def test_data_sets_of_one_folder_are_complete_each_by_its_own_files(tmp_path, site, monkeypatch, capsys):
    small = {"mini.json": b"{}", **{f"mini/a/{i}.jpg": b"x" for i in range(3)}}
    for name, members in (("mini", small), ("all", {f"all/a/{i}.jpg": b"x" for i in range(9)})):
        data = zipped(members)
        file = published(f"{name}.zip", data, site.put(f"/{name}", Page(data)))
        monkeypatch.setitem(obtain.DOWNLOADS, name, DataSet("Pets", "CC BY 4.0", "Doe 2020", "pets", (file,)))
        command.main([name, "--download", "--root", str(tmp_path), "--yes"])
    for fetched, gone in enumerate(("mini/a/1.jpg", "mini.json"), 3):
        (tmp_path / "pets" / gone).unlink()
        command.main(["mini", "--download", "--root", str(tmp_path)])
        assert len(site.requests) == fetched
        assert (tmp_path / "pets" / gone).exists()
    command.main(["mini", "--download", "--root", str(tmp_path)])
    assert len(site.requests) == 4
    record = tmp_path / "downloads/mini.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "made"}))
    capsys.readouterr()
    command.main(["mini", "--download", "--root", str(tmp_path)])  # with the record of an earlier version
    assert f"complete     {tmp_path}/pets: nothing is downloaded" in capsys.readouterr().out


# --- archives, links, kill -9


def test_an_archive_that_leads_out_is_removed_where_nothing_is_published_of_it(tmp_path, monkeypatch, capsys):
    data = zipped({"../out.jpg": b"1"})
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with serving(pem) as safe:
        list_pets(monkeypatch, RemoteFile("pets.zip", (safe.put("/a", Page(data)),)))
        archive = tmp_path / "data/downloads/pets.zip"
        for _ in range(2):  # the second time it is requested again
            assert mistake(["pets", "--download", "--root", str(tmp_path / "data"), "--yes"]) == (
                f"{archive}: holds '../out.jpg', a path that leads out of the folder: do not use it"
            )
            assert f"removed      {archive}" in capsys.readouterr().out
        assert len(safe.requests) == 2
    assert not archive.exists()
    assert not (tmp_path / "data/out.jpg").exists()


@pytest.mark.parametrize("name", ["pets.zip.part", "pets.lock"])
def test_links_that_were_planted_are_not_followed(tmp_path, site, monkeypatch, name):
    data = zipped({"a/1.jpg": b"1"})
    list_pets(monkeypatch, published("pets.zip", data, site.put("/a", Page(data))))
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "data/downloads").mkdir(parents=True)
    (tmp_path / "data/downloads" / name).symlink_to(target)
    line = mistake(["pets", "--download", "--root", str(tmp_path / "data"), "--yes"])
    assert re.search(rf"{re.escape(name)}: cannot be (read|written): Too many levels of symbolic links", line)
    assert target.read_bytes() == b"precious"


KILLED = """
import sys
from pathlib import Path
from ray_robust import ingest
from ray_robust.data.downloads import obtain
from ray_robust.data.downloads.entries import DataSet, RemoteFile
from ray_robust.errors import command
file = RemoteFile("pets.zip", (sys.argv[1],), int(sys.argv[2]), sys.argv[3])
obtain.DOWNLOADS["pets"] = DataSet("Pets", "CC BY 4.0", "Doe", "pets", (file,))
sys.argv[1:] = ["pets", "--download", "--root", sys.argv[4], "--yes"]
command(ingest.main)
"""


@pytest.mark.slow
def test_a_download_that_is_killed_continues(tmp_path, site):
    """kill -9 while the server stands still in the middle; the same command then asks for the rest only."""
    data = zipped({f"pets/a/{k}.jpg": os.urandom(9_000) for k in range(9)})
    file = published("pets.zip", data)
    part, killed = tmp_path / "downloads/pets.zip.part", []

    def kill() -> None:
        while not part.exists() or part.stat().st_size < 40_960:
            if site.ended.is_set():
                return
            time.sleep(0.01)
        killed.append(child.pid)
        os.kill(child.pid, signal.SIGKILL)

    url = site.put("/a", Page(data, etag='"1"', cut=40_960, after=kill), Page(data, etag='"1"'))
    call = [sys.executable, "-c", KILLED, url, str(file.size), file.sha256, str(tmp_path)]
    child = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert killed == [child.pid]
    assert part.stat().st_size == 40_960
    again = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert site.asked("Range") == ["", "bytes=40960-"]
    assert f"unpacked     9 files to {tmp_path}/pets, 0 of them there before" in again.stdout
    assert sorted(p.name for p in (tmp_path / "downloads").iterdir()) == ["pets.json", "pets.lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "code", "line"),
    [
        (Page(status=404), 2, "pets.zip: cannot be downloaded: URL answers 404 Not Found\n"),
        (Page(b"12345"), 2, "pets.zip: cannot be downloaded: URL has 5 bytes, not the published 10: another file\n"),
    ],
)
def test_exit_codes(tmp_path, site, page, code, line):
    url = site.put("/a", page)
    call = [sys.executable, "-c", KILLED, url, "10", "0" * 64, str(tmp_path)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, line.replace("URL", url))


def test_progress_is_plain_lines_where_it_is_no_terminal(capsys):
    now = iter([0.0, 1.0, 3.0, 4.0, 70.0, 71.0, 80.0])
    with progress.bytes_progress(Screen(highlight=False, soft_wrap=True), "download", lambda: next(now)) as report:
        for done in (0, 10_000_000, 30_000_000, 30_000_001, 30_000_002, 5, 100_000_000):
            report(done, 100_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "download     30,000,000 of 100,000,000 bytes (30 %), 10.0 MB/s",
        "download     30,000,002 of 100,000,000 bytes (30 %), 0.4 MB/s",
        "download     100,000,000 of 100,000,000 bytes (100 %), 11.1 MB/s",
    ]


def test_a_file_of_unknown_length_leaves_room_on_the_disk(tmp_path, monkeypatch):
    from ray_robust.data.downloads import transfer

    monkeypatch.setattr(transfer, "free_bytes", lambda path: transfer.RESERVE - 1)
    monkeypatch.setattr(transfer, "LOOK", 8_192)
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with serving(pem) as safe:
        file = RemoteFile("endless.zip", (safe.put("/a", Page(b"x" * 1_000_000, chunked=True)),))
        with pytest.raises(UserError, match="less than 1,073,741,824 bytes are free, and how long this file is"):
            Transfer(file, tmp_path, Wire(), lambda done, of: None, print).fetch()
