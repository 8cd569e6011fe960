"""Downloads against a server on loopback that cuts, lies, redirects and changes its mind: what is kept and printed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from make_downloads import zipped
from make_server import Page, certificate, serving

from ray_robust.data.downloads import connection, obtain
from ray_robust.data.downloads.entries import DataSet, RemoteFile
from ray_robust.errors import Outage, UserError
from ray_robust.text.console import Screen

DATA = zipped({f"pets/cat/{k}.jpg": bytes([k]) * 9_000 for k in range(9)})
OTHER = zipped({f"pets/cat/{k}.jpg": bytes([k + 1]) * 9_000 for k in range(9)})
FILE = RemoteFile("pets.zip", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
BARE = RemoteFile("pets.zip")  # nothing is published of it
SHA = FILE.sha256


@pytest.fixture
def site():
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    return certificate(tmp_path_factory.mktemp("key"))


@pytest.fixture
def safe(key, monkeypatch):
    """A server that is trusted by https."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(key))
    with serving(key) as one:
        yield one


class Run:
    """One data set, `pets`, downloaded from `urls` to `root`; waits between tries are noted and not waited for."""

    def __init__(self, root: Path, monkeypatch, capsys) -> None:
        self.root, self.patch, self.capsys = root, monkeypatch, capsys
        self.waits: list[float] = []
        self.wire = connection.Wire(connect=5, read=5, sleep=self.waits.append)

    def list(self, *urls: str, file: RemoteFile = FILE, **more) -> None:
        entry = DataSet("Pets", "CC BY 4.0", "Doe 2020", "pets", (replace(file, urls=urls),), **more)
        self.patch.setitem(obtain.DOWNLOADS, "pets", entry)

    def __call__(self, *urls: str, file: RemoteFile = FILE, **more) -> list[str]:
        self.list(*urls, file=file, **more)
        obtain.obtain("pets", self.root, True, Screen(highlight=False, soft_wrap=True), self.wire)
        return self.capsys.readouterr().out.splitlines()

    def fails(self, kind: type[Exception], *urls: str, **options) -> str:
        with pytest.raises(kind) as caught:
            self(*urls, **options)
        assert "\n" not in str(caught.value)
        self.printed = self.capsys.readouterr().out
        return str(caught.value)

    @property
    def part(self) -> Path:
        return self.root / "downloads" / "pets.zip.part"

    def whole(self) -> bool:
        """Whether all images are there, and nothing of the download."""
        images = sorted(self.root.glob("pets/cat/*.jpg"))
        assert [file.read_bytes() for file in images] == [bytes([k]) * 9_000 for k in range(9)]
        return sorted(p.name for p in (self.root / "downloads").iterdir()) == ["pets.json", "pets.lock"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Run:
    return Run(tmp_path / "data", monkeypatch, capsys)


def test_a_file_is_downloaded_checked_unpacked_and_recorded(site, run):
    url = site.put("/pets.zip", Page(DATA, etag='"1"'))
    lines = run(url, use=("task: {name: pacs, root: ROOT/cat}",))
    assert lines[:5] == [
        "pets         Pets",
        f"file         pets.zip: {len(DATA):,} bytes, sha256",
        f"  from       {url}",
        "licence      CC BY 4.0",
        "cite         Doe 2020",
    ]
    assert lines[-4:] == [
        f"checked      pets.zip: {len(DATA):,} bytes, sha256 as published",
        f"unpacked     9 files to {run.root}/pets, 0 of them there before",
        "use          in a spec:",
        f"  task: {{name: pacs, root: {run.root}/pets/cat}}",
    ]
    assert run.whole()
    kept = json.loads((run.root / "downloads/pets.json").read_text())
    assert kept["came"] == {"pets.zip": {"size": len(DATA), "sha256": SHA, "url": url}}
    assert run(url)[-2] == f"complete     {run.root}/pets: nothing is downloaded"
    assert len(site.requests) == 1


def test_what_was_unpacked_and_lost_is_downloaded_again(site, run):
    url = site.put("/pets.zip", Page(DATA))
    run(url)
    (run.root / "pets/cat/3.jpg").unlink()
    assert f"unpacked     9 files to {run.root}/pets, 8 of them there before" in run(url)
    assert run.whole()


def test_a_cut_connection_goes_on_where_it_was_cut(site, run):
    url = site.put(
        "/pets.zip", Page(DATA, etag='"1"', cut=40_960), Page(DATA, etag='"1"', cut=4_096), Page(DATA, etag='"1"')
    )
    lines = run(url)
    assert [line for line in lines if line.startswith("again")] == [
        f"again        {url} the connection was cut (IncompleteRead); next try in 1 s, from 40,960 bytes",
        f"again        {url} the connection was cut (IncompleteRead); next try in 2 s, from 45,056 bytes",
    ]
    assert (site.asked("Range"), site.asked("If-Range")) == (
        ["", "bytes=40960-", "bytes=45056-"], ["", '"1"', '"1"'],
    )  # fmt: skip
    assert run.waits == [1.0, 2.0]
    assert run.whole()


def test_another_command_goes_on_with_the_part(site, run):
    url = site.put("/pets.zip", Page(DATA, etag='"1"', cut=40_960))
    run.wire = replace(run.wire, tries=1)
    assert run.fails(Outage, url) == (
        f"pets.zip: cannot be downloaded: {url} the connection was cut (IncompleteRead); run the same command again: "
        "it goes on from 40,960 bytes"
    )
    site.put("/pets.zip", Page(DATA, etag='"1"'))
    run(url)
    assert site.asked("Range")[-1] == "bytes=40960-"
    assert run.whole()


@pytest.mark.parametrize("file", [FILE, BARE], ids=["published", "nothing published"])
def test_a_file_that_changed_meanwhile_is_begun_anew(safe, run, file):
    url = safe.put("/pets.zip", Page(OTHER, etag='"1"', cut=40_960), Page(DATA, etag='"2"'))
    lines = run(url, file=file)
    assert f"again        {url}: the file has changed there; from the beginning" in lines
    assert safe.asked("If-Range") == ["", '"1"']
    assert run.whole()


def test_a_range_of_another_version_is_not_appended(safe, run):
    """A server that ignores If-Range, and one that answers with another range than was asked for."""
    url = safe.put("/pets.zip", Page(OTHER, etag='"1"', cut=40_960),
                   Page(DATA, etag='"2"', status=206, headers={"Content-Range": f"bytes 40960-1/{len(DATA)}"}),
                   Page(DATA, etag='"2"', cut=40_960), Page(DATA, etag='"2"', shift=1),
                   Page(DATA, etag='"2"'))  # fmt: skip
    lines = run(url, file=BARE)
    assert sum("sent other bytes than were asked for, or of another version" in line for line in lines) == 2
    assert run.whole()


def test_a_server_without_ranges_or_marks(site, safe, run):
    url = site.put("/pets.zip", Page(DATA, ranges=False, cut=40_960), Page(DATA, ranges=False))
    assert f"again        {url}: the server goes on from no byte; from the beginning" in run(url)
    assert site.asked("Range") == ["", "bytes=40960-"]
    assert run.whole()
    run.root = run.root.parent / "second"
    url = safe.put("/pets.zip", Page(DATA, cut=40_960), Page(DATA))  # nothing would show that two versions are mixed
    run(url, file=BARE)
    assert safe.asked("Range") == ["", ""]
    assert run.whole()


def test_parts_of_two_versions_are_noticed_and_fetched_as_a_whole(site, run):
    """Without a mark the checksum alone can show it."""
    url = site.put("/pets.zip", Page(OTHER, cut=40_960), Page(DATA), Page(DATA))
    lines = run(url)
    assert any(line.startswith("again        the parts do not fit together (it has the sha256 ") for line in lines)
    assert run.whole()


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(DATA + b"x"), f"has {len(DATA) + 1:,} bytes, not the published {len(DATA):,}: another file"),
        (Page(DATA[:-1]), f"has {len(DATA) - 1:,} bytes, not the published {len(DATA):,}: another file"),
        (Page(DATA, more=b"x" * 9_999, length=-1), f"sends more than the {len(DATA):,} bytes that it should have"),
        (Page(DATA, more=b"x" * 9_999, chunked=True), f"sends more than the {len(DATA):,} bytes that it should have"),
        (Page(OTHER), f"sent a file that has the sha256 {hashlib.sha256(OTHER).hexdigest()}, not the published {SHA}: "
                      "it was removed"),
        (Page(b"gone", status=404), "answers 404 Not Found"),
        (Page(b"no", status=403), "answers 403 Forbidden"),
        (Page(b"<!DOCTYPE html>sign in", length=-1), "sends a web page, not an archive"),
        (Page(DATA + b"x", headers={"Content-Encoding": "gzip"}), "sends it encoded (gzip), so that its bytes cannot "
                                                                  "be counted"),
        (Page(status=302, headers={"Location": "/pets.zip"}), "redirects to itself"),
        (Page(status=302, headers={"Location": "file:///etc/passwd"}), "file:///etc/passwd is no https address"),
        (Page(status=302, headers={"Location": "ftp://example.org/x"}), "ftp://example.org/x is no https address"),
        (Page(status=302, headers={"Location": "http://[::1/x"}), "redirects to an address that cannot be read"),
    ],
)  # fmt: skip
def test_what_is_final_is_not_tried_again(site, run, page, reason):
    url = site.put("/pets.zip", page)
    assert run.fails(UserError, url) == f"pets.zip: cannot be downloaded: {url} {reason}"
    assert len(site.requests) == 1
    assert run.waits == []
    assert not run.part.exists()
    assert not (run.root / "pets").exists()
    assert max((p.stat().st_size for p in (run.root / "downloads").iterdir()), default=0) < 1_000


def test_a_file_in_a_wrong_encoding_of_the_right_size_is_taken_as_it_travels(site, run):
    url = site.put("/pets.zip", Page(DATA, headers={"Content-Encoding": "x-gzip"}))  # as servers mark a .tgz
    run(url)
    assert run.whole()
    assert site.asked("Accept-Encoding") == ["identity"]


def test_a_stream_that_ends_early_without_a_length_is_no_whole_file(site, run):
    url = site.put("/pets.zip", Page(DATA, length=-1, cut=40_960, ranges=False))
    line = run.fails(Outage, url)
    assert f"{url} ended after 40,960 of {len(DATA):,} bytes" in line
    assert len(site.requests) == run.wire.tries
    assert run.part.stat().st_size == 40_960


def test_a_busy_server_is_asked_again_as_late_as_it_wants(site, run):
    busy = Page(b"busy", status=503, headers={"Retry-After": "30"})
    url = site.put("/pets.zip", busy, Page(status=429, headers={"Retry-After": "99999"}), Page(status=500), Page(DATA))
    lines = run(url)
    assert run.waits == [30.0, 60.0, 4.0]
    assert run.whole()
    assert f"again        {url} answers 503 Service Unavailable; next try in 30 s, from 0 bytes" in lines
    site.put("/pets.zip", Page(status=503))
    run.root = run.root.parent / "second"
    assert run.fails(Outage, url) == (
        f"pets.zip: cannot be downloaded: {url} answers 503 Service Unavailable; run the same command again: it goes "
        "on from 0 bytes"
    )


def test_mirrors_are_tried_in_order_and_one_continues_what_another_began(site, run):
    urls = [
        site.put("/gone", Page(status=404)),
        site.put("/cut", Page(DATA, etag='"1"', cut=40_960), Page(status=404)),
        site.put("/good", Page(DATA, etag='"other"')),
    ]
    lines = run(*urls)
    assert [line for line in lines if line.startswith("mirror")] == [
        f"mirror       {urls[0]} answers 404 Not Found",
        f"mirror       {urls[1]} answers 404 Not Found",
    ]
    assert site.asked("Range") == ["", "", "bytes=40960-", "bytes=40960-"]
    assert run.whole()
    assert site.asked("If-Range")[-1] == ""  # of another server, whose marks are its own: the sha256 decides


def test_redirects(safe, site, run):
    safe.put("/last", Page(DATA))
    endless = {"length": 10**12, "after": safe.ended.wait}  # the body of a redirect is not read
    hop = safe.put("/hop", Page(status=307, headers={"Location": "/last"}, **endless))
    run(safe.put("/first", Page(status=302, headers={"Location": hop})))
    assert run.whole()
    run.root = run.root.parent / "second"
    insecure = site.put("/pets.zip?X-Amz-Signature=geheim", Page(DATA))
    url = safe.put("/down", Page(status=302, headers={"Location": insecure}))
    line = run.fails(UserError, url)
    assert line.endswith(f"{url} redirects to {site.base}/pets.zip, which is not https: refused")
    loop = [
        safe.put("/a", Page(status=302, headers={"Location": "/b"})),
        safe.put("/b", Page(status=302, headers={"Location": "/a"})),
    ]
    assert run.fails(UserError, loop[0]).endswith(f"{loop[0]} redirects more than 5 times")
    assert site.requests == []


def test_http_without_a_published_sha256_is_refused(site, run):
    url = site.put("/pets.zip", Page(DATA))
    for file in (BARE, replace(BARE, md5=hashlib.md5(DATA).hexdigest(), size=len(DATA))):
        assert run.fails(UserError, url, file=file).endswith(
            f"{url} {url} is http, and no sha256 is published to see a change on the way: refused"
        )
    assert site.requests == []


def test_a_certificate_of_a_stranger_is_refused(key, run):
    with serving(key) as one:
        url = one.put("/pets.zip", Page(DATA))
        assert f"{url} its certificate is not trusted (" in run.fails(UserError, url)


def test_no_password_is_sent(site, run, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password geheim\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    run(site.put("/pets.zip", Page(DATA)).replace("http://", "http://me:geheim@"))
    assert "geheim" not in str(site.requests)
    assert site.asked("Authorization") == [""]


def test_an_address_shows_no_credential(site, run):
    url = site.put("/pets.zip", Page(status=404))
    secret = url.replace("http://", "http://me:geheim@") + "?token=geheim"
    line = run.fails(UserError, secret)
    assert "geheim" not in line
    assert f"{url} answers 404" in line
    assert "geheim" not in run.printed


def test_what_came_is_compared_the_second_time_where_nothing_is_published(safe, run):
    url = safe.put("/pets.zip", Page(DATA))
    lines = run(url, file=BARE)
    assert lines[1] == "file         pets.zip: size unknown, no checksum is published: nothing can be compared"
    assert (
        f"checked      pets.zip: {len(DATA):,} bytes, no checksum is published: nothing can be compared; sha256 of "
        f"what came: {SHA} (recorded, so that a second download is compared)"
    ) in lines
    (run.root / "pets/cat/3.jpg").unlink()
    assert any(f"sha256 of what came: {SHA} (as when it was downloaded before)" in line for line in run(url, file=BARE))
    (run.root / "pets/cat/3.jpg").unlink()
    safe.put("/pets.zip", Page(OTHER))
    assert f"not {SHA} as when it was downloaded before" in run.fails(UserError, url, file=BARE)


def test_a_stream_of_unknown_length_that_is_cut_is_no_whole_file(safe, run):
    """As GitHub sends what it packs: in chunks, without a length or a mark."""
    url = safe.put("/pets.zip", Page(DATA, chunked=True, cut=40_960), Page(DATA, chunked=True))
    lines = run(url, file=BARE)
    assert sum(line.startswith("again ") for line in lines) == 1
    assert safe.asked("Range") == ["", ""]
    assert run.whole()


def test_a_run_that_ended_between_download_and_unpacking_requests_nothing(site, run):
    (run.root / "downloads").mkdir(parents=True)
    (run.root / "downloads" / "pets.zip").write_bytes(DATA)
    (run.root / "pets/cat").mkdir(parents=True)
    (run.root / "pets/cat/0.jpg").write_bytes(bytes(9_000))
    assert f"unpacked     9 files to {run.root}/pets, 1 of them there before" in run(site.base + "/pets.zip")
    assert run.whole()
    assert site.requests == []


def test_md5_and_size_are_compared(safe, run):
    url = safe.put("/pets.zip", Page(OTHER))
    md5 = replace(BARE, md5=hashlib.md5(DATA).hexdigest())
    assert f"sent a file that has the md5 {hashlib.md5(OTHER).hexdigest()}, not" in run.fails(UserError, url, file=md5)
    lines = run(url, file=replace(BARE, size=len(OTHER)))
    assert lines[1].endswith("bytes, no checksum is published: size alone is checked")


def test_a_proxy_or_a_host_that_is_not_there(run, site):
    dead = "http://127.0.0.1:9/pets.zip"
    assert run.fails(Outage, dead).startswith(
        f"pets.zip: cannot be downloaded: {dead} cannot be reached (Connection refused); run the same command again"
    )
    assert run.waits == [1.0, 2.0, 4.0, 8.0]


def test_a_connection_that_crawls_is_cut(site, run):
    """The clock goes on by a minute at each look."""
    times = iter(range(0, 10**9, 60))
    run.wire = replace(run.wire, clock=lambda: next(times), slowest=1 << 30, tries=1)
    url = site.put("/pets.zip", Page(DATA, etag='"1"', length=len(DATA), cut=40_960, after=lambda: site.ended.wait()))
    assert f"{url} sent " in run.fails(Outage, url)


def test_a_server_that_stops_sending_is_left(site, run):
    run.wire = replace(run.wire, read=0.2, tries=2)
    stuck = Page(DATA, etag='"1"', length=len(DATA), cut=40_960, after=lambda: site.ended.wait())
    url = site.put("/pets.zip", stuck, Page(DATA, etag='"1"'))
    lines = run(url)
    assert f"again        {url} does not answer, or stopped sending; next try in 1 s, from 40,960 bytes" in lines
    assert run.whole()


def test_the_hub_is_asked_which_file_has_the_sha256(safe, run, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", safe.base)
    large = {"path": "data/a b.zip", "oid": "2", "lfs": {"oid": SHA, "size": len(DATA)}}
    entries = [{"path": "README.md", "oid": "1"}, large]
    safe.put("/api/datasets/me/pets/tree/main", Page(json.dumps(entries).encode()))
    safe.put("/datasets/me/pets/resolve/main/data/a%20b.zip", Page(DATA))
    assert "  from       the repository me/pets of the Hugging Face hub" in run("hub:me/pets")
    assert run.whole()
    run.root = run.root.parent / "second"
    safe.put("/api/datasets/me/pets/tree/main", Page(json.dumps(entries[:1]).encode()))
    assert run.fails(UserError, "hub:me/pets").endswith(f"holds no file with the sha256 {SHA}")
