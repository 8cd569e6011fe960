"""Fault injection: kill parts of a sweep at random moments, and compare the results with those of an undisturbed run.

A moment is a share of the work that is done, read from the run folder, so that a kill always hits a sweep at work.

    python tests/soak.py [SPEC.yaml] --kills 50 --victim mixed --seed 1 [--trials 20] [--set KEY=VALUE ...]

victims   driver: kill -9 of the command, which is then run again; worker: of one training process; mixed: either by
          chance; node: of one raylet of three on this machine, with all that runs on it, and another takes its place;
          head: of that cluster's head, after which the command ends by itself and is run again on a new cluster;
          stop: no kill, but SIGSTOP of one training process for longer than its heartbeat, then SIGCONT
aims      --aim ingest start results report --aimed 10: beside those, so many kill -9 of the command within each stage
          (filling the store, Ray's start, results.csv, the report), at an instant drawn within it
Prints every kill and, last, one JSON object: kills, runs of the command, resumes, seconds of both sweeps, the work done
twice in per cent beside one epoch per trial that was hit, stages that were done twice, images in the store, and whether
every score is the same. Exit code 1 when one is not, or a finished stage was done again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import psutil
from deadlines import HANG
from soak_measures import (
    done_twice,
    epochs_of,
    hung,
    images_in,
    needed_images,
    running_trials,
    share_done,
    workers_of,
)

from ray_robust.errors import FAILED
from ray_robust.run.run_folder import RunFolder

SCORES = ["upstream_accuracy", "id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy"]
SAME = ["trial", "group", "status", "finetune", "epoch", "step", *SCORES]
LEAVING = 60.0  # seconds in which the processes of the last cluster must have ended
STAGES = ("ingest", "start", "results", "report")  # of a command, that kills are aimed at
HEARTBEAT = "resources.heartbeat=20"  # seconds without one that `stop` waits out, where no --set says otherwise
AGAIN = 5  # times that the command is run again at the end, for trials that were quarantined
SHORT = """
# Question: Do short trials survive?
task: {{name: camera-traps, train_images: 400, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}}
pretrain: {{sources: {{species: 1.0}}, num_images: {{grid: [400, 600, 800, 1000]}}, images_seen: 12800}}
finetune: {{epochs: 4, lr: {{grid: [1e-3, 3e-3]}}, evaluate_every: 2}}
seeds: {seeds}
baseline: none
"""


class Command:
    """The sweep as a user runs it, in a process group and with caches of its own. `stages` are the seconds of each."""

    stages: dict[str, float]

    def __init__(self, spec: str, home: Path, settings: list[str], address: str | None = None) -> None:
        self.home, self.out, self.runs, self.address = home, home / "run", 0, address
        self.spec, self.settings, self.seconds = spec, settings, 0.0
        self.words = [sys.executable, "-m", "ray_robust.sweep", spec, "--out", str(self.out)]
        self.words += [word for setting in settings for word in ("--set", setting)]
        home.mkdir()

    def start(self) -> subprocess.Popen:
        self.runs += 1
        caches = {"RAY_ROBUST_STORE": str(self.home / "store"), "RAY_ROBUST_CACHE": str(self.home / "cache")}
        words = [*self.words, "--address", self.address] if self.address else self.words
        with open(self.home / "log.txt", "a") as log:
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **caches},
                                    start_new_session=True)  # fmt: skip

    def log(self) -> str:
        return (self.home / "log.txt").read_text()

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.out / "results.csv")


class Hooks:
    """What is put into every process that is started inside: see `soak_hooks`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "counts").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("soak_hooks.py"), home / "sitecustomize.py")

    @contextlib.contextmanager
    def inside(self) -> Iterator[Hooks]:
        """For the time of a with-block."""
        path = os.pathsep.join(filter(None, (str(self.home), os.environ.get("PYTHONPATH"))))
        with mock.patch.dict(os.environ, SOAK_HOME=str(self.home), SOAK_PID=str(os.getpid()), PYTHONPATH=path):
            yield self

    def worked(self) -> int:
        """Training images that went through all processes."""
        return sum(int.from_bytes(file.read_bytes(), sys.byteorder) for file in (self.home / "counts").iterdir())

    @contextlib.contextmanager
    def trainings_held(self) -> Iterator[None]:
        """For the time of a with-block no training goes on."""
        hold = self.home / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def aim(self, stage: str, seconds: float) -> None:
        """Have the command killed in its next such stage, so many seconds after that begins, or at its end."""
        draft = self.home / "aim.draft"
        draft.write_text(f"{stage} {seconds}")
        draft.replace(self.home / "aim")

    def disarm(self) -> None:
        """Kill no more."""
        (self.home / "aim").unlink(missing_ok=True)

    def alive(self) -> int:
        """How many processes are left of all that were started within, a while after the last command has ended."""
        mine, until = f"SOAK_HOME={self.home}".encode(), time.monotonic() + LEAVING
        while True:
            environments = []
            for file in Path("/proc").glob("[0-9]*/environ"):
                with contextlib.suppress(OSError):
                    environments.append(file.read_bytes().split(b"\0"))
            count = sum(mine in environment for environment in environments)
            if not count or time.monotonic() > until:
                return count
            time.sleep(0.5)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What the processes noted: `stages` or `killed`."""
        file = self.home / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def seconds(self) -> dict[str, float]:
        """By stage, how long it took in all."""
        spent = dict.fromkeys(STAGES, 0.0)
        for line in self.lines("stages"):
            spent[line["stage"]] += line["seconds"]
        return spent


@contextlib.contextmanager
def raylets(count: int) -> Iterator[Any]:
    """A cluster of a head without CPUs and so many nodes of one CPU, all on this machine."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for those who join it too
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def soak(spec: str, kills: int, victim: str, seed: int, settings: list[str]) -> dict[str, Any]:
    """Run once undisturbed, once with kills; return the summary."""
    with tempfile.TemporaryDirectory() as folder:
        return FaultInjection(
            undisturbed(spec, Path(folder, "reference"), settings), Path(folder, "disturbed"), victim, seed
        ).run(kills)


def undisturbed(spec: str, home: Path, settings: list[str]) -> Command:
    """The undisturbed run, finished."""
    reference = Command(spec, home, settings)
    begun = time.monotonic()
    with Hooks(home.with_name(f"{home.name}-hooks")).inside() as hooks:
        if (code := reference.start().wait()) != 0:
            raise SystemExit(f"the undisturbed run ended with {code}: {reference.log()[-2000:]}")
        reference.stages = hooks.seconds()
    reference.seconds = time.monotonic() - begun
    return reference


class FaultInjection:
    """The same run with kills: first those aimed at ingest and at Ray's start, then those at random instants of the
    training, then those aimed at results and report."""

    def __init__(self, reference: Command, home: Path, victim: str, seed: int) -> None:
        self.reference, self.victim, self.seed = reference, victim, seed
        self.hooks = Hooks(home.with_name(f"{home.name}-hooks"))
        beat = [HEARTBEAT] if victim == "stop" and not any("heartbeat" in one for one in reference.settings) else []
        self.disturbed = Command(reference.spec, home, [*beat, *reference.settings])
        self.rng, self.epochs, self.done = random.Random(seed), 0.0, dict[str, int]()
        self.cluster: Any = None
        self.driver: subprocess.Popen | None = None

    def run(self, kills: int, aims: Sequence[str] = (), aimed: int = 0) -> dict[str, Any]:
        """Kill, and run again until all is done; returns the summary."""
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hooks.inside())
            self._new_cluster(stack)
            for stage in ("ingest", "start"):
                self._aimed(stage, aimed if stage in aims else 0)
            self._at_random(kills, stack)
            for stage in ("results", "report"):
                self._aimed(stage, aimed if stage in aims else 0)
            self.hooks.disarm()
            code = (self.driver or self.disturbed.start()).wait()
            for _ in range(AGAIN):  # the next command tries what is quarantined again
                if code == 1:
                    code = self.disturbed.start().wait()
        return self._summary(code, time.monotonic() - begun)

    def _count(self, victim: str, when: str) -> None:
        self.done[victim] = self.done.get(victim, 0) + 1
        print(f"kill {sum(self.done.values())}: {victim}, {when}", flush=True)

    def _aimed(self, stage: str, kills: int) -> None:
        """So many kills within a stage. Of ingest, each takes up what the one before has left."""
        for _ in range(kills):
            most = self.reference.stages[stage] * (2 / (kills + 1) if stage == "ingest" else 1)
            self.hooks.aim(stage, self.rng.uniform(0, most))
            for _ in range(AGAIN):  # on a busy machine Ray may not start
                code = (self.driver or self.disturbed.start()).wait(timeout=HANG)
                self.driver = None
                if code != FAILED:
                    break
            if code != -signal.SIGKILL:
                raise SystemExit(
                    f"the command ended with {code} instead of being killed: {self.disturbed.log()[-2000:]}"
                )
            self._count(stage, self.hooks.lines("killed")[-1]["when"])

    def _at_random(self, kills: int, stack: contextlib.ExitStack) -> None:
        self.hooks.disarm()
        low = 0.02 if kills > 5 else 0.1
        for moment in sorted(self.rng.uniform(low, 0.9) for _ in range(kills)):
            self.driver = self.driver or self.disturbed.start()
            hit = self._wait(self.driver, moment)
            if self.driver.poll() is not None:
                break
            victim = self.rng.choice(["driver", "worker"]) if self.victim == "mixed" else self.victim
            training = running_trials(self.disturbed.out)
            one = list(training.values())[:1]  # a worker, or a node of the three, holds one of them
            self.epochs += epochs_of(training.values() if victim in ("driver", "head") else one)
            strike = {"driver": self._driver, "head": self._head, "node": self._node, "stop": self._stop}
            strike.get(victim, self._worker)(hit, stack)
            self._count(victim, f"{share_done(self.disturbed.out):.0%} of the work done")

    def _wait(self, driver: subprocess.Popen, moment: float) -> list[Any]:
        """Wait until that share of the work is done and there are victims; return them."""
        while driver.poll() is None:
            if share_done(self.disturbed.out) >= moment:
                hit = list(self.cluster.worker_nodes) if self.cluster else workers_of(driver)
                if hit and (self.cluster is None or running_trials(self.disturbed.out)):
                    return hit
            time.sleep(0.05)
        return []

    def _driver(self, hit: list[Any], stack: contextlib.ExitStack) -> None:
        os.kill(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        self.driver = None

    def _head(self, hit: list[Any], stack: contextlib.ExitStack) -> None:
        self.cluster.head_node.all_processes["gcs_server"][0].process.kill()
        code = self.driver.wait(timeout=HANG)
        print(
            f"the command ended with {code}, its last line: {self.disturbed.log().strip().splitlines()[-1]}", flush=True
        )
        self.cluster.shutdown()
        self._new_cluster(stack)
        self.driver = None

    def _new_cluster(self, stack: contextlib.ExitStack) -> None:
        if self.victim in ("node", "head"):
            self.cluster = stack.enter_context(raylets(3))
            self.disturbed.address = self.cluster.address

    def _node(self, hit: list[Any], stack: contextlib.ExitStack) -> None:
        self.cluster.remove_node(self.rng.choice(hit), allow_graceful=False)
        self.cluster.add_node(num_cpus=1)

    def _worker(self, hit: list[Any], stack: contextlib.ExitStack) -> None:
        with contextlib.suppress(psutil.Error):
            self.rng.choice(hit).kill()

    def _stop(self, hit: list[Any], stack: contextlib.ExitStack) -> None:
        """Stop a worker for longer than its heartbeat, then let it go on: it must not disturb the trial that was begun
        again without it."""
        process, before = self.rng.choice(hit), hung(self.disturbed.out)
        with contextlib.suppress(psutil.Error):
            process.suspend()
            while self.driver.poll() is None and hung(self.disturbed.out) == before:
                time.sleep(0.05)
            was = "stopped" if process.is_running() and process.status() == psutil.STATUS_STOPPED else "gone"
            print(f"the watchdog noticed; the process was {was} then", flush=True)
            process.resume()

    def _summary(self, code: int, seconds: float) -> dict[str, Any]:
        reference, disturbed = self.reference, self.disturbed
        same = code == 0 and reference.table()[SAME].equals(disturbed.table()[SAME])
        needed = needed_images(disturbed.out) if code == 0 else 1
        if not same:
            print(disturbed.log()[-3000:])
        trials = len(RunFolder(str(disturbed.out)).plan())
        starts = sum(log.read_text().count(" starts on ") for log in disturbed.out.glob("trials/*/log.txt"))
        return {
            "victim": self.victim, "seed": self.seed, "kills": sum(self.done.values()), "killed": self.done,
            "runs": disturbed.runs, "exit": code, "trials": trials, "resumes": starts - trials,
            "points": len(reference.table()), "undisturbed_s": round(reference.seconds, 1),
            "disturbed_s": round(seconds, 1),
            "repeated_percent": round(100 * (self.hooks.worked() - needed) / needed, 1),
            "one_epoch_each_percent": round(100 * self.epochs / needed, 1), "done_twice": done_twice(disturbed.out),
            "images": images_in(disturbed.home / "store"), "images_in_peace": images_in(reference.home / "store"),
            "half_written": len(list(disturbed.home.rglob(".*.part"))), "processes_left": self.hooks.alive(),
            "report": (disturbed.out / "report" / "index.html").exists(), "same": same,
        }  # fmt: skip


def main() -> None:
    """Read the arguments, print the summary; exit code 1 when a score differs or a finished stage was done again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", help="a sweep's YAML (default: short trials on the built-in world)")
    parser.add_argument("--trials", type=int, default=20, help="how many short trials, where no YAML is given")
    parser.add_argument("--kills", type=int, default=3)
    victims = ("driver", "worker", "mixed", "node", "head", "stop")
    parser.add_argument("--victim", choices=victims, default="driver")
    parser.add_argument("--aim", nargs="+", choices=STAGES, default=(), help="stages to kill the command in, besides")
    parser.add_argument("--aimed", type=int, default=1, metavar="N", help="how many kills for each stage of --aim")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one disturbed sweep for each")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    whole = True
    with tempfile.TemporaryDirectory() as folder:
        spec = args.spec
        if spec is None:
            spec = str(Path(folder, "short.yaml"))
            Path(spec).write_text(SHORT.format(seeds=max(1, args.trials // 4)))
        reference = undisturbed(spec, Path(folder, "reference"), args.set)
        for seed in args.seed:
            injection = FaultInjection(reference, Path(folder, f"disturbed-{seed}"), args.victim, seed)
            summary = injection.run(args.kills, args.aim, args.aimed)
            print(json.dumps(summary), flush=True)
            whole &= summary["same"] and not summary["done_twice"]
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
