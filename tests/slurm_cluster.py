"""`sbatch cluster/slurm.sbatch` for real, on this machine: a cluster of Slurm with two nodes, its time limit, two jobs.

    python tests/slurm_cluster.py [--keep DIR]       as root, with slurmctld, slurmd, munge and iproute2

The controller and each node run in network, process and mount namespaces of their own, so that two nodes have two
addresses and no daemon of the machine is touched; whatever was started ends with the first of them. Each node has two
GPUs in Slurm's books alone: what is seen is that Ray gets as many as were allotted. The last line is a JSON object of
what was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deadlines import HANG, wait_for

ROOT = Path(__file__).parents[1]
TOOLS = ("unshare", "ip", "munged", "slurmctld", "slurmd", "sbatch", "scontrol")
DEVICES = "ip link add br0 type bridge && ip link add veth0 type veth peer name veth1"  # what a node is joined by
ALONE = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
NODES = {"n1": "10.77.0.11", "n2": "10.77.0.12"}
CONTROLLER = "10.77.0.1"
LONG = 40  # seconds that each pre-training takes of a job that is to be interrupted, with another job beside it,
LEAST = 50_000  # and images, where the machine was busier when it was measured
# nothing here depends on how busy the machine is
PATIENT = {"RAY_ROBUST_TIME_TO_SAVE": "1500", "RAY_ROBUST_TIME_TO_START": "1500", "RAY_ROBUST_STARTS": "20"}
SPEC = """
task: {name: camera-traps, train_images: 2000, id_val_images: 200, id_test_images: 200, ood_val_images: 200,
       ood_test_images: 200}
model: {name: test_byobnet, image_size: 32}
pretrain: {sources: {species: {weight: 1, species: 50}}, num_images: 1000, images_seen: IMAGES}
finetune: {epochs: 2, batch_size: 64, lr: 1e-3}
seeds: 2
baseline: none
resources: {gpus_per_worker: 0}
"""
PATHS = os.environ["PATH"] + ":/usr/sbin:/sbin"


def missing() -> str:
    """What this cannot be run for; "" when it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool, path=PATHS) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if os.getuid() != 0 or subprocess.run([*ALONE, "sh", "-c", DEVICES], capture_output=True, check=False).returncode:
        return "needs root, namespaces of its own and virtual network devices"
    return ""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="A cluster of Slurm on this machine, and jobs in it.")
    parser.add_argument("--keep", metavar="DIR", help="a new folder for everything, that stays")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ["PATH"] = PATHS
    if args.inside is not None:
        print(json.dumps(run(Path(args.inside))))
        return 0
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rr-slurm-", dir="/var/tmp") as made:
        scratch = Path(args.keep or made)
        scratch.mkdir(parents=True, exist_ok=True)
        here = [sys.executable, __file__, *argv, "--inside", str(scratch)]
        return subprocess.run([*ALONE, *here], check=False).returncode


def run(scratch: Path) -> dict:
    """All the steps, inside the controller's namespaces; raises where one fails."""
    start(scratch)
    runs, few = scratch / "runs", 10_000
    write_spec(scratch / "short.yaml", few)
    seen = {"array": array_on_a_node(scratch, runs)}
    # Slurm looks at limits every thirty seconds: on any machine the trainings of the other jobs take longer
    facts = [json.loads(file.read_text()) for file in runs.glob("short-*/trials/*/trial.json")]
    rate = few / min(fact["seconds_pretrain"] for fact in facts)
    write_spec(scratch / "long.yaml", max(LEAST, round(LONG * rate)))
    seen["limit"] = over_time(scratch, runs)
    return seen | {"left_over": [words[0] for words in processes_of_ray()]}


def write_spec(file: Path, images: int) -> None:
    """A spec of two trials that pre-train on so many images."""
    file.write_text(SPEC.replace("IMAGES", str(images)))


def array_on_a_node(scratch: Path, runs: Path) -> dict:
    """An array of three on the first node, with a GPU each: the ports of the heads that ran there at once; of every job
    its scores, what Ray got, and how many pre-trainings it had to do. The third begins when there is room."""
    options = ("--nodelist=n1", "--array=1-3", "--gpus-per-node=1", "--time=60")
    jobs = submit(scratch, *options, spec="short", out=runs / "short-%a")
    ports: set[str] = set()

    def ended() -> bool:
        states = queue(jobs)
        heads = [word for words in processes_of_ray() for word in words if word.startswith("--gcs_server_port=")]
        if not ports and len(heads) == 2 and [state[1:] for state in states].count(("RUNNING", "n1")) == 2:
            ports.update(heads)
            print(command("squeue"), flush=True)
        return not states

    wait_for(ended, 1.0)
    logs = show_logs(scratch)
    return {
        "ports": sorted(ports),
        "scores": [scores(runs / f"short-{number}") for number in (1, 2, 3)],
        "resources": [re.findall(r"nodes of Ray are there: (.*)", log) for log in logs],
        "pretrainings": [re.findall(r"to do (no|\d+ of \d+) pre-trainings", log) for log in logs],
    }


def over_time(scratch: Path, runs: Path) -> dict:
    """A job on both nodes that its time limit interrupts, and that continues; beside it the same sweep without a limit,
    with checkpoints of its own."""
    job = submit(scratch, "--nodes=2", "--time=60", "--signal=B:USR1@90", spec="long", out=runs / "limited")
    whole = submit(scratch, "--nodes=2", "--time=60", spec="long", out=runs / "apart" / "whole")
    wait_for(lambda: training(runs / "limited") == 2)
    command("scontrol", "update", f"jobid={job}", "endtime=now+80")
    print(command("squeue", "--Format=jobid,state,timeused,timelimit,timeleft,nodelist"), flush=True)
    log = scratch / f"slurm-{job}.log"
    wait_for(lambda: "the time limit is near" in log.read_text())
    command("scontrol", "update", f"jobid={job}", "timelimit=60")  # as much for saving as it takes
    states: list[str] = []

    def ended() -> bool:
        now = queue(job)
        if now and now[0][1] not in states[-1:]:
            states.append(now[0][1])
            print(command("squeue"), flush=True)
        return not now

    wait_for(ended, 0.25)
    wait_for(lambda: not queue(whole), 1.0)
    show_logs(scratch)
    print(command(sys.executable, "-m", "ray_robust.status", str(runs / "limited"), cwd=ROOT), flush=True)
    attempts = [json.loads(file.read_text()) for file in sorted((runs / "limited/trials").glob("*/attempts.json"))]
    return {
        "states": states,
        "interrupted": [attempt["reason"] for each in attempts for attempt in each],
        "report": (runs / "limited/report/index.html").exists(),
        "images": {"limited": images(runs / "limited"), "whole": images(runs / "apart/whole")},
        "scores": {"limited": scores(runs / "limited"), "whole": scores(runs / "apart/whole")},
    }


# --- the cluster


def start(scratch: Path) -> None:
    """munge, slurmctld and two nodes with a slurmd each; returns once both nodes are idle."""
    for line in (
        "mount --make-rprivate /",
        "mount -t tmpfs tmpfs /run",
        "hostname ctl",
        "ip link set lo up",
        "ip link add br0 type bridge",
        f"ip addr add {CONTROLLER}/24 dev br0",
        "ip link set br0 up",
    ):
        subprocess.run(line.split(), check=True)
    names = "".join(f"{address} {name}\n" for name, address in {"ctl": CONTROLLER, **NODES}.items())
    (scratch / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    subprocess.run(["mount", "--bind", str(scratch / "hosts"), "/etc/hosts"], check=True)
    munge = scratch / "munge"
    munge.mkdir(mode=0o755)
    scratch.chmod(0o755)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    files = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    subprocess.run(["munged", "--force", f"--key-file={munge / 'key'}", *files], check=True)
    (scratch / "state").mkdir()
    (scratch / "slurm.conf").write_text(configuration(scratch))
    for number in (0, 1):
        (scratch / f"gpu{number}").touch()
    (scratch / "gres.conf").write_text(f"Name=gpu File={scratch}/gpu[0-1]\n")
    prolog = scratch / "prolog"
    prolog.write_text(
        '#!/bin/sh\nmkdir -p "/tmp/job-$SLURM_JOB_ID"\necho "export SLURM_TMPDIR=/tmp/job-$SLURM_JOB_ID"\n'
    )
    prolog.chmod(0o755)
    os.environ["SLURM_CONF"] = str(scratch / "slurm.conf")
    daemons = {"slurmctld": subprocess.Popen(["slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)}
    daemons |= {name: add_node(scratch, name, address) for name, address in NODES.items()}

    def idle() -> bool:
        for name, process in daemons.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}:\n{(scratch / f'{name}.log').read_text()}")
        asked = ["sinfo", "--noheader", "--format=%T %D"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split() == ["idle", "2"]

    wait_for(idle, 0.5)
    print(command("sinfo"), flush=True)


def add_node(scratch: Path, name: str, address: str) -> subprocess.Popen[bytes]:
    """A node in namespaces of its own, joined by a pair of virtual network devices, with a /tmp of its own."""
    inside = (f"hostname {name}; mount -t tmpfs tmpfs /tmp; ip link set lo up; read go; "
              f"ip addr add {address}/24 dev eth0; ip link set eth0 up; exec slurmd -D -N {name}")  # fmt: skip
    process = subprocess.Popen(
        [*ALONE, "sh", "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pid = wait_for(lambda: children.read_text().strip())
    for line in (f"ip link add {name} type veth peer name eth0 netns {pid}", f"ip link set {name} master br0 up"):
        subprocess.run(line.split(), check=True)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process


def configuration(scratch: Path) -> str:
    """slurm.conf. A job that was requeued waits for as long as its credential was valid."""
    each = "CPUs=2 RealMemory=1000 Gres=gpu:2"
    nodes = "\n".join(f"NodeName={name} NodeAddr={address} {each}" for name, address in NODES.items())
    return f"""ClusterName=test
SlurmctldHost=ctl({CONTROLLER})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={scratch}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool-%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/%n.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={scratch}/prolog
SelectType=select/cons_tres
GresTypes=gpu
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
MpiDefault=none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


# --- what is seen of it


def command(*words: str, **more) -> str:
    """What a command prints; raises where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=HANG, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def submit(scratch: Path, *options: str, spec: str, out: Path) -> str:
    """Submit a job, show the queue and return the job's number."""
    environment = {**os.environ, **PATIENT, "RAY_ROBUST_CACHE": str(scratch / "cache"), "OMP_NUM_THREADS": "1"}
    words = ["sbatch", "--parsable", f"--output={scratch}/slurm-%j.log", *options, "cluster/slurm.sbatch",
             str(scratch / f"{spec}.yaml"), "--out", str(out)]  # fmt: skip
    print("$", *words, flush=True)
    job = command(*words, cwd=ROOT, env=environment).strip()
    print(command("squeue"), flush=True)
    return job


def queue(job: str) -> list[tuple[str, ...]]:
    """Number, state and nodes of a job, or of the jobs of an array, that have not ended."""
    rows = command("squeue", "--noheader", "--array", "--format=%i|%T|%N").splitlines()
    return [tuple(row.split("|")) for row in rows if row.partition("|")[0].partition("_")[0] == job]


def training(run: Path) -> int:
    """How many trials of a run have begun to train."""
    files = (run / "trials").glob("*/progress.json")
    return sum(json.loads(file.read_text()).get("share", 0) > 0 for file in files)


def processes_of_ray() -> list[list[str]]:
    """The arguments of every process of Ray on all nodes; this namespace sees theirs. The dead have none."""
    seen = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = file.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            if words[0].startswith("ray::") or Path(words[0]).name in ("raylet", "gcs_server"):
                seen.append(words)
    return seen


def show_logs(scratch: Path) -> list[str]:
    """Print what the jobs have printed, put it aside and return it."""
    logs = []
    for log in sorted(scratch.glob("slurm-*.log")):
        logs.append(log.read_text())
        print(f"--- {log.name}\n{logs[-1]}", flush=True)
        log.rename(log.with_suffix(".shown"))
    return logs


def scores(run: Path) -> list[list[str]]:
    """Trial, ID and OOD score of each row of a run's results."""
    with open(run / "results.csv") as file:
        return [[row["trial"], row["id"], row["ood"]] for row in csv.DictReader(file)]


def images(run: Path) -> dict[str, int]:
    """How many images each trial of a run was trained on in all its attempts: too many where one began anew."""
    return {file.parent.name: json.loads(file.read_text())["worked"] for file in run.glob("trials/*/progress.json")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
