"""What scheduling costs: `python -m bench.scheduling [--trials N] [--work SECONDS] [--planned N]`.

Trials that only wait, run by the real scheduler into a real run folder: as a grid (all known beforehand) and as a
random search (handed out one by one). What is left of the wall time after the waiting, per trial, is the overhead; the
memory is the driver's own, at every tenth of a run. Beside that, how long a plan of many trials takes, and how much
longer for each of them than a plan of a tenth: 1 where planning grows as the trials do.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench import show
from ray_robust.plan.plan import Configuration, Plan, PoolFacts, make_plan
from ray_robust.prepare.candidates import Candidates
from ray_robust.spec.load import Spec, load_spec

SPEC = """
task: {{name: camera-traps}}
pretrain:
  sources: {{species: 1.0}}
  num_images: {images}
  lr: {rates}
  epochs: 1
finetune: {{epochs: 1, lr: 1e-3}}
seeds: {seeds}
baseline: none
{search}
"""
WORK = "BENCH_SCHEDULING_WORK"  # the seconds that a trial waits, told to the workers


class Pools(dict[str, PoolFacts]):
    """Facts of any pool: a plan needs no more of one."""

    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 10**9, {"train": 100, "id_val": 10, "id_test": 10, "ood_val": 10, "ood_test": 10})


class Known(Candidates):
    """Values into trials without data."""

    def configure(self, values: Any, check: bool = True) -> Configuration:
        return Configuration(dict(values), plan_of(self.sweep.spec.at(values)).trials)


def main(argv: list[str]) -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.scheduling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--work", type=float, default=0.1, help="seconds that a trial waits")
    parser.add_argument("--planned", type=int, default=100_000)
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"trials": args.trials, "work_s": args.work, "planned": args.planned}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tenth = plans(place, args.planned // 10)
        for name, seconds in plans(place, args.planned).items():
            found[f"plan_{name}_s"] = round(seconds, 1)
            found[f"plan_{name}_per_trial_over_tenth"] = round(seconds / tenth[name] / 10, 2)
        os.environ[WORK] = str(args.work)
        for way in ("grid", "random"):
            found |= {f"{way}_{key}": value for key, value in run(place, way, args.trials, args.work).items()}
    rows = []
    for way in ("grid", "random"):
        memory = " ".join(f"{mb:.0f}" for mb in found[f"{way}_memory_mb"])
        rows += [
            (way, f"plan of {args.planned:,} trials", f"{found[f'plan_{way}_s']:.1f} s"),
            (way, "each of them, over one of a tenth", f"{found[f'plan_{way}_per_trial_over_tenth']:.2f}"),
            (way, f"overhead of one of {args.trials:,} trials", f"{found[f'{way}_overhead_ms']:.1f} ms"),
            (way, "of which the driver's processor time", f"{found[f'{way}_cpu_ms']:.1f} ms"),
            (way, "driver's memory by tenths", f"{memory} MB"),
        ]
    show(("way", "what", "cost"), rows, found)


def plan_of(spec: Spec) -> Plan:
    """The trials of a spec, of pools that are not there."""
    return make_plan(spec, Pools(), Pools())


def plans(folder: Path, count: int) -> dict[str, float]:
    """Seconds from a spec to the rows of `count` trials, written as a grid and drawn at random, 25 seeds each."""
    found = {}
    levels = max(1, count // 100)
    begun = time.perf_counter()
    spec = specified(folder, list(range(1000, 1000 + levels)), [1e-3, 2e-3, 3e-3, 4e-3], 25)
    assert len(plan_of(spec).rows()) == 100 * levels
    found["grid"] = time.perf_counter() - begun
    begun = time.perf_counter()
    drawn = count // 25
    spec = specified(folder, "{loguniform: [1000, 1_000_000]}", "{loguniform: [1e-5, 1e-2]}", 25, drawn)
    trials = [trial for number in range(drawn) for trial in plan_of(spec.at(spec.space.draw(number))).trials]
    assert len(trials) == 25 * drawn
    found["random"] = time.perf_counter() - begun
    return found


def specified(folder: Path, images: Any, rates: Any, seeds: int, drawn: int = 0) -> Spec:
    """A spec with these values in it; `drawn` configurations of a random search, if any."""
    file = folder / "scheduling.yaml"
    search = f"search: {{method: random, trials: {drawn}}}" if drawn else ""
    written = (f"{{grid: {value}}}" if isinstance(value, list) else value for value in (images, rates))
    file.write_text(SPEC.format(images=next(written), rates=next(written), seeds=seeds, search=search))
    return load_spec(file)


def run(folder: Path, way: str, count: int, work: float) -> dict[str, Any]:
    """Run `count` waiting trials through the scheduler; their overhead and the driver's memory."""
    from ray_robust.launch import tuner
    from ray_robust.launch.cluster.connect import connect
    from ray_robust.launch.monitor.monitor import Monitor
    from ray_robust.launch.placement import slots_now
    from ray_robust.launch.search.search import Search
    from ray_robust.prepare.open_sweep import Sweep
    from ray_robust.run.run_folder import RunFolder
    from ray_robust.trial.paths import RunPaths

    drawn = "{loguniform: [1000, 1_000_000_000]}"
    spec = specified(folder, list(range(1000, 1000 + count)) if way == "grid" else drawn, "1e-3", 1,
                     0 if way == "grid" else count)  # fmt: skip
    run_folder = RunFolder(folder / way)
    search = None
    if way == "random":
        sweep = Sweep(spec, {}, {}, Plan(()))
        search = Search(spec, Known(sweep), plan_of(replace(spec, pretrains=())), run_folder)
    plan = plan_of(spec) if search is None else Plan(())
    tuner.train_here = wait  # type: ignore[assignment]  # the one thing that is not real: what a trial does
    paths = RunPaths(str(folder / way), str(folder / "checkpoints"), str(folder / "store"))
    monitor = Monitor(plan, run_folder, Console(quiet=True), 0, way, metrics=False)
    driver, memory, ended = psutil.Process(), [], monitor.ended

    def counting(name: str) -> None:
        ended(name)
        if len(monitor.finished) % max(1, count // 10) == 0:
            memory.append(driver.memory_info().rss / 1e6)

    monitor.ended = counting  # type: ignore[method-assign]
    with connect(dashboard=False) as cluster:
        slots = slots_now(spec.resources)
        warm = plan_of(specified(folder, list(range(1, 1 + 2 * slots)), "1e-3", 1))
        quiet = Monitor(warm, run_folder, Console(quiet=True), 0, "warm", metrics=False)
        tuner.run_plan(warm, paths, spec.resources, cluster, quiet)  # workers are started, imports are done
        before, begun = sum(driver.cpu_times()[:2]), time.perf_counter()
        tuner.run_plan(plan, paths, spec.resources, cluster, monitor, search)
        wall, spent = time.perf_counter() - begun, sum(driver.cpu_times()[:2]) - before
    assert len(monitor.finished) == count, f"{len(monitor.finished)} of {count} trials ended"
    return {
        "overhead_ms": round(1000 * (wall - count * work / slots) / count, 1),
        "cpu_ms": round(1000 * spent / count, 1),
        "memory_mb": [round(mb, 1) for mb in memory],
        "slots": slots,
    }


def wait(config: dict[str, Any], paths: Any, resources: Any, pools: Any) -> None:
    """A trial that only waits."""
    from ray import tune

    from ray_robust.run.run_folder import RunFolder

    time.sleep(float(os.environ[WORK]))
    trial = config["trial"].trial
    rows = [{"finetune": f.id, "task": f.task_label, "id_val": 0.5, "ood_val": 0.5} for f in trial.finetunings]
    RunFolder(paths.run).trial(trial.id).finish(rows, {})
    tune.report({"ended": 1})


if __name__ == "__main__":
    main(sys.argv[1:])
