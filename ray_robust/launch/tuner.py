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
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray import tune

from ray_robust.data.opened import listed
from ray_robust.errors import Outage
from ray_robust.files.storage import Storage
from ray_robust.launch.callbacks import TrialCallbacks
from ray_robust.launch.cluster.connect import Cluster
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import RETRIES, Recovery
from ray_robust.launch.first_trials.baseline_first import NO_BASELINE, BaselineFirst
from ray_robust.launch.first_trials.planned_trials import PilotTrials, PlannedTrials
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.launch.placement import ConcurrencyLimit, slots_now, trial_needs
from ray_robust.launch.search.search import Search
from ray_robust.launch.trainables import train_group, train_here
from ray_robust.launch.tune_searcher import AHEAD, Trials, TuneSearcher, no_pending_limit
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Resources
from ray_robust.trial.paths import RunPaths

PASSES = 20  # runs of Tune: another where a trial has failed, in a way that does not count, when none was left to give
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
    pilot: PilotTrials | None = None,
) -> set[str]:
    """Run every trial of the plan, those of the `baseline` first and before these a `pilot`, or those that a `search`
    gives, one by one. A trial that fails has its reason in its folder, and the others run on. Where the baseline says
    so, or the pilot has failed, nothing else is begun. Return the ids of the trials that were given out.

    Raises UserError when the cluster cannot ever hold one trial or the search cannot be steered; Outage when storage or
    the cluster goes away.
    """
    trials = {trial.id: trial for trial in plan}
    recovery = Recovery(trials, RunFolder(paths.run), RETRIES)
    planned = PlannedTrials(plan if search is None else Plan(()), recovery, baseline, pilot)
    given_out = planned if search is None else search
    watchdog = HeartbeatWatchdog(recovery, resources.heartbeat, resources.together)
    callbacks = TrialCallbacks(monitor, recovery, watchdog, Storage(paths.checkpoints), resources.disk, planned.settled)
    run = _TuneRun(paths, resources, cluster, callbacks, search is not None)
    with watchdog.watching(), _cluster_outage():
        for _ in range(PASSES):
            run.fit(given_out)
            if given_out.complete:
                break
        baseline.wait()
    not_begun = planned.not_begun
    if search is not None:  # it may have drawn others than those that were expected, or none
        not_begun = trials.keys() - recovery.begun - baseline.trials
    recovery.quarantine_rest(not_begun)
    return recovery.begun


@dataclass(frozen=True)
class _TuneRun:
    """What every run of Tune in this command has in common. `draws`: whether its trials are not known beforehand."""

    paths: RunPaths
    resources: Resources
    cluster: Cluster
    callbacks: TrialCallbacks
    draws: bool

    def fit(self, trials: Trials) -> None:
        """Run these trials, and wait for all of them. Raises what kept them from being given."""
        ahead = 0 if self.resources.together else AHEAD  # what drives a group needs no room: it would not wait
        searcher = TuneSearcher(trials, slots_now(self.resources), self._begin, ahead)
        with no_pending_limit():
            try:
                self._tune(searcher)
            except Exception as error:
                if self.callbacks.error in (None, error):
                    raise
                raise self.callbacks.error from error
        searcher.pass_on_ends()
        kept = self.callbacks.error or searcher.error  # no step of Tune follows the end of the last trial
        if kept is not None:
            raise kept

    def _begin(self, trial: Trial) -> None:
        self.callbacks.recovery.begin(trial)
        if self.draws:
            self.callbacks.monitor.expect(trial)

    def _tune(self, searcher: TuneSearcher) -> None:
        resources, cluster = self.resources, self.cluster
        function = train_group if resources.together else train_here
        pools = [ray.put(listed())]  # in a list: not every trial of a worker needs them sent again
        trainable = tune.with_parameters(function, paths=self.paths, resources=resources, pools=pools)
        callbacks: list[tune.Callback] = [self.callbacks]
        if not cluster.local:
            callbacks.append(ConcurrencyLimit(searcher, resources, self.callbacks.monitor.say))
        tuner = tune.Tuner(
            tune.with_resources(trainable, trial_needs(resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=not resources.together,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns()}",
                storage_path=str(cluster.scratch) if cluster.local else (Storage(self.paths.run) / ".ray").address,
                verbose=0,
                callbacks=callbacks,
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
