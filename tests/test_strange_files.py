"""What is no file, lies elsewhere, or is not what its name says: links, circles, FIFOs, devices, other formats.

A FIFO that is opened would wait for ever: the tests' own proof that none is."""

from __future__ import annotations

import json
import os
import socket
import tarfile

import numpy as np
import pytest
from make_pools import open_pool

from ray_robust.data.images import decode, files
from ray_robust.data.images.files import Folder, Zip
from ray_robust.data.labels import wordnet
from ray_robust.data.readers import archive
from ray_robust.data.sources import imagenet, shards
from ray_robust.data.tasks import domains
from ray_robust.errors import UserError
from ray_robust.files.regular_file import read_file
from tests import make_images as make

SECRET = "root:x:0:0:the-secret:/root:/bin/sh\n"


def source(path, **options):
    return open_pool("source", "folder", {"path": str(path), **options})


def mistakes(pool) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = pool.catalog
    return str(caught.value).splitlines()


# --- formats

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + b"showpage\n" * 20


def test_pillow_is_given_the_formats_of_the_suffixes_alone(monkeypatch):
    """EPS inside .png started Ghostscript."""
    asked = []
    opened = decode.Image.open
    monkeypatch.setattr(decode.Image, "open", lambda file, **how: asked.append(how) or opened(file, **how))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    others = {f"{kind}.png": make.encoded(make.picture(16, 16), kind) for kind in ("ICO", "PCX", "SGI")}
    kinds = {"x.png": EPS, **others}
    broken = decode.decode_all(kinds.get, list(kinds), 8, "crop").broken
    formats = "JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM"
    assert broken[0] == f"is no {formats} image; it begins as PostScript does"
    assert [broken[i] for i in (1, 2, 3)] == [f"is no {formats} image"] * 3
    assert {how["formats"] for how in asked} == {tuple(dict.fromkeys(files.FORMATS.values()))}


def test_a_format_may_stand_under_the_suffix_of_another():
    image = make.picture(32, 32)
    for kind in dict.fromkeys(files.FORMATS.values()):
        assert decode.decode(make.encoded(image, kind), 8, "crop").any(), kind


# --- what a message tells


@pytest.mark.parametrize("name", ["a.jpg", "a.ppm", "a.tif", "a.avif"])
def test_no_message_shows_what_a_linked_file_holds(tmp_path, name):
    tree = make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    (tmp_path / "passwd").write_text(SECRET * 10)
    (tree / "cat" / name).symlink_to(tmp_path / "passwd")
    (reason,) = source(tree).read(np.arange(3), 8).broken.values()
    assert "root" not in reason
    assert "secret" not in reason


def test_a_link_to_an_image_is_followed(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1})
    (tmp_path / "laid out" / "dog").mkdir(parents=True)
    (tmp_path / "laid out" / "cat").symlink_to(tree / "cat")
    (tmp_path / "laid out" / "dog" / "1.jpg").symlink_to(tree / "cat" / "000.jpg")
    pool = source(tmp_path / "laid out")
    assert pool.keys(np.arange(2)) == ["cat/000.jpg", "dog/1.jpg"]
    assert not pool.read(np.arange(2), 8).broken


# --- what is no file


def strange(folder):
    """One of each kind, under names of images."""
    os.mkfifo(folder / "fifo.jpg")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    place = os.getcwd()
    os.chdir(folder)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("socket.jpg")
    finally:
        os.chdir(place)
    return {"device.jpg": "a device", "fifo.jpg": "a FIFO", "nowhere.jpg": "a link that leads nowhere or in a circle",
            "self.jpg": "a link that leads nowhere or in a circle", "socket.jpg": "a socket"}  # fmt: skip


def test_what_is_no_file_is_refused_in_a_line_each(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    kinds = strange(tree / "cat")
    wanted = [f"{tree}: cat/{name} is {kind}, not a file" for name, kind in kinds.items()]
    assert sorted(mistakes(source(tree))) == wanted


def test_what_becomes_a_fifo_after_it_was_listed_is_not_waited_for(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 6, "dog": 1})
    pool = source(tree)
    assert pool.keys(np.arange(6))[5] == "cat/005.jpg"
    for path in (tree / "cat").iterdir():
        path.unlink()
    kinds = strange(tree / "cat")
    for (name, _), path in zip(kinds.items(), (tree / "cat" / f"{i:03d}.jpg" for i in range(5)), strict=True):
        (tree / "cat" / name).rename(path)
    assert list(pool.read(np.arange(6), 8).broken.values()) == [
        "is a device, not a file",
        "is a FIFO, not a file",
        *["cannot be read: No such file or directory"] * 2,
        "is a socket, not a file",
        "cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("name", ["x.zip", "x.csv"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_zip_or_a_table_that_is_none_is_refused(tmp_path, name, kind):
    if kind == "fifo":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    (line,) = mistakes(source(tmp_path / name))
    assert line.startswith(f"{tmp_path / name}: is a {'FIFO' if kind == 'fifo' else 'device'}, not a ")


def test_a_file_without_a_size_is_read_to_its_limit():
    assert len(read_file("/proc/self/status", 1 << 20)) > 100
    with pytest.raises(ValueError, match=r"^holds 11 bytes, more than the limit of 10$"):
        read_file("/proc/self/status", 10)


# --- circles of links


def test_links_in_a_circle_are_walked_once(tmp_path):
    for name in "ab":
        make.tree(tmp_path / name, {"cat": 1})
    (tmp_path / "a" / "cat" / "to-b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "cat" / "to-a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(".")
    names = Folder(str(tmp_path / "a")).walk().files
    assert sorted(names) == ["cat/000.jpg", "cat/to-b/cat/000.jpg"]


def test_links_that_multiply_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LINKS", 50)
    for level in range(6):
        (tmp_path / f"{level}").mkdir()
        for name in "abc":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "6").mkdir()
    with pytest.raises(UserError, match=r"0: links to folders lead to more than 50 folders; remove those in a circle$"):
        Folder(str(tmp_path / "0")).walk()


# --- unpacking


def tar_of(path, *names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 0
            tar.addfile(info)
    return path


def unpack(file, folder):
    with pytest.raises(UserError) as caught:
        archive.unpack(file, folder, lambda done, of: None)
    return str(caught.value)


@pytest.mark.parametrize("planted", ["a", "a/b", "a/b/x.txt", "a/b/.x.txt.part"])
def test_unpacking_follows_no_link_that_lies_in_the_target(tmp_path, planted):
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (folder / planted).parent.mkdir(parents=True)
    (folder / planted).symlink_to(outside / ("x" if planted.endswith(("txt", "part")) else "."))
    file = tar_of(tmp_path / "x.tar", "a/b/x.txt")
    if planted.endswith("part"):  # what a killed run may have left is replaced, not written through
        assert archive.unpack(file, folder, lambda done, of: None) == (1, 0)
        assert not (folder / "a/b/x.txt").is_symlink()
    else:
        what = "is a link, and unpacking follows none; remove it, or unpack elsewhere"
        assert unpack(file, folder) == f"{folder / planted}: {what}"
    assert list(outside.iterdir()) == []


def test_a_folder_that_is_itself_a_link_is_the_users_own(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert archive.unpack(tar_of(tmp_path / "x.tar", "a.txt"), tmp_path / "out", lambda done, of: None) == (1, 0)
    assert (tmp_path / "disk" / "a.txt").is_file()


def test_what_else_lies_in_the_target_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "a")
    what = "is a FIFO where the archive has a file or folder; remove it"
    assert unpack(tar_of(tmp_path / "x.tar", "a"), tmp_path / "out") == f"{tmp_path / 'out' / 'a'}: {what}"
    assert unpack(tar_of(tmp_path / "x.tar", "a/b"), tmp_path / "out") == f"{tmp_path / 'out' / 'a'}: {what}"


def test_what_is_remembered_of_an_archive_goes_through_no_link(tmp_path):
    file, folder = tar_of(tmp_path / "x.tar", "a"), tmp_path / "out"
    folder.mkdir()
    (folder / archive.CHECKED).symlink_to(tmp_path / "outside.json")
    with pytest.raises(UserError, match=r"\.archive\.json: is a link, and unpacking follows none"):
        archive.check(file, None, folder, lambda done, of: None)
    (folder / archive.CHECKED).unlink()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="fifo: is a FIFO, not an archive"):
        archive.check(tmp_path / "fifo", None, folder, lambda done, of: None)
    archive.check(file, None, folder, lambda done, of: None)
    assert json.loads((folder / archive.CHECKED).read_text())["size"] == file.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("outside")] == []


def test_links_of_an_archive_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind, to in (("a", tarfile.SYMTYPE, "/etc"), ("a/passwd", tarfile.REGTYPE, ""),
                               ("h", tarfile.LNKTYPE, "../../x"), ("p", tarfile.FIFOTYPE, "")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    folder = tmp_path / "out"
    assert archive.unpack(tmp_path / "x.tar", folder, lambda done, of: None) == (1, 0)
    assert [(p.relative_to(folder).as_posix(), p.is_symlink()) for p in sorted(folder.rglob("*"))] == [
        ("a", False), ("a/passwd", False)]  # fmt: skip


@pytest.mark.parametrize("name", ["PKLot/1.jpg", "BZh9/1.jpg"])
def test_a_tar_is_told_by_more_than_the_path_that_it_begins_with(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    assert archive.unpack(tmp_path / "x.tar", tmp_path / "out", lambda done, of: None) == (1, 0)
    assert (tmp_path / "out" / name).exists()


def test_a_zip_in_a_link_is_read(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr("cat/a.jpg", make.encoded(make.picture()))
    (tmp_path / "y.zip").symlink_to("x.zip")
    assert Zip(str(tmp_path / "y.zip")).read("cat/a.jpg")


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (lambda file: wordnet._pairs(str(file)), "lines of parent and child"),
        (imagenet._mapping, "lines like 'n01440764 tench, Tinca tinca'"),
        (lambda file: domains._read_list(file, "real"), "real/<class>/<file> <number>"),
        (lambda file: shards.WebDataset("x", shards.ShardOptions(path=str(file.parent), classes=str(file))).columns,
         "a name a line"),
    ],
    ids=["WordNet", "ImageNet", "domains", "shards"],
)  # fmt: skip
def test_a_list_that_is_no_text_is_a_line(tmp_path, read, wanted):
    file = tmp_path / "list.txt"
    file.write_bytes(b"n01440764 \xff\xfe\n")
    assert problems_of(read, file) == [f"{file}: is no text in UTF-8; wanted: {wanted}"]
    file.unlink()
    assert problems_of(read, file) == [f"{file}: cannot be read: No such file or directory; wanted: {wanted}"]


def problems_of(read, file) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(file)
    return [str(problem) for problem in caught.value.problems]
