"""Ray Tune schedules the trials of a plan; Ray Train runs those that have more than one worker.

One Tune trial is one trial of the plan with all its fine-tunings. With one worker it trains inside the Tune actor,
which is reused from trial to trial, so that torch and timm are imported once per core. Results travel through the run
folder, never through Ray's objects. What is already done is not in the plan that comes here. A trial that breaks off is
tried again: `faults` says why and how often, `placement` how many run at once. The driver itself imports no torch: that
is for the workers, and costs seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.train import FailureConfig as GroupFailures
from ray.train import RunConfig as GroupRun
from ray.train import ScalingConfig
from ray.tune.search import BasicVariantGenerator

from ray_robust.data.opened import adopt, listed
from ray_robust.errors import Outage
from ray_robust.files.storage import Storage
from ray_robust.launch.cluster.connect import Cluster
from ray_robust.launch.failures.checkpoint_gc import keep_within
from ray_robust.launch.failures.recovery import Recovery, Watch
from ray_robust.launch.monitor.live_view import Monitor
from ray_robust.launch.placement import Room, slots_now, trial_needs, use_device, worker_needs
from ray_robust.launch.search.asha import stop_callback
from ray_robust.launch.search.search import Search
from ray_robust.launch.search.tune_searcher import TrialRef, TuneSearcher
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Resources
from ray_robust.trial.paths import RunPaths

if TYPE_CHECKING:
    from ray_robust.train.context import Context

RETRIES = 3  # of a trial whose worker died or that broke off by itself; see `faults`
PASSES = 20  # times that trials are handed to Ray while some of them broke off through no fault of their own
TIDY_EVERY = 60.0  # seconds between two looks at the room that shared weights take


def run_plan(
    plan: Plan, paths: RunPaths, resources: Resources, cluster: Cluster, monitor: Monitor, search: Search | None = None
) -> None:
    """Run every trial of the plan, or those that a `search` gives, one by one. A trial that fails leaves its reason in
    its folder and the others alone.

    Raises UserError when the cluster cannot ever hold one trial, or the search cannot be steered.
    """
    slots = slots_now(resources)
    trials = {trial.id: trial for trial in plan}
    recovery = Recovery(trials, RunFolder(paths.run), RETRIES)
    watch = Watch(recovery, resources.heartbeat)
    left = list(trials)
    tell = _Tell(monitor, recovery, watch, paths, resources)
    if search is not None:
        with watch.watching(), _said_in_a_line():
            _fit_search(search, trials, paths, resources, cluster, slots, tell)
        for name in trials:
            recovery.give_up(name)
        return
    with watch.watching(), _said_in_a_line():
        for _ in range(PASSES):
            order = BasicVariantGenerator(max_concurrent=slots)
            space = {"trial": tune.grid_search([TrialRef(trials[name]) for name in left])}
            _fit(order, space, paths, resources, cluster, tell)
            left = [name for name in left if not recovery.settled(name)]
            if not any(recovery.faults.get(name) for name in left):
                break
    for name in left:  # whatever else may have happened, no trial is left without a word
        recovery.give_up(name)


def _fit_search(
    search: Search,
    trials: dict[str, Trial],
    paths: RunPaths,
    resources: Resources,
    cluster: Cluster,
    slots: int,
    tell: _Tell,
) -> None:
    """Hand a search's trials to Tune as they come, and wait for the last of them; `trials` gets each."""

    def begun(trial: Trial) -> None:
        trials[trial.id] = trial
        tell.monitor.expect(trial)

    searcher = TuneSearcher(search, slots, begun)
    with searcher.pending_limit():
        _fit(searcher, {}, paths, resources, cluster, tell, num_samples=-1)
    if searcher.error is not None:
        raise searcher.error


def _fit(
    order: Any,
    space: dict[str, Any],
    paths: RunPaths,
    resources: Resources,
    cluster: Cluster,
    tell: tune.Callback,
    **config: Any,
) -> None:
    """Hand trials to Tune, in the order that it takes from `order`, and wait for all of them."""
    function = _drive_group if resources.together else _train_here
    pools = [ray.put(listed())]  # in a list: not every trial of a worker needs them sent again
    trainable = tune.with_parameters(function, paths=paths, resources=resources, pools=pools)
    tuner = tune.Tuner(
        tune.with_resources(trainable, trial_needs(resources)),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=order,
            **config,
            reuse_actors=not resources.together,
            trial_dirname_creator=lambda trial: trial.trial_id,
            trial_name_creator=lambda trial: trial.config["trial"],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(cluster.scratch) if cluster.local else f"{paths.run}/.ray",
            verbose=0,
            callbacks=[tell] if cluster.local else [tell, Room(order, resources)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    tuner.fit()


_adopted: set[str] = set()


def _adopt(pools: list) -> None:
    """Take the driver's pools of files, once per process."""
    if pools[0].hex() not in _adopted:
        adopt(ray.get(pools[0]))
        _adopted.add(pools[0].hex())


def _train_here(config: dict[str, Any], paths: RunPaths, resources: Resources, pools: list) -> None:
    """A trial inside the Tune actor."""
    _adopt(pools)
    from ray_robust.launch.failures.preemption import notice
    from ray_robust.train.context import Context
    from ray_robust.trial.run_trial import run_trial

    sent, told = config["trial"], notice()
    context = Context(use_device(resources), preemption=told, finetunings_at_once=resources.finetunings_at_once)
    with told.training():
        run_trial(sent.trial, paths, _watched(context, sent, paths))
    _give_back_memory()
    tune.report({"ended": 1})


def _drive_group(config: dict[str, Any], paths: RunPaths, resources: Resources, pools: list) -> None:
    """A trial as a Ray Train worker group, driven from here."""
    from ray.train.torch import TorchTrainer

    sent: TrialRef = config["trial"]
    # Ray's annotation lacks the pair (fewest, most)
    workers: Any = (resources.fewest_workers, resources.workers) if resources.elastic else resources.workers
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"trial": sent, "paths": paths, "resources": resources, "pools": pools},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=worker_needs(resources),
        ),
        run_config=GroupRun(
            name=f"{sent.trial.key}-{time.time_ns()}",  # under a name that was there, Train resumes its own state
            storage_path=tune.get_context().get_storage().storage_fs_path,
            failure_config=GroupFailures(max_failures=0),  # Tune begins it again, so that one place counts
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if RunFolder(paths.run).trial(sent).failure() is None:  # no reason left by the trial itself: Ray's own
            raise
    tune.report({"ended": 1})


def _train_rank(config: dict[str, Any]) -> None:
    """One rank of a trial's worker group."""
    _adopt(config["pools"])
    from ray.train import get_context
    from ray.train.torch import get_device

    from ray_robust.launch.failures.preemption import notice
    from ray_robust.train.context import Context
    from ray_robust.trial.run_trial import run_trial

    ranks, resources, told = get_context(), config["resources"], notice()
    use_device(resources)
    context = Context(get_device(), ranks.get_world_rank(), ranks.get_world_size(), preemption=told,
                      finetunings_at_once=resources.finetunings_at_once)  # fmt: skip
    sent, paths = config["trial"], config["paths"]
    with told.training():
        run_trial(sent.trial, paths, _watched(context, sent, paths))


def _watched(context: Context, sent: TrialRef, paths: RunPaths) -> Context:
    """The context of a trial that a search may stop on its way."""
    if sent.asha is None:
        return context
    return replace(context, on_step=stop_callback(sent.asha, sent.trial, paths, context))


def _give_back_memory() -> None:
    """Return what a trial freed to the system: an actor that runs many would keep its largest one's share."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Tell(tune.Callback):
    """Tells the monitor and the watch when a trial starts and ends, and `recovery` when one broke off, and why. Keeps
    the shared weights within their limit."""

    def __init__(
        self, monitor: Monitor, recovery: Recovery, watch: Watch, paths: RunPaths, resources: Resources
    ) -> None:
        self.monitor, self.recovery, self.watch = monitor, recovery, watch
        self.weights, self.limit = Storage(paths.checkpoints), resources.disk
        self._tidied = time.monotonic()

    def __getstate__(self) -> dict:  # Tune writes its callbacks to disk; nobody reads them from there
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = trial.config["trial"]
        self._count(trial)
        self.watch.started(name, lambda: ray.kill(trial.temporary_state.ray_actor))
        self.monitor.started(name)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.watch.ended(trial.config["trial"])
        self.recovery.ran.add(trial.config["trial"])
        self.monitor.ended(trial.config["trial"])
        for numbers in (trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps):
            numbers.clear()  # Tune keeps some 20 kB of every trial that nobody reads
        if time.monotonic() - self._tidied > TIDY_EVERY:
            self._tidy(trials)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._broke_off(trial)
        self._count(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._broke_off(trial)
        if self.recovery.settled(
            trial.config["trial"]
        ):  # else it broke off through no fault of its own: it comes again
            self.monitor.ended(trial.config["trial"])

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self._tidy(trials)

    def _broke_off(self, trial: Any) -> None:
        self.watch.ended(trial.config["trial"])
        self.recovery.broke_off(trial.config["trial"], _last_words(trial), trial.node_ip or "")

    def _count(self, trial: Any) -> None:
        """Let Tune count what `recovery` counts: it gives up where that is too much."""
        trial.run_metadata.num_failures = self.recovery.counted(trial.config["trial"])

    def _tidy(self, trials: list) -> None:
        self._tidied = time.monotonic()
        if self.limit is not None:
            wanted = {self.recovery.trials[t.config["trial"]].key for t in trials if not t.is_finished()}
            with contextlib.suppress(OSError):
                keep_within(self.weights, self.limit, wanted)


@contextlib.contextmanager
def _said_in_a_line() -> Iterator[None]:
    """A cluster that goes away is nobody's mistake: an Outage. (A head that stays away for a minute makes Ray end this
    process with words of its own; what is done is kept all the same.)"""
    away = (
        ConnectionError,
        ray.exceptions.RaySystemError,
        ray.exceptions.RpcError,
        ray.exceptions.LocalRayletDiedError,
    )
    try:
        yield
    except away as error:
        why = textwrap.shorten(" ".join(str(error).split()), 150)
        line = f"the Ray cluster went away ({why}); start it, then run the same command again: what is done is kept"
        raise Outage(line) from error


def _last_words(trial: Any) -> str:
    """What Ray says of a trial's latest failure."""
    try:
        said = Path(trial.error_file).read_text("utf-8")  # Tune's own copy, which is uploaded later
    except (OSError, TypeError):
        return ""
    return said.rpartition("Failure # ")[2].partition("\n")[2].strip()
