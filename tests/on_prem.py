"""`ray up cluster/on-prem.yaml` for real, on this machine: sshd, a job, status, Prometheus, `ray down`, nothing left.

    python tests/on_prem.py [--limit N] [--set KEY=VALUE]...        as root, with openssh-server, rsync and iproute2

Everything runs in network, process and mount namespaces of its own, so that port 22, Ray's ports and `ray stop` (which
ends every Ray that it sees) touch nothing else here. The last line is a JSON object of what was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from deadlines import HANG, wait_for

ROOT = Path(__file__).parents[1]
TOOLS = ("unshare", "ip", "ss", "rsync", "curl", "ssh", "ssh-keygen", "pgrep", "/usr/sbin/sshd")
DASHBOARD, PROMETHEUS = "http://127.0.0.1:8265", "http://127.0.0.1:9090"


def missing() -> str:
    """What this cannot be run for; "" when it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    alone = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"]
    if os.getuid() != 0 or subprocess.run(alone, capture_output=True, check=False).returncode:
        return "needs root and namespaces of its own"
    return ""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="ray up, a job, status, ray down: on this machine, in namespaces.")
    parser.add_argument("--limit", type=int, default=None, help="only the first N trials of sweeps/quickstart.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the spec")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside is None:
        if reason := missing():
            print(reason, file=sys.stderr)
            return 2
        with tempfile.TemporaryDirectory(prefix="rr-on-prem-") as scratch:
            alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
            here = [sys.executable, __file__, *argv, "--inside", scratch]
            return subprocess.run([*alone, *here], check=False).returncode
    job = [f"--set={value}" for value in args.set] + ([f"--limit={args.limit}"] if args.limit else [])
    print(json.dumps(run(Path(args.inside), job)))
    return 0


def run(scratch: Path, job: list[str]) -> dict:
    """All the steps, inside the namespaces; raises where one fails."""
    home, seen, clock = prepare(scratch), {}, {}
    environment = {**os.environ, **variables(home, scratch)}
    environment["PATH"] = f"{home}/env/bin:{os.environ['PATH']}"

    def step(name: str, *command: str) -> str:
        begun = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
                              timeout=HANG)  # fmt: skip
        clock[name] = round(time.monotonic() - begun, 1)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        print(f"--- {name}: {clock[name]} s", flush=True)
        return done.stdout

    step("token", "ray", "get-auth-token", "--generate")
    cluster = configure(home, scratch)
    step("ray up", "ray", "up", "-y", "--no-config-cache", str(cluster))
    seen["without_token"] = answer(f"{DASHBOARD}/api/jobs/")
    seen["open_to_others"] = listening()
    runs = scratch / "runs" / "quickstart"
    with prometheus(scratch) as metrics:
        command = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--", "python", "-m",
                   "ray_robust.sweep", "sweeps/quickstart.yaml", "--out", str(runs), *job]  # fmt: skip
        begun, log = time.monotonic(), scratch / "job.log"
        with open(log, "w") as told:
            submitted = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT)
            wait_for(lambda: metrics.look() or submitted.poll() is not None, 1.0)
        clock["job"] = round(time.monotonic() - begun, 1)
    print(log.read_text())
    if submitted.returncode:
        raise SystemExit(f"the job ended with {submitted.returncode}")
    print(f"--- job: {clock['job']} s", flush=True)
    status = step("status", sys.executable, "-m", "ray_robust.status", str(runs))
    print(status)
    step("ray down", "ray", "down", "-y", str(cluster))
    reap()
    left = subprocess.run(
        ["pgrep", "-a", "raylet|gcs_server|ray::|dashboard"], capture_output=True, text=True, check=False
    )
    seen |= {
        "seconds": clock,
        "status": next(line for line in status.splitlines() if " trials: " in line),
        "report": (runs / "report/index.html").exists(),
        "left_over": left.stdout.splitlines(),
        "metrics": sorted(metrics.names),
        "er": metrics.er,
    }
    return seen


def reap() -> None:
    """Bury the dead: this is the first process here, whose children all orphans become."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def variables(home: Path, scratch: Path) -> dict[str, str]:
    """The environment of the user on both ends of ssh."""
    return {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ROBUST_CACHE": str(scratch / "cache"),
        "RAY_ROBUST_STORE": str(scratch / "store"),
        "OMP_NUM_THREADS": "1",
    }


def prepare(scratch: Path) -> Path:
    """A home folder with this environment as ~/env, folders of this namespace, and sshd; returns the home folder."""
    home, ray = scratch / "home", Path("/tmp/ray")
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\n")
    (home / "env").symlink_to(sys.prefix)
    ray.mkdir(exist_ok=True)
    (scratch / "ray").mkdir()
    for command in (f"mount --bind {scratch / 'ray'} {ray}", "mount -t tmpfs tmpfs /run", "mkdir /run/sshd",
                    "ip link set lo up"):  # fmt: skip
        subprocess.run(command.split(), check=True)
    for key in ("host", "user"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(scratch / key)]
        subprocess.run(made, check=True)
    shutil.copy(scratch / "user.pub", scratch / "authorized")
    told = " ".join(f'{name}="{value}"' for name, value in variables(home, scratch).items())
    (scratch / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:22\nHostKey {scratch}/host\nAuthorizedKeysFile {scratch}/authorized\nStrictModes no\n"
        f"PasswordAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\nSetEnv {told}\n"
    )
    subprocess.run(["/usr/sbin/sshd", "-f", str(scratch / "sshd_config"), "-E", str(scratch / "sshd.log")], check=True)
    return home


def configure(home: Path, scratch: Path) -> Path:
    """cluster/on-prem.yaml for a head alone, which is this machine."""
    cluster = yaml.safe_load((ROOT / "cluster/on-prem.yaml").read_text())
    cluster["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(scratch / "user")}
    cluster |= {"min_workers": 0, "max_workers": 0}
    # this environment is what is tested, whatever its releases; the lock's would be downloaded
    cluster["setup_commands"] = [one for one in cluster["setup_commands"] if "requirements.lock" not in one]
    file = scratch / "on-prem.yaml"
    file.write_text(yaml.safe_dump(cluster, sort_keys=False))
    return file


def answer(address: str) -> int:
    """The HTTP status of a request that holds no token."""
    try:
        with urllib.request.urlopen(address, timeout=HANG) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def listening() -> list[str]:
    """Who listens on more than loopback, by program."""
    lines = subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    wide = [line for line in lines if not line.split()[3].startswith(("127.", "[::1]"))]
    return sorted({line.partition('(("')[2].partition('"')[0] for line in wide})


class Metrics:
    """What Prometheus has seen of this project."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.er: dict[str, float] = {}

    def look(self) -> None:
        try:
            names = self._ask("label/__name__/values")
            self.names |= {name for name in names if name.startswith("ray_rr_")}
            for found in self._ask("query?query=ray_rr_er")["result"] if "ray_rr_er" in names else ():
                self.er[found["metric"]["group"]] = round(float(found["value"][1]), 2)
        except OSError:
            return

    def _ask(self, what: str):
        with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/{what}", timeout=HANG) as response:
            return json.load(response)["data"]


@contextmanager
def prometheus(scratch: Path) -> Iterator[Metrics]:
    """Prometheus with the project's own configuration, where it is installed."""
    metrics = Metrics()
    if shutil.which("prometheus") is None:
        yield metrics
        return
    command = ["prometheus", f"--config.file={ROOT}/cluster/prometheus.yml", f"--storage.tsdb.path={scratch}/tsdb",
               "--web.listen-address=127.0.0.1:9090"]  # fmt: skip
    with open(scratch / "prometheus.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield metrics
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
