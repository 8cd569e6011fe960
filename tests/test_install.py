"""From a download to the folder of a wilds task: checked, unpacked safely, resumed, and refused when not whole."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from make_pools import open_pool

from ray_robust import ingest as command
from ray_robust.data.readers import archive as archives
from ray_robust.data.readers.archive import PublishedArchive, unpack
from ray_robust.data.tasks import install as installs
from ray_robust.data.tasks import official
from ray_robust.errors import UserError
from tests import make_images as make
from tests import make_tasks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIZES = {"train": 6, "id_val": 6, "id_test": 6, "val": 6, "test": 6}


@pytest.fixture
def download(tmp_path, monkeypatch) -> Path:
    """An archive of a small iwildcam, whose figures stand where the official ones do."""
    folder = make.iwildcam(tmp_path / "made") / "iwildcam_v2.0"
    file = make_tasks.archive(folder, tmp_path / "archive.tar.gz")
    data = file.read_bytes()
    known = PublishedArchive(len(data), hashlib.sha256(data).hexdigest())
    told = replace(official.DATASETS["iwildcam"], sizes=SIZES, archive=known)
    monkeypatch.setitem(official.DATASETS, "iwildcam", told)
    return file


def install(root: Path, file: Path, name: str = "iwildcam") -> list[str]:
    task = open_pool("task", f"wilds:{name}", {"root": str(root)})
    return list(installs.install(task, file, lambda stage: nullcontext(lambda done, of: None)))


def mistake(*args) -> str:
    with pytest.raises(UserError) as caught:
        install(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_checks_unpacks_and_decodes(download, tmp_path, capsys):
    root = tmp_path / "data"
    args = ["wilds:iwildcam", "--archive", str(download), "--root", str(root), "--size", "8"]
    assert command.main([*args, "--out", str(tmp_path / "store")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        f"archive      {download.stat().st_size:,} bytes, sha256 as published",
        f"unpacked     32 files to {root}/iwildcam_v2.0, 0 of them there before",
        "splits       the official sizes, and every image is there",
    ]
    assert "images       30 in the store, 30 of them new; 0 broken" in told
    assert (root / "iwildcam_v2.0" / "RELEASE_v2.0.txt").exists()
    assert command.main([*args, "--out", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (f"archive      not needed: {root}/iwildcam_v2.0 is complete")


def test_half_a_copy_is_refused_before_it_is_read(download, tmp_path):
    whole = download.read_bytes()
    download.write_bytes(whole[:-1000])
    assert mistake(tmp_path / "data", download) == (
        f"{download}: is {len(whole) - 1000:,} bytes long, not {len(whole):,}; 1,000 bytes short: a half copy; "
        "go on with the download"
    )
    download.write_bytes(whole + b"more")
    assert mistake(tmp_path / "data", download).endswith(f"not {len(whole):,}; another archive")
    assert not (tmp_path / "data").exists()


def test_a_wrong_archive_is_refused(download, tmp_path):
    whole = bytearray(download.read_bytes())
    whole[500] ^= 1
    download.write_bytes(whole)
    known = official.DATASETS["iwildcam"].archive
    said = mistake(tmp_path / "data", download)
    assert said.startswith(f"{download}: has the sha256 {hashlib.sha256(whole).hexdigest()}, not {known.sha256}: it is")
    assert mistake(tmp_path / "data", tmp_path / "none").endswith("none: cannot be read: No such file or directory")


def test_it_goes_on_where_it_stopped_and_reads_the_hash_once(download, tmp_path, monkeypatch):
    root, written = tmp_path / "data", []
    replace_file = os.replace

    def stopping(draft, target, **where):
        written.append(target)
        if len(written) == 13:  # the first is what is remembered of the archive
            raise KeyboardInterrupt
        return replace_file(draft, target, **where)

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        install(root, download)
    assert not (root / "iwildcam_v2.0" / "RELEASE_v2.0.txt").exists()
    monkeypatch.setattr(os, "replace", replace_file)
    monkeypatch.setattr(archives, "_sha256", lambda *_: pytest.fail("read again"))
    assert install(root, download)[1] == f"unpacked     32 files to {root}/iwildcam_v2.0, 11 of them there before"
    assert not list((root / "iwildcam_v2.0").rglob(".*"))


def test_a_folder_that_lost_images_is_mended(download, tmp_path):
    root = tmp_path / "data"
    install(root, download)
    lost = root / "iwildcam_v2.0" / "train" / "val-3.jpg"
    os.remove(lost)
    assert install(root, download)[1].endswith("31 of them there before")
    assert lost.exists()


def test_an_archive_that_lacks_images_makes_no_finished_folder(download, tmp_path, monkeypatch):
    monkeypatch.setitem(official.DATASETS, "iwildcam", replace(official.DATASETS["iwildcam"], archive=None))
    made = tmp_path / "made" / "iwildcam_v2.0"
    os.remove(made / "train" / "test-1.jpg")
    file = make_tasks.archive(made, tmp_path / "less.tar", "iwildcam_v2.0/", kind="")
    root = tmp_path / "data"
    said = mistake(root, file)
    assert said == f"{root}/iwildcam_v2.0: half a copy: 1 of 30 images are missing (train/test-1.jpg)"
    assert not (root / "iwildcam_v2.0" / "RELEASE_v2.0.txt").exists()
    monkeypatch.setitem(
        official.DATASETS, "iwildcam", replace(official.DATASETS["iwildcam"], sizes={**SIZES, "val": 7})
    )
    assert "is not the official data set: train 6 of 6, id_val 6 of 6, id_test 6 of 6, val 6 of 7" in mistake(
        root, file
    )


def test_where_no_hash_is_known_it_is_said(tmp_path, monkeypatch):
    made = make_tasks.waterbirds(tmp_path / "made") / "waterbirds_v1.0"
    sizes = {"train": 12, "val": 8, "test": 8}
    monkeypatch.setitem(official.DATASETS, "waterbirds", replace(official.DATASETS["waterbirds"], sizes=sizes))
    file = make_tasks.archive(made, tmp_path / "archive.tar.xz", "./", kind="xz")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    told = install(tmp_path / "data", file, "waterbirds")
    assert told[0].endswith(f"bytes; no sha256 of it is known here, compare where it is from: {digest}")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "breaks off or is damaged after" in mistake(tmp_path / "other", file, "waterbirds")


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_is_written_elsewhere(name, kind, tmp_path):
    file, folder = tmp_path / f"bad.{kind}", tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    if kind == "tar":
        with tarfile.open(file, "w") as tar:
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"xx"))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            tar.addfile(link)
    else:
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr(name, b"xx")
    with pytest.raises(UserError, match="a path that leads out of the folder: do not use it"):
        unpack(file, folder, lambda done, of: None)
    assert list(folder.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "a"}


def test_a_zip_is_unpacked_too(tmp_path):
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("set_v1.0/a/b.txt", b"xx")
        zipped.writestr("set_v1.0/c.txt", b"y")
    (tmp_path / "set_v1.0").mkdir()
    assert unpack(file, tmp_path / "set_v1.0", lambda done, of: None) == (2, 0)
    assert (tmp_path / "set_v1.0" / "a" / "b.txt").read_bytes() == b"xx"


def test_other_pools_have_no_archive(tmp_path):
    with pytest.raises(UserError, match="--archive: folder is read as it lies; only wilds:<name> is unpacked"):
        command.main(["folder", "--root", str(tmp_path), "--archive", "x.tar", "--out", str(tmp_path / "s")])
