"""Ray Tune schedules the trials of a plan or a search; Ray Train runs those that have more than one worker.

One Tune trial is one trial of the plan with all its fine-tunings. With one worker it trains inside the Tune actor,
which is reused from trial to trial, so that torch and timm are imported once per core. Results travel through the run
folder, never through Ray's objects. What is already done is not in the plan that comes here. A trial that fails is
tried again: `failures` says why and how often, `placement` how many run at once. The driver itself imports no torch.
"""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.search import BasicVariantGenerator

from ray_robust.data.opened import listed
from ray_robust.errors import Outage
from ray_robust.files.storage import Storage
from ray_robust.launch.callbacks import TrialCallbacks
from ray_robust.launch.cluster.connect import Cluster
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import RETRIES, Recovery
from ray_robust.launch.first_trials.baseline_first import NO_BASELINE, BaselineFirst
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.launch.placement import ConcurrencyLimit, slots_now, trial_needs
from ray_robust.launch.search.search import Search
from ray_robust.launch.search.tune_searcher import TrialRef, TuneSearcher
from ray_robust.launch.trainables import train_group, train_here
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Resources
from ray_robust.trial.paths import RunPaths

PASSES = 20  # times that trials are given to Tune while some of them failed in ways that do not count
CLUSTER_AWAY = (
    ConnectionError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RpcError,
    ray.exceptions.LocalRayletDiedError,
)


def run_plan(
    plan: Plan,
    paths: RunPaths,
    resources: Resources,
    cluster: Cluster,
    monitor: Monitor,
    search: Search | None = None,
    baseline: BaselineFirst = NO_BASELINE,
) -> None:
    """Run every trial of the plan, those of the `baseline` first, or those that a `search` gives, one by one. A trial
    that fails has its reason in its folder, and the others run on. Where the baseline says so nothing else is begun.

    Raises UserError when the cluster cannot ever hold one trial or the search cannot be steered; Outage when storage or
    the cluster goes away.
    """
    slots = slots_now(resources)
    trials = {trial.id: trial for trial in plan}
    recovery = Recovery(trials, RunFolder(paths.run), RETRIES)
    watchdog = HeartbeatWatchdog(recovery, resources.heartbeat)
    callbacks = TrialCallbacks(
        monitor, recovery, watchdog, Storage(paths.checkpoints), resources.disk, baseline.settled
    )
    run = _TuneRun(paths, resources, cluster, callbacks)
    with watchdog.watching(), _cluster_outage():
        if search is not None:
            _run_search(search, trials, slots, run)
        else:
            _run_first(trials, baseline, slots, run)
        baseline.wait()
    if baseline.may_go_on is False:
        trials = {name: trial for name, trial in trials.items() if name in baseline.trials}
    for name in trials:  # whatever else may have happened, every trial that is not done has a reason
        recovery.quarantine(name)


def _run_first(trials: dict[str, Trial], baseline: BaselineFirst, slots: int, run: _TuneRun) -> None:
    """Run the trials in the baseline's order. Only where they may have to wait for its line are they two runs of Tune:
    else a worker that has no trial of the baseline left takes one of the others."""
    names = baseline.order(trials)
    if baseline.may_go_on is None:
        own = [name for name in names if name in baseline.trials]
        _run_all(own, trials, slots, run)
        baseline.conclude()
        names = [name for name in names if name not in baseline.trials] if baseline.may_go_on else []
    _run_all(names, trials, slots, run)


def _run_all(names: Sequence[str], trials: dict[str, Trial], slots: int, run: _TuneRun) -> None:
    """Run these trials until each is settled, or nothing is left that another pass would change."""
    recovery = run.callbacks.recovery
    left = list(names)
    for _ in range(PASSES):
        if not left:
            return
        run.fit(
            BasicVariantGenerator(max_concurrent=slots),
            {"trial": tune.grid_search([TrialRef(trials[name]) for name in left])},
        )
        left = [name for name in left if not recovery.settled(name)]
        if not any(recovery.failures.get(name) for name in left):
            return


def _run_search(search: Search, trials: dict[str, Trial], slots: int, run: _TuneRun) -> None:
    """Run a search's trials as they come, and wait for the last of them; each is added to `trials`."""

    def on_begin(trial: Trial) -> None:
        trials[trial.id] = trial
        run.callbacks.monitor.expect(trial)

    searcher = TuneSearcher(search, slots, on_begin)
    with searcher.pending_limit():
        run.fit(searcher, {}, num_samples=-1)
    if searcher.error is not None:
        raise searcher.error


@dataclass(frozen=True)
class _TuneRun:
    """What every run of Tune in this command has in common."""

    paths: RunPaths
    resources: Resources
    cluster: Cluster
    callbacks: TrialCallbacks

    def fit(self, searcher: Any, space: dict[str, Any], **config: Any) -> None:
        """Run the trials that `searcher` takes from `space`, and wait for all of them."""
        resources, cluster = self.resources, self.cluster
        function = train_group if resources.together else train_here
        pools = [ray.put(listed())]  # in a list: not every trial of a worker needs them sent again
        trainable = tune.with_parameters(function, paths=self.paths, resources=resources, pools=pools)
        callbacks: list[tune.Callback] = [self.callbacks]
        tuner = tune.Tuner(
            tune.with_resources(trainable, trial_needs(resources)),
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                **config,
                reuse_actors=not resources.together,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns()}",
                storage_path=str(cluster.scratch) if cluster.local else (Storage(self.paths.run) / ".ray").address,
                verbose=0,
                callbacks=callbacks if cluster.local else [*callbacks, ConcurrencyLimit(searcher, resources)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        tuner.fit()


@contextlib.contextmanager
def _cluster_outage() -> Iterator[None]:
    """Raise Outage, in a line, for a cluster that goes away. (A head that stays away for a minute makes Ray end this
    process with a message of its own; what is done is kept all the same.)"""
    try:
        yield
    except CLUSTER_AWAY as error:
        why = textwrap.shorten(" ".join(str(error).split()), 150)
        line = f"the Ray cluster went away ({why}); start it, then run the same command again: what is done is kept"
        raise Outage(line) from error
