"""Files in an object store, on a real S3 server that fails: whole or absent, tried again, and refusals in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_run
import make_s3
import pytest
from deadlines import HANG, wait_for
from test_interim import drive

import ray_robust
from analysis.__main__ import Request
from analysis.__main__ import report_on as analyse
from analysis.interface import interim
from ray_robust import sweep
from ray_robust.data.readers.shards import find_shards
from ray_robust.errors import Outage, Refused, UserError
from ray_robust.files import object_store, retry
from ray_robust.files.retry import may_pass, refusal
from ray_robust.files.storage import Storage
from ray_robust.run import lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.status import __main__ as status

NETWORK = "AWS Error NETWORK_CONNECTION during {} operation: curlCode: 7, Couldn't connect to server"
SPEC = """
# Question: Is a store that refuses named at once?
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: 400, images_seen: 400}
finetune: {epochs: 1}
baseline: none
"""


@pytest.fixture(scope="module")
def server() -> Iterator[make_s3.Server]:
    with make_s3.serving() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def storage(server, monkeypatch, request) -> Iterator[Storage]:
    """A folder of this test's own on the server, which fails as the test sets it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    yield Storage(f"s3://bucket/{request.node.name.replace('[', '-').replace(']', '')}")
    server.set(every=0, match="", away=0, refuse=False)


# --- failures that pass


@pytest.mark.slow
@pytest.mark.parametrize("way", make_s3.WAYS)
def test_an_operation_succeeds_though_its_requests_fail(server, storage, way):
    """One in three, by chance. Of these ways pyarrow itself tries most again, but neither 429 nor any failed read of an
    object that is smaller than the store's message."""
    large = os.urandom(6_000_000)  # in two parts
    server.set(every=3, ways=[way])
    failed = server.counts().get("failed", 0)
    storage.write_json("a.json", {"x": 1})
    storage.write("large", large)
    assert storage.read_json("a.json") == {"x": 1}
    assert storage.read("large") == large
    assert storage.names() == ["a.json", "large"]
    assert storage.size() == len(large) + len('{\n "x": 1\n}\n')
    storage.delete("a.json")
    assert not storage.exists("a.json")
    assert storage.read("a.json") is None
    assert server.counts()["failed"] > failed


@pytest.mark.slow
def test_a_write_that_fails_leaves_the_old_object(server, storage, monkeypatch):
    """In the second part of three, after the first has arrived: nothing of the new one is ever read."""
    storage.write("x", b"old" * 3_000_000)
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    server.set(every=1, ways=["500"], match="PUT")
    with pytest.raises(Outage, match=r"x: cannot be reached for \d+ s \(INTERNAL_FAILURE of \w+: Please try again\)"):
        storage.write("x", b"new" * 5_000_000)
    server.set(every=0)
    assert storage.read("x") == b"old" * 3_000_000


@pytest.mark.slow
def test_an_object_that_grows_while_it_is_read_is_never_cut(server, storage, monkeypatch):
    """pyarrow asks for the size first, then for so many bytes: of the longer object it would return a part."""
    storage.write("a.json", b'{"short": 1}')
    real, replaced = object_store.etag, []

    def replace_after_the_size(stream):
        tag = real(stream)
        if not replaced:
            replaced.append(server.client().put_object(Bucket="bucket", Key=f"{key}/a.json", Body=longer))
        return tag

    key, longer = storage.address.removeprefix("s3://bucket/"), b'{"much": "longer than before"}'
    monkeypatch.setattr(object_store, "etag", replace_after_the_size)
    assert storage.read("a.json") == longer
    assert replaced


@pytest.mark.slow
def test_bytes_come_as_they_are_whatever_the_name(storage):
    storage.write("a.csv.gz", b"plain")
    assert storage.read("a.csv.gz") == b"plain"


@pytest.mark.slow
def test_a_small_object_takes_one_request_to_write_and_two_to_read(server, storage):
    storage.write("warm", b"1")
    before = server.counts()["requests"]
    storage.write("a", b"1")
    assert server.counts()["requests"] == before + 1
    assert storage.read("a") == b"1"
    assert server.counts()["requests"] == before + 3


# --- failures that stay


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_line_and_the_next_call_works(server, storage, monkeypatch):
    storage.write("a", b"1")
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    server.set(away=1e6)
    with pytest.raises(Outage) as error:
        storage.read("a")
    assert "\n" not in str(error.value)
    assert f"{storage.address}/a: cannot be reached for " in str(error.value)
    assert str(error.value).endswith("once it can, run the same command again")
    server.set(away=0)
    assert storage.read("a") == b"1"


@pytest.mark.slow
def test_wrong_credentials_and_a_missing_bucket_are_refused_at_once(server, storage, monkeypatch):
    monkeypatch.setattr(retry.time, "sleep", lambda _: pytest.fail("it was tried again"))
    missing = Storage("s3://no-such-bucket/run")
    with pytest.raises(Refused) as error:
        missing.write("a", b"1")
    assert str(error.value) == "s3://no-such-bucket/run/a: there is no such bucket; create it, or name another one"
    server.set(refuse=True)
    before = server.counts()["requests"]
    for call in (lambda: storage.read("a"), lambda: storage.write("a", b"1"), storage.names):
        with pytest.raises(Refused, match=r"access is refused \((ACCESS_DENIED|INVALID_ACCESS_KEY_ID).*\); check the"):
            call()
    assert server.counts()["requests"] == before + 3


@pytest.mark.slow
def test_the_command_ends_with_one_line_before_anything_runs(server, storage, tmp_path):
    (tmp_path / "how.yaml").write_text(SPEC)
    spec = str(tmp_path / "how.yaml")
    with pytest.raises(UserError) as error:
        sweep.main([spec, "--out", "s3://no-such-bucket/run"])
    what = "there is no such bucket; create it, or name another one"
    assert str(error.value) == f"--out s3://no-such-bucket/run: cannot be written: {what}"
    server.set(refuse=True)
    with pytest.raises(UserError) as error:
        sweep.main([spec, "--out", storage.address])
    what = "access is refused (ACCESS_DENIED of HeadObject: No response body); check the credentials and what they may"
    assert str(error.value) == f"--out {storage.address}: cannot be read: {what} do there"


@pytest.mark.slow
def test_whoever_reads_is_told_that_there_is_no_such_bucket(server, storage, capsys):
    """A store answers that nothing is there, whether the bucket is or not."""
    storage.write("x/a", b"1")
    bucket = "; there is no bucket no-such-bucket"
    no_run = "no run folder: it has neither spec.yaml nor plan.csv"
    missing, none = "s3://no-such-bucket/run", f"{storage.address}/none"
    said = {
        f"{missing}: no such run folder{bucket}": lambda: status.main([missing]),
        f"{missing}: no such run folder{bucket} ": lambda: status.main([missing, "--follow"]),
        f"{missing}: no such run folder{bucket}  ": lambda: ray_robust.Run(missing),
        f"{none}: no such run folder": lambda: status.main([none]),
        f"{missing}: {no_run}{bucket}": lambda: analyse(Request((missing,))),
        f"{missing}/*.tar: there are no shards; wanted: a folder or a pattern of .tar files{bucket}": (
            lambda: find_shards(f"{missing}/*.tar", ".tar")
        ),
        f"{none}/*.tar: there are no shards; wanted: a folder or a pattern of .tar files": (
            lambda: find_shards(f"{none}/*.tar", ".tar")
        ),
    }
    for line, call in said.items():
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == line.rstrip()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("When reading key 'permission/token' in bucket 'credentials': " + NETWORK.format("GetObject"), None),
        ("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.", None),
        ("AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: No response body.", None),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", None),
        (
            "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.",
            "the request is refused (UNKNOWN, HTTP 400 of HeadObject: No response body); check the address, its region "
            "and the credentials",
        ),
        (
            "When uploading key 'a' in bucket 'b': AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation: The "
            "request signature does not match. (Request ID: X1)",
            "access is refused (SIGNATURE_DOES_NOT_MATCH of PutObject: The request signature does not match); check "
            "the credentials and what they may do there",
        ),
        ("When resolving region for bucket 'b': " + NETWORK.format("HeadBucket"), None),
        ("Bucket 'b' not found", "there is no such bucket; create it, or name another one"),
        ("When reading 'gs://b/permission': google::cloud::Status(UNAVAILABLE: try again)", None),
        (
            "google::cloud::Status(PERMISSION_DENIED: no)",
            "access is refused (google::cloud::Status(PERMISSION_DENIED: no)); check the credentials and what they may "
            "do there",
        ),
    ],
)
def test_what_an_object_store_refuses_and_what_may_pass(message, why):
    assert refusal(OSError(message)) == why
    assert may_pass(OSError(message)) is (why is None)


def test_a_store_that_is_away_when_it_is_opened_is_tried_again(monkeypatch):
    """pyarrow may ask for the region of a bucket then."""
    tries = []

    def from_uri(address):
        tries.append(address)
        raise OSError("When resolving region for bucket 'b': " + NETWORK.format("HeadBucket"))

    monkeypatch.setattr("pyarrow.fs.FileSystem", type("FileSystem", (), {"from_uri": staticmethod(from_uri)}))
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0.5")
    with pytest.raises(Outage, match=r"s3://b/x/a: cannot be reached for \d+ s \(NETWORK_CONNECTION of HeadBucket: "):
        Storage("s3://b/x?region=eu").read("a")
    assert tries
    assert set(tries) == {"s3://b/x?region=eu&allow_delayed_open=true"}


def test_a_refusal_names_the_address_without_its_key():
    error = Refused(errno.EACCES, "access is refused", Storage("s3://key:secretive@b/x").shown)
    assert str(error) == "s3://b/x: access is refused"


# --- the lease


@pytest.mark.slow
def test_a_lease_is_not_taken_over_for_time_in_which_the_store_was_away(server, storage, monkeypatch):
    """The watcher's clock runs while it waits for the store; the owner could not renew the lease either."""
    theirs = {"host": "elsewhere", "pid": 77, "began": "1", "id": "theirs", "time": 1.0}
    storage.write_json(lease.FILE, theirs)
    clock, reads = [0.0], []

    def read(folder):
        reads.append(clock[0])
        if len(reads) == 2:  # its first look after it began to watch: the store is away, for longer than a lease lasts
            clock[0] += 2 * lease.EXPIRY
        if len(reads) == 5:  # then the owner reaches it again
            storage.write_json(lease.FILE, {**theirs, "time": 2.0})
        return folder.read_json(lease.FILE, dict)

    monkeypatch.setattr(lease, "_read", read)
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    assert lease._alive(storage, lease._read(storage), lambda _: None)


# --- a run folder


@pytest.mark.slow
def test_a_trial_s_files_are_proved_by_what_the_store_lists(server, storage):
    trial = RunFolder(storage).trial("x-s1-8c2f3a")
    trial.storage.write_json("trial.json", {"trial": "x"})
    rows = [{"finetune": "f", "epoch": 1, "step": 2, "id": 0.5, "ood": 0.25, "status": "done"}]
    trial.keep_finetuning("f", rows)
    server.set(every=5)
    trial.finish(rows, {})
    run = RunFolder(storage)
    assert run.trial("x-s1-8c2f3a").is_done(["f"])
    assert run.trial("x-s1-8c2f3a").rows() == rows
    server.set(every=0)
    trial.storage.write("rows.jsonl", b"")
    assert "rows.jsonl is empty" in RunFolder(storage).trial("x-s1-8c2f3a").damage()


@pytest.mark.slow
def test_a_run_in_a_store_is_followed_and_its_report_written_while_it_runs(server, storage):
    """By `status --follow` in another process, which sees it by its address alone, through failures and an outage."""
    made = fake_run.run_folder(storage, fake_run.sweep({"num_images=1000": 4.0}, epochs=(6, 12)), unfinished=3)
    made.storage.write("plan.csv", made.plan().assign(cost_images="1000").to_csv(index=False))
    drive(made)  # another process holds the lease
    names = [name for name, state in made.states().items() if state == "planned"]
    server.set(every=8)
    words = [sys.executable, "-m", "ray_robust.status", storage.address, "--follow", "--interval", "0.2"]
    environment = {**os.environ, **server.environment, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        seen = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        stack.enter_context(seen)
        stack.callback(seen.kill)  # first, where something fails: it would be followed for ever
        assert seen.stdout is not None
        assert seen.stdout.readline().startswith("3 of 6 trials have ended, 0 are started; 50 % of the work is done")
        interim.main([storage.address])
        page = (storage.read("report/index.html") or b"").decode()
        assert "Interim, 3 of 6 trials" in page
        assert f"The sweep was running then; <code>python -m ray_robust.status {storage.address}</code> says" in page
        linked = sorted(set(re.findall(r'href="(interim/[^"]*)"', page)))
        assert linked
        assert all(storage.exists(f"report/{link}") for link in linked)
        for number, name in enumerate(names, 4):
            if number == 5:
                server.set(away=3.0)
            made.trial(name).finish([{"finetune": f"lr{rate:g}", "epoch": 12} for rate in fake_run.RATES], {})
            assert seen.stdout.readline() == f"[{number}/6] {name}  done\n"
        storage.delete("lease.json")
        rest = seen.stdout.read()
        assert seen.wait(timeout=HANG) == 0, rest
    assert "(interim, written " in rest
    assert rest.splitlines()[-1] == "ended    the run is done: 6 done"
    assert server.counts()["failed"] > 0


# --- training data


@pytest.mark.slow
def test_shards_are_stamped_by_the_store_s_own_checksum(storage):
    """The time of an object changes when it is copied; its ETag with its content alone."""
    storage.write("train-000.tar", b"first")
    storage.write("train-001.tar", b"second")
    before = find_shards(f"{storage.address}/train-{{000..001}}.tar", ".tar").shards
    storage.write("train-000.tar", b"first")
    storage.write("train-001.tar", b"third!")
    after = find_shards(f"{storage.address}/train-{{000..001}}.tar", ".tar").shards
    assert [shard.stamp[0] for shard in before] == [5, 6]
    assert after[0] == before[0]
    assert after[1] != before[1]


# --- the server of these tests


@pytest.mark.slow
def test_the_server_ends_with_its_test_however_that_ends():
    code = "import make_s3\nwith make_s3.serving() as server:\n    print(server.port, flush=True)\n    input()"
    test = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert test.stdout is not None
    port = int(test.stdout.readline())

    def closed() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) != 0

    assert not closed()
    test.send_signal(signal.SIGKILL)
    test.wait()
    wait_for(closed)
    for pipe in (test.stdin, test.stdout):
        pipe.close()
