"""A cluster that is not there is reported in one line, without Ray: by sockets that accept, refuse, keep silent, or
speak something else. Ray's own patience is minutes, so each of these would hang without the probe."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from deadlines import HANG, wait_for
from soak import raylets

from ray_robust import ingest, sweep
from ray_robust.errors import UserError
from ray_robust.launch.cluster import address, connect, private_apis, temporary_folder
from ray_robust.launch.cluster.address import ALIVE, HEALTH, address_of, check_address, probe

SPEC = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: 500, images_seen: 1000}
"""
OTHER = "something listens there, but it is no head of a Ray cluster"


@contextlib.contextmanager
def listening(answer=None):
    """A port that accepts connections and says nothing, or `answer` to each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve():
            server.settimeout(0.05)
            held = []
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    held.append(server.accept()[0])
                    if answer is not None:
                        held[-1].sendall(answer)
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def speaking_grpc(*methods, code=None):
    """A gRPC server on a free port that knows these methods, and refuses them with `code` where one is given."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, call):
            if call.method not in methods:
                return None

            def answer(_, context):
                if code is not None:
                    context.abort(code, "no")
                return b"\x08\x01"

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_head_answers():
    with speaking_grpc(HEALTH, ALIVE) as port:
        assert probe("127.0.0.1", port, HANG) == ""


def test_a_head_that_wants_a_token_is_one():
    with speaking_grpc(HEALTH, ALIVE, code=grpc.StatusCode.UNAUTHENTICATED) as port:
        assert probe("127.0.0.1", port, HANG) == ""


@pytest.mark.parametrize("methods", [(), (HEALTH,), ("/ray.rpc.RayletDriver/Init",)])
def test_a_grpc_server_of_another_kind_is_no_head(methods):
    with speaking_grpc(*methods) as port:
        assert probe("127.0.0.1", port, HANG).startswith(OTHER + " (port 10001 is Ray Client's")


def test_nothing_listens():
    assert probe("127.0.0.1", free_port(), HANG) == "connection refused"


@pytest.mark.slow
def test_who_accepts_and_says_nothing_is_waited_for_no_longer_than_asked():
    with listening() as port:
        assert probe("127.0.0.1", port, 0.5) == "something accepts connections, but says nothing"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"-ERR unknown command\r\n", b"\x00" * 64],
)
def test_a_server_of_another_kind_is_no_head(answer):
    with listening(answer) as port:
        assert probe("127.0.0.1", port, HANG) == OTHER


def test_a_web_server_is_no_head():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert probe("127.0.0.1", server.server_address[1], HANG) == OTHER
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", ".."])
def test_a_name_that_does_not_resolve(host):
    assert probe(host, 6379, 30.0).startswith(f"the name {host} does not resolve")


def test_a_name_server_that_keeps_silent_is_not_waited_for(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait())
    try:
        assert probe("head", 6379, 0.2) == "the name head does not resolve (no name server answers)"
    finally:
        over.set()


@pytest.mark.parametrize(
    ("option", "variable", "text", "where"),
    [
        (None, None, None, None),
        ("", "", None, None),
        ("local", "head:6379", None, None),
        (None, "local", None, None),
        ("auto", "local", None, None),
        ("auto", None, "auto", "--address auto"),
        ("auto", "head:6379", "head:6379", "RAY_ADDRESS=head:6379"),  # as Ray has it
        (None, " head:6379 ", "head:6379", "RAY_ADDRESS=head:6379"),
        ("head:1", "head:6379", "head:1", "--address head:1"),
    ],
)
def test_which_address_is_meant(monkeypatch, option, variable, text, where):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    meant = address_of(option)
    assert (meant and meant.text, meant and meant.where) == (text, where)


FORMS = {
    "ray://127.0.0.1:10001": "Ray Client (ray://) cannot run a sweep; run the command on a node",
    "http://127.0.0.1:8265": "is an address of a dashboard, not of a cluster; write HOST:PORT",
    "https://head": "is an address of a dashboard, not of a cluster; write HOST:PORT",
    "anyscale://x": "Ray knows no anyscale:// here; write HOST:PORT",
    "://": "Ray knows no :// here; write HOST:PORT",
    **dict.fromkeys(
        ["garbage", "127.0.0.1", ":6379", "head:", "head:port", "head:0", "head:65536", "head:-1", "a b:6379", "\n:1"],
        "is no address of a Ray cluster; write HOST:PORT (6379 is Ray's usual port), auto or local",
    ),
}


@pytest.mark.parametrize("text", FORMS)
def test_what_can_be_no_address_is_refused_without_asking_anyone(monkeypatch, text):
    monkeypatch.setattr(address, "probe", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError) as refused:
        check_address(text)
    (problem,) = refused.value.problems
    assert str(problem).startswith(" ".join(f"--address {text.strip()}: {FORMS[text]}".split()))


@pytest.fixture
def as_written(monkeypatch):
    """Addresses as they are written: Ray makes another host of 127.0.0.1. An answer may take its time."""
    monkeypatch.setattr(address, "PATIENCE", HANG)
    monkeypatch.setattr(address, "_as_ray_does", lambda meant: ("127.0.0.1", int(meant.text.rpartition(":")[2])))


def test_every_command_refuses_a_cluster_that_is_not_there_before_it_writes(tmp_path, monkeypatch, as_written):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(SPEC)
    port = free_port()
    wanted = "no Ray cluster answers there: connection refused"
    with pytest.raises(UserError, match=f"^--address 127.0.0.1:{port}: {wanted}$"):
        sweep.main(["x.yaml", "--address", f"127.0.0.1:{port}", "--out", "out"])
    with pytest.raises(UserError, match=f"^--address 127.0.0.1:{port}: {wanted}$"):
        ingest.main(["species", "--address", f"127.0.0.1:{port}"])
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=f"^RAY_ADDRESS=127.0.0.1:{port}: {wanted}$"):
        sweep.main(["x.yaml", "--out", "out"])
    with pytest.raises(UserError, match=f"^RAY_ADDRESS=127.0.0.1:{port}: {wanted}$"), connect.connect():
        pass
    assert not Path("out").exists()
    sweep.main(["x.yaml", "--plan"])  # a plan starts no Ray


def test_a_machine_that_is_no_node_is_told_so(monkeypatch, as_written):
    monkeypatch.setattr(private_apis, "runs_node_here", lambda head, timeout: False)
    with speaking_grpc(HEALTH, ALIVE) as port, pytest.raises(UserError) as refused:
        check_address(f"127.0.0.1:{port}")
    assert str(refused.value) == (
        f"--address 127.0.0.1:{port}: this machine is no node of that cluster; run the command on one that is, or "
        "submit it with ray job submit"
    )


def test_an_automatic_address_that_is_left_over_is_probed_as_well(monkeypatch):
    """Ray remembers the latest cluster on disk, also when it was killed."""
    port = free_port()
    monkeypatch.setattr(address, "_as_ray_does", lambda meant: ("127.0.0.1", port))
    with pytest.raises(UserError) as refused:
        check_address("auto")
    wanted = f"--address auto: no Ray cluster answers there (127.0.0.1:{port}): connection refused"
    assert str(refused.value) == wanted


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_is_there_is_joined_and_one_without_nodes_here_is_not(monkeypatch):
    for name, value in connect.SETTINGS.items():
        monkeypatch.setenv(name, value)
    with raylets(1) as there:
        with connect.connect(there.address) as joined:
            assert not joined.local
        check_address(there.address)
        for node in list(there.worker_nodes):
            there.remove_node(node)
        there.head_node.kill_raylet()  # what is left is a head that answers, and no node
        monkeypatch.setattr(address, "NODE_PATIENCE", 2)
        wait_for(lambda: not private_apis.runs_node_here(there.address, 2))
        with pytest.raises(UserError, match="this machine is no node of that cluster"):
            check_address(there.address)


@pytest.mark.slow
def test_the_program_ends_with_2_and_one_line(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC)
    port = free_port()
    ended = subprocess.run(
        [sys.executable, "-m", "ray_robust.sweep", "x.yaml"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"}, timeout=HANG,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers there")


# --- the folder of Ray's sockets


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_temporary_folder_is_replaced_by_a_short_one_and_said(tmp_path, monkeypatch, name):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    short = Path("/tmp")
    monkeypatch.setattr(temporary_folder, "SHORT_FOLDERS", (str(tmp_path / "absent"), str(short)))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(temporary_folder.tempfile, "tempdir", str(long))
    if name == "RAY_TMPDIR":
        monkeypatch.setenv("RAY_TMPDIR", str(long))
    chosen, note = temporary_folder.folder_for_sockets()
    assert chosen == short
    most = temporary_folder.LONGEST_SOCKET - len(temporary_folder.SOCKET)
    assert (
        note
        == f"Ray's files lie in /tmp: {name} {long} is too long for the paths of its sockets (at most {most} bytes)"
    )
    monkeypatch.setattr(temporary_folder, "SHORT_FOLDERS", ())
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(UserError, match=r"is too long .*; set RAY_TMPDIR to a folder with a shorter path"):
        temporary_folder.folder_for_sockets()


def test_a_short_temporary_folder_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(temporary_folder.tempfile, "tempdir", "/tmp")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert temporary_folder.folder_for_sockets() == (Path("/tmp"), "")
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    assert temporary_folder.folder_for_sockets() == (Path("/var/tmp"), "")


def test_the_longest_socket_is_as_long_as_is_reckoned_with(tmp_path):
    """One byte less than allowed can be bound, one more cannot: the bound is the kernel's."""
    most = temporary_folder.LONGEST_SOCKET
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for length, can in ((most, True), (most + 1, False)):
            path = f"/proc/self/fd/{folder}/"
            path += "s" * (length - len(path))
            with socket.socket(socket.AF_UNIX) as bound, contextlib.ExitStack() as stack:
                if not can:
                    stack.enter_context(pytest.raises(OSError, match="too long"))
                bound.bind(path)
    finally:
        os.close(folder)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_with_a_temporary_folder_of_90_characters(tmp_path):
    """The dashboard's processes have sockets in TMPDIR as well, so that theirs must be short too."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    code = (
        "import os, ray\nfrom ray_robust.launch.cluster.connect import connect\n"
        "with connect() as cluster:\n"
        "    print(cluster.note)\n"
        "    print(ray.get(ray.remote(lambda: os.environ['TMPDIR']).remote()))\n"
        "print(os.environ['TMPDIR'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(long)}, capture_output=True,
                           text=True, timeout=HANG)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    note, of_workers, own = ended.stdout.splitlines()
    assert f"Ray's files lie in {of_workers}: TMPDIR {long} is too long" in note
    assert own == str(long)
    assert not list(long.iterdir())
