"""What docs/security.md promises: no code from files, nothing outside a folder, nobody else's eyes, no open port."""

from __future__ import annotations

import ast
import os
import pickle
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ray_robust.errors import UserError
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
MODULES = [file for part in ("ray_robust", "analysis", "bench") for file in sorted((ROOT / part).rglob("*.py"))]
# calls that run code from data, go through a shell, or leave the safety of a folder to luck
FORBIDDEN = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load",
             "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp", "joblib.load", "__import__"}  # fmt: skip


def calls(file: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call)]  # fmt: skip


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(file):
    for name, call in calls(file):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in FORBIDDEN, f"line {call.lineno}: {name}"
        assert not name.endswith(".extractall"), f"line {call.lineno}: unpack by data.archive"
        assert given.get("shell", "False") == "False", f"line {call.lineno}: a shell"
        assert given.get("allow_pickle", "False") == "False", f"line {call.lineno}: allow_pickle"
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"line {call.lineno}: torch.load unpickles anything"


BOMB = "!!python/object/apply:os.system ['touch {}']"


@pytest.mark.parametrize("key", ["question: ", "task: ", "pretrain: {num_images: 3, sources: {species: "])
def test_a_spec_runs_nothing(tmp_path, key):
    file, trace = tmp_path / "bad.yaml", tmp_path / "trace"
    file.write_text(key + BOMB.format(trace) + ("}}" if "{" in key else "") + "\n")
    with pytest.raises(UserError):
        load_spec(file)
    assert not trace.exists()


def test_the_spec_of_a_run_folder_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "spec.yaml").write_text(f"question: {BOMB.format(trace)}\n")
    with pytest.raises(UserError, match=r"spec\.yaml: is damaged: it is not a spec any more"):
        RunFolder(tmp_path).spec()
    assert not trace.exists()


def test_weights_run_nothing(tmp_path):
    from ray_robust.train.methods import weights

    trace = tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"conv1.weight": Bomb()}, protocol=2))
    with pytest.raises(Exception, match=r"(?i)weights|unpickl|read"):
        weights.read_tensors(tmp_path / "w.pth")
    assert not trace.exists()


OWN = """
import os, sys
from pathlib import Path
os.umask(0o{umask:o})
from ray_robust.run.run_folder import RunFolder
run = RunFolder(sys.argv[1] + "/run")
run.write("spec.yaml", "question: a?")
run.trial("a-1").fail("why")
from ray_robust.launch.monitor.loggers import Csv
folder = Path(sys.argv[1], "run/track"); folder.mkdir()
Csv("how", folder, {{}}, None)
sys.path.insert(0, "tests")
from test_store import Drawn
from ray_robust.data.images.store import ImageStore
ImageStore.open(Path(sys.argv[1], "run/store"), Drawn(), 4).fill([1, 2, 3])
"""


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o027, 0o640, 0o750)])
def test_files_have_the_permissions_that_the_user_gives_files(tmp_path, umask, file, folder):
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OWN).format(umask=umask), str(tmp_path)], check=True, cwd=ROOT
    )
    made = list((tmp_path / "run").rglob("*"))
    assert len(made) >= 12
    for path in made:
        wanted = folder if path.is_dir() else file
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


LISTENS = """
import json, os, stat, psutil
os.umask(0)
from ray_robust.launch.cluster.connect import connect
with connect() as cluster:
    own = {process.pid for process in [psutil.Process(), *psutil.Process().children(recursive=True)]}
    open_ = [c.laddr.ip for c in psutil.net_connections("tcp") if c.pid in own and c.status == psutil.CONN_LISTEN]
    print(json.dumps({"addresses": open_, "mode": stat.S_IMODE(cluster.scratch.stat().st_mode)}))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_on_loopback_alone_and_its_folder_is_private():
    import json

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", LISTENS], capture_output=True, text=True, check=True, cwd=ROOT,
                          env=environment)  # fmt: skip
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["addresses"]) >= 5, "GCS, raylet, dashboard, agents"
    assert {address.removeprefix("::ffff:") for address in seen["addresses"]} == {"127.0.0.1"}
    assert seen["mode"] == 0o700


STRANGER = """
import http.client, json, os, sys
import copy, encodings.idna, grpc, grpc._channel  # before this account is left, which may read no library
os.setgroups([]); os.setgid(65534); os.setuid(65534)
METHODS = ("InternalKVGcsService/InternalKVKeys", "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull",
           "CoreWorkerService/GetCoreWorkerStats", "ReporterService/GetTraceback")

def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0

def call(port, method):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}", bytes, bytes)(b"", timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"

print(json.dumps({port: [*(get(port, path) for path in ("/metrics", "/api/jobs/", "/api/version")),
                         *(call(port, method) for method in METHODS)] for port in json.loads(sys.argv[1])}))
"""
WITH_NEIGHBOURS = f"""
import json, subprocess, sys, psutil
from ray_robust.launch.cluster import connect
connect.others = lambda: "this machine has the account ann"
with connect.connect() as there:
    import ray
    ray.get(ray.remote(lambda: None).remote())
    own = {{process.pid for process in [psutil.Process(), *psutil.Process().children(recursive=True)]}}
    ports = [c.laddr.port for c in psutil.net_connections("tcp") if c.pid in own and c.status == psutil.CONN_LISTEN]
    done = subprocess.run([sys.executable, "-c", {STRANGER!r}, json.dumps(ports)], capture_output=True, text=True,
                          check=True)
    print(json.dumps({{"answers": json.loads(done.stdout), "dashboard": there.dashboard, "locked": there.locked}}))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_another_account_of_this_machine_is_turned_away_at_every_port(tmp_path):
    import json

    left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run([sys.executable, "-c", WITH_NEIGHBOURS], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={**environment, "HOME": str(tmp_path)})  # fmt: skip
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["locked"]
    assert seen["dashboard"].rpartition(":")[2] in seen["answers"]
    assert len(seen["answers"]) >= 5, "GCS, raylet, dashboard, agents, workers"
    for port, answers in seen["answers"].items():
        assert not {200, "OK"} & set(answers), (port, answers)
        assert {401, "UNAUTHENTICATED"} & set(answers), (port, answers)


# --- the audit


def audit():
    import importlib.util

    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_audit_says_when_it_could_not_check():
    lines, code = audit().told("", "Traceback ...\nConnectionError: Max retries exceeded\n")
    assert (code, lines) == (0, ["audit: NOT CHECKED, the index of vulnerabilities could not be asked: "
                                 "ConnectionError: Max retries exceeded"])  # fmt: skip


def test_an_index_that_knows_no_package_is_none():
    report = '{"dependencies": [{"name": "a", "skip_reason": "a not found (1.0)"}, {"name": "b", "skip_reason": "b"}]}'
    lines, code = audit().told(report, "No known vulnerabilities found")
    assert code == 0
    assert lines == ["audit: NOT CHECKED, the index of vulnerabilities could not be asked: a not found (1.0)"]


@pytest.mark.parametrize("report", ["", '{"dependencies": [{"name": "a", "skip_reason": "a not found (1.0)"}]}'])
def test_what_nobody_could_check_is_not_released(report):
    lines, code = audit().told(report, "", release=True)
    assert code == 2
    assert lines[0].startswith("audit: NOT CHECKED")


def test_the_audit_fails_for_what_an_update_mends_alone():
    known = '{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": [%s]}]}'
    report = '{"dependencies": [%s, {"name": "b", "version": "2", "vulns": []}, {"name": "c", "skip_reason": "local"}]}'
    lines, code = audit().told(report % (known % ""), "")
    assert code == 0
    assert lines == ["a 1: X-1, not mended yet",
                     "audit: 2 packages checked, 1 vulnerabilities known, 0 mended by an update"]  # fmt: skip
    lines, code = audit().told(report % (known % '"1.1"'), "")
    assert code == 1
    assert lines[0] == "a 1: X-1, mended in 1.1"
