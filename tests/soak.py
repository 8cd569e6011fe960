"""Kill parts of a sweep at random moments, and compare what comes out with an undisturbed run, bit for bit.

A moment is a share of the work that is behind, as the run folder tells it, so that a kill always hits a sweep at work.

    python tests/soak.py [SPEC.yaml] --kills 50 --victim mixed --seed 1 [--trials 20] [--set KEY=VALUE ...]

victims   driver: kill -9 of the command, which is then run again; worker: of one training process; mixed: either by
          chance; node: of one raylet of three on this machine, with all that runs on it, and another takes its place;
          head: of that cluster's head, after which the command ends by itself and is run again on a new cluster
Prints every kill and, last, one JSON object: kills, runs of the command, resumes, seconds of both sweeps, the work done
twice in per cent beside one epoch per trial that was hit, stages that were done twice, and whether every score is the
same. Exit code 1 when one is not, or a finished stage was done again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import psutil
from deadlines import HANG

from ray_robust.results import RunFolder

SCORES = ["upstream_accuracy", "id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy"]
SAME = ["trial", "group", "status", "finetune", "epoch", "step", *SCORES]
AGAIN = 5  # times that the command is run again at the end, for trials that were left alone
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
    """The sweep as a user runs it, in a process group and with caches of its own."""

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


def workers_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes in which trials of this driver train now."""
    below = psutil.Process(driver.pid).children(recursive=True)
    return [p for p in below if "_train_here" in _title(p) or "ray::ImplicitFunc" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def behind(run: Path) -> float:
    """The share of the work that is done, 0-1; 0 as long as the folder cannot tell."""
    folder, whole, done = RunFolder(str(run)), 0.0, 0.0
    for trial in folder.plan().to_dict("records"):
        cost, own = float(trial["cost_images"]), folder.trial(trial["trial"])
        whole += cost
        if own.has(list(json.loads(trial["finetunes"]))):
            done += cost
        else:
            done += cost * (own.storage.read_json("progress.json") or {}).get("share", 0.0)
    return done / whole if whole else 0.0


def under_way(run: Path) -> dict[str, dict[str, Any]]:
    """What the trials that are training say of themselves."""
    folder, found = RunFolder(str(run)), {}
    for name in folder.plan().get("trial", ()):
        own = folder.trial(name)
        said = own.storage.read_json("progress.json")
        if said and own.finished() is None and time.time() - said["time"] < 10:
            found[name] = said
    return found


# sitecustomize.py of every process under fire: adds up the training images that it has processed, in a file that a kill
# leaves whole. What a trial says of itself comes once a second, too seldom to tell what a kill has cost.
COUNTING = """
import importlib.abc, importlib.util, mmap, os, struct, sys, time

class Counting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "ray_robust.train.turns":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), count(module))
        return spec

def count(module):
    file = open(os.path.join(os.environ["SOAK_COUNTS"], f"{os.getpid()}-{time.time_ns()}"), "w+b")
    file.write(bytes(8))
    file.flush()
    shared, run = mmap.mmap(file.fileno(), 8), module.Pass.run
    def counted(work):
        run(work)
        shared[:] = struct.pack("q", struct.unpack("q", shared[:])[0] + len(work.inputs[0]))
    module.Pass.run = counted

if os.environ.get("SOAK_COUNTS"):
    sys.meta_path.insert(0, Counting())
"""


@contextlib.contextmanager
def counting(folder: Path) -> Iterator[Path]:
    """A folder in which every process started meanwhile counts its images."""
    (folder / "counts").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(COUNTING)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with mock.patch.dict(os.environ, SOAK_COUNTS=str(folder / "counts"), PYTHONPATH=path):
        yield folder / "counts"


def epochs_of(hit: Iterable[dict[str, Any]]) -> float:
    """Images of one epoch of each of these trainings, as they say of themselves."""
    return sum(said["images"] / said["epoch"] for said in hit if said["epoch"])


def needed_images(run: Path) -> int:
    """Training images that the trials of a finished run need."""
    return sum(_needed(run / "trials" / name) for name in RunFolder(str(run)).plan()["trial"])


def _needed(folder: Path) -> int:
    trial = json.loads((folder / "trial.json").read_text())
    rows = pd.read_json(folder / "rows.jsonl", lines=True).groupby("finetune")
    return int(trial["pretrain_images_seen"]) + sum(int(r["step"].max()) * min(128, int(r["finetune_images"].max()))
                                                    for _, r in rows)  # fmt: skip


def done_twice(run: Path) -> int:
    """How many stages of trials ended more than once."""
    count = 0
    for log in (file.read_text() for file in (run / "trials").glob("*/log.txt")):
        ended = [line.split("fine-tuned ")[1].split()[0] for line in log.splitlines() if "fine-tuned " in line]
        count += len(ended) - len(set(ended)) + max(0, log.count("pre-trained in ") - 1)
    return count


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
    """Run once in peace, once under fire; returns the summary."""
    with tempfile.TemporaryDirectory() as folder:
        return under_fire(in_peace(spec, Path(folder, "peace"), settings), Path(folder, "war"), kills, victim, seed)


def in_peace(spec: str, home: Path, settings: list[str]) -> Command:
    """The undisturbed run, done."""
    peace = Command(spec, home, settings)
    begun = time.monotonic()
    if (code := peace.start().wait()) != 0:
        raise SystemExit(f"the undisturbed run ended with {code}: {peace.log()[-2000:]}")
    peace.seconds = time.monotonic() - begun
    return peace


def under_fire(peace: Command, home: Path, kills: int, victim: str, seed: int) -> dict[str, Any]:
    """The same run with so many kills; returns the summary."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        counts = stack.enter_context(counting(home.with_name(f"{home.name}-counting")))
        cluster = stack.enter_context(raylets(3)) if victim in ("node", "head") else None
        war = Command(peace.spec, home, peace.settings, cluster.address if cluster else None)
        done, epochs, begun = 0, 0.0, time.monotonic()
        driver = war.start()
        low = 0.02 if kills > 5 else 0.1
        for moment in sorted(rng.uniform(low, 0.9) for _ in range(kills)):
            hit: list[Any] = []
            while driver.poll() is None:
                if behind(war.out) >= moment:
                    hit = list(cluster.worker_nodes) if cluster else workers_of(driver)
                    if hit and (cluster is None or under_way(war.out)):
                        break
                time.sleep(0.05)
            if driver.poll() is not None:
                break
            whom = rng.choice(["driver", "worker"]) if victim == "mixed" else victim
            training = under_way(war.out)
            if whom == "driver":
                epochs += epochs_of(training.values())
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait()
                driver = war.start()
            elif whom == "head":
                epochs += epochs_of(training.values())
                cluster.head_node.all_processes["gcs_server"][0].process.kill()
                code = driver.wait(timeout=HANG)
                print(f"the command ended with {code}, its last word: {war.log().strip().splitlines()[-1]}", flush=True)
                cluster.shutdown()
                cluster = stack.enter_context(raylets(3))
                war.address = cluster.address
                driver = war.start()
            elif cluster is not None:
                epochs += epochs_of(list(training.values())[:1])  # one node holds one of them
                cluster.remove_node(rng.choice(hit), allow_graceful=False)
                cluster.add_node(num_cpus=1)
            else:
                epochs += epochs_of(list(training.values())[:1])
                with contextlib.suppress(psutil.Error):
                    rng.choice(hit).kill()
            done += 1
            print(f"kill {done} of {kills}: {whom}, {behind(war.out):.0%} of the work behind it", flush=True)
        code = driver.wait()
        for _ in range(AGAIN):  # what was left alone after too many deaths is tried by the next command
            if code == 1:
                code = war.start().wait()
        disturbed = time.monotonic() - begun
        same = code == 0 and peace.table()[SAME].equals(war.table()[SAME])
        needed = needed_images(war.out) if code == 0 else 1
        worked = sum(int.from_bytes(file.read_bytes(), sys.byteorder) for file in counts.iterdir())
        twice = done_twice(war.out)
        if not same:
            print(war.log()[-3000:])
        trials = len(RunFolder(str(war.out)).plan())
        starts = sum(log.read_text().count(" starts on ") for log in war.out.glob("trials/*/log.txt"))
        return {
            "victim": victim, "seed": seed, "kills": done, "runs": war.runs, "exit": code, "trials": trials,
            "resumes": starts - trials, "points": len(peace.table()),
            "undisturbed_s": round(peace.seconds, 1), "disturbed_s": round(disturbed, 1),
            "repeated_percent": round(100 * (worked - needed) / needed, 1),
            "one_epoch_each_percent": round(100 * epochs / needed, 1), "done_twice": twice, "same": same,
        }  # fmt: skip


def main() -> None:
    """Read the arguments, print the summary; exit code 1 when a score differs or a finished stage was done again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", help="a sweep's YAML (default: short trials on the built-in world)")
    parser.add_argument("--trials", type=int, default=20, help="how many short trials, where no YAML is given")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--victim", choices=("driver", "worker", "mixed", "node", "head"), default="driver")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one sweep under fire for each")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    whole = True
    with tempfile.TemporaryDirectory() as folder:
        spec = args.spec
        if spec is None:
            spec = str(Path(folder, "short.yaml"))
            Path(spec).write_text(SHORT.format(seeds=max(1, args.trials // 4)))
        peace = in_peace(spec, Path(folder, "peace"), args.set)
        for seed in args.seed:
            summary = under_fire(peace, Path(folder, f"war-{seed}"), args.kills, args.victim, seed)
            print(json.dumps(summary), flush=True)
            whole &= summary["same"] and not summary["done_twice"]
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
