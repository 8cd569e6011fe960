"""cluster/slurm.sbatch without Slurm: a line for each mistake, options that Ray knows; how a job's cluster is left.
test_slurm_live.py runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from deadlines import HANG, wait_for
from ray.scripts.scripts import start

from ray_robust.errors import DONE, FAILED, UserError
from ray_robust.launch.cluster import batch_job, private_apis
from ray_robust.launch.cluster.address import Address

SCRIPT = Path(__file__).parents[1] / "cluster/slurm.sbatch"


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["x.yaml"], {}, "is a job of Slurm: sbatch cluster/slurm.sbatch SPEC.yaml --out DIR"),
        ([], {"SLURM_JOB_ID": "1"}, "no spec; sbatch [OPTIONS] cluster/slurm.sbatch SPEC.yaml --out DIR"),
        (["x.yaml", "--out", "x"], {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3"},
         "every job of an array needs a folder of its own: --out runs/x-%a, of its number"),
        (["x.yaml", "--set", "seeds=%a", "--out=x"], {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3"},
         "every job of an array needs a folder of its own: --out runs/x-%a, of its number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, variables, message):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SLURM_")}
    command = ["bash", str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"slurm.sbatch: {message}\n")


@pytest.mark.parametrize("out", [["--out", "x-%a"], ["--out=x-%a"]])
def test_a_job_of_an_array_has_its_number_in_the_folder(tmp_path, out):
    variables = {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(["bash", str(SCRIPT), "x.yaml", *out], env={**os.environ, **variables}, cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "needs a folder of its own" not in done.stderr


def test_elsewhere_than_in_the_checkout_the_reason_is_the_last_words_of_python(tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'Traceback ...\nModuleNotFoundError: ray' >&2\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(["bash", str(SCRIPT), "x.yaml"], env={**os.environ, "SLURM_JOB_ID": "1"}, cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("slurm.sbatch: run sbatch from the root of the checkout, with .venv there or ")
    assert done.stderr.endswith("active: ModuleNotFoundError: ray\n")


@pytest.mark.parametrize(("node", "address"), [("192.0.2.7", "192.0.2.7"), ("127.0.1.1", "own")])
def test_a_node_is_where_slurm_has_it_and_at_loopback_only_without_a_network(node, address, tmp_path):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho 'NodeName=n1 Arch=x NodeAddr={node} NodeHostName=n1'\n")
    (tmp_path / "scontrol").chmod(0o755)
    function = re.search(r"^address_here.*?^}$", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert function is not None
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", f"{function[0]}\naddress_here"], env={**os.environ, "PATH": path},
                          capture_output=True, text=True, check=True)  # fmt: skip
    if address == "own":
        routes = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
        assert done.stdout.strip() in routes or not routes
    else:
        assert done.stdout.strip() == address


def test_ray_knows_every_option_that_nodes_are_started_with():
    text = SCRIPT.read_text()
    part = text[text.index("options=(") : text.index("export RAY_GRACEFUL")]
    given = set(re.findall(r"(?<=[ (])(--[a-z-]+)", part.replace("ray health-check --address", "")))
    assert len(given) > 8
    assert given <= {option for parameter in start.params for option in parameter.opts}


STUB = """#!/bin/bash
[ "$1" = start ] || exit 0
echo start >> "$STARTS_SEEN"
[ $(wc -l < "$STARTS_SEEN") -ge GOOD ] || { echo 'The current node timed out during startup.'; exit 1; }
echo 'Ray runtime started.'
exec tail -f /dev/null
"""


def node_with(good: int, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """The script on a node whose Ray starts at the `good`th attempt, and the file with a line for each attempt."""
    seen = folder / "starts"
    seen.touch()
    scontrol = "#!/bin/sh\necho 'NodeName=n1 NodeAddr=192.0.2.7'\n"
    for name, text in (("ray", STUB.replace("GOOD", str(good))), ("scontrol", scontrol), ("sleep", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                   "SLURM_PROCID": "0", "SLURMD_NODENAME": "n1", "STARTS_SEEN": str(seen)}  # fmt: skip
    command = ["bash", str(SCRIPT), "--node", "192.0.2.7:20002", str(folder / "ray-files")]
    node = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return node, seen


def test_ray_that_does_not_come_up_in_time_is_started_again_and_ends_with_its_job(tmp_path):
    node, seen = node_with(2, tmp_path)
    wait_for(lambda: len(seen.read_text().split()) == 2)
    _, errors = node.communicate(timeout=HANG)  # closes standard input
    assert (node.returncode, errors) == (0, "")
    assert not (tmp_path / "ray-files-0").exists()


def test_ray_that_never_comes_up_fails_with_its_last_words(tmp_path):
    node, seen = node_with(9, tmp_path)
    assert node.wait(timeout=HANG) == 1
    assert node.stdin is not None
    assert node.stderr is not None
    node.stdin.close()
    assert node.stderr.read() == "The current node timed out during startup.\n"
    assert seen.read_text().split() == ["start"] * 3


def test_a_head_that_ends_while_it_is_asked_is_asked_again(monkeypatch):
    answers = iter([ConnectionError("the head went away\nand more"), None])

    def init(**_: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(batch_job, "probe", lambda *_: "")
    monkeypatch.setattr(batch_job, "POLL", 0)
    monkeypatch.setattr(ray, "init", init)
    head = Address("head:1", "RAY_ADDRESS")
    assert batch_job._connect(head, time.monotonic() + HANG) == ""
    answers = iter([ConnectionError("the head went away\nand more")])
    assert batch_job._connect(head, time.monotonic() - 1) == "ConnectionError: the head went away"


def test_there_is_time_to_save_before_the_limit():
    text = SCRIPT.read_text()
    (before,), (save,) = (
        re.findall(r"--signal=B:USR1@(\d+)", text),
        re.findall(r"^TIME_TO_SAVE=\S+:-(\d+)", text, re.MULTILINE),
    )
    assert int(save) < int(before)


@pytest.mark.parametrize("address", ["", "head", "head:x"])
def test_an_address_that_is_none_is_said(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"RAY_ADDRESS.*HOST:PORT"):
        batch_job.main(["leave"])


def test_leaving_drains_the_nodes_that_are_there_and_waits_for_the_trials(monkeypatch, capsys):
    drained, running = [], iter([2, 2, 1, 0])
    nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}, {"NodeID": "c", "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(private_apis, "drain_node", lambda address, node, reason, deadline: drained.append(node))
    monkeypatch.setattr(private_apis, "living_actors", lambda: next(running))
    monkeypatch.setattr(batch_job, "POLL", 0)
    assert batch_job.drain("head:1", time.monotonic() + HANG) == DONE
    assert drained == ["a", "c"]
    assert capsys.readouterr().out == "all trials have saved their states\n"


def test_trials_that_do_not_end_are_left_to_their_latest_states(monkeypatch, capsys):
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(private_apis, "living_actors", lambda: 3)
    assert batch_job.drain("head:1", time.monotonic()) == FAILED
    assert capsys.readouterr().out.startswith("3 workers of trials have not ended")


def test_a_node_that_does_not_come_is_no_reason_to_wait_for_ever(monkeypatch, capsys):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    assert batch_job.await_nodes(2, time.monotonic()) == DONE
    assert capsys.readouterr().out == "1 of 2 nodes of Ray are there: 4 CPUs, 0 GPUs\n"
