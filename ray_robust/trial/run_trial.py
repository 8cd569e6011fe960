"""One trial from beginning to end, without Ray: its stages, and what happens to an error in them.

Runs inside a reused Tune actor, as one rank of a Ray Train group, or in a test. Its files go to the trial's own folder,
the pre-trained weights to the shared checkpoints under the trial's key. Running out of memory is handled here; any
other error is the trial's failure or goes to the launcher.
"""

from __future__ import annotations

import platform
import time
import traceback
from contextlib import suppress
from dataclasses import replace

from ray_robust.errors import Outage, UserError
from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.train.context import Context
from ray_robust.train.exceptions import Preempted, Stopped, TrainingFailed
from ray_robust.trial.failure import backoff, one_line, recurs
from ray_robust.trial.oom import is_out_of_memory, next_grad_accum_steps, oom_kills, release_memory
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.stages import TrialRun, run_stages
from ray_robust.trial.trial_log import TrialLog


def run_trial(trial: Trial, paths: RunPaths, context: Context) -> None:
    """Run what is missing of a trial and mark it done, or failed with its reason where another attempt would fail too.

    Several ranks call it together: they pre-train as one, then share out the fine-tunings. Errors that another attempt
    may not meet (storage or a worker that went away, preemption) are raised, for the launcher to try again.
    """
    run = RunFolder(paths.run)
    if run.has_rows(trial.id, [f.id for f in trial.finetunings]):
        return
    folder = run.trial(trial.id)
    log = TrialLog(trial, folder, context)
    steps: int | None = None
    if context.first:
        if damage := folder.begin():
            log.write(f"is run again, with what is whole of it: {damage}")
        if context.world_size > 1:  # the watchdog waits for this one: before it the group may wait for room
            log.heartbeat()
        steps = _after_earlier_attempts(trial, folder, log)
    steps = context.broadcast(steps or 0) or None  # the other ranks are here before it is written
    context.wait_for_all()  # all are here now: the first wait makes a group, and would do so without signs of life
    while steps is not None:
        own = replace(context, heartbeat=log.heartbeat, log=log.write, grad_accum_steps=steps)
        shortage = _attempt(TrialRun(trial, paths, own, folder, log))
        if shortage is None:
            return
        steps = _accumulate_more(trial, steps, shortage, folder, log)
        if context.world_size > 1:  # the other ranks must begin again with it
            raise MemoryError(shortage)
        release_memory()


def _after_earlier_attempts(trial: Trial, folder: TrialFolder, log: TrialLog) -> int | None:
    """Wait for the backoff; return in how many parts a batch goes through the model, more if the kernel killed the last
    worker for memory, None, with the trial failed, where there cannot be more. Only the kernel's count of such kills
    shows that. Whether the worker died since is decided by the number of attempts, since driver and worker may have
    different clocks."""
    attempts = folder.attempts()
    if wait := backoff(attempts, time.time()):
        log.write(f"waits {wait:.0f} s before another attempt: {attempts[-1]['reason']}")
        time.sleep(wait)
    now = {"host": platform.node(), "kills": oom_kills(), "attempts": len(attempts)}
    then, steps = folder.storage.recall_json("worker.json"), folder.grad_accum_steps()
    more: int | None = steps
    if then and all(type(then.get(key)) is type(value) for key, value in now.items()):
        died = len(attempts) > then["attempts"] and attempts[-1]["kind"] == "died"
        if died and then["host"] == now["host"] and then["kills"] < now["kills"]:
            reason = "the kernel ended its worker for memory"
            more = _accumulate_more(trial, steps, reason, folder, log)
    with suppress(OSError):
        folder.storage.write_json("worker.json", now, durable=False)
    return more


def _attempt(run: TrialRun) -> str | None:
    """Run a trial's stages. None when it is done, failed or stopped; else what there was too little memory for."""
    context, folder, log = run.context, run.folder, run.log
    try:
        run_stages(run)
    except Preempted as error:
        log.write(str(error))
        raise
    except Stopped as error:
        log.write(str(error))
        if context.first:
            folder.stop(str(error), error.facts)
    except Exception as error:
        log.write(traceback.format_exc())
        if is_out_of_memory(error):
            return " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, TrainingFailed | UserError):
            folder.fail(str(error))
        elif not isinstance(error, Outage) and recurs(error, folder.attempts()):
            folder.fail(one_line(error))
        else:
            raise
        if context.world_size > 1:  # the other ranks would wait for this one for ever
            raise
    return None


def _accumulate_more(trial: Trial, steps: int, shortage: str, folder: TrialFolder, log: TrialLog) -> int | None:
    """Divide batches further from now on; None, with the trial failed, when they are single images already."""
    more = next_grad_accum_steps(trial, steps)
    if more is None:
        folder.fail(f"out of memory with a single image at a time: {shortage}")
        return None
    log.write(f"out of memory: batches go through the model in {more} parts from now on")
    folder.set_grad_accum_steps(more, shortage)
    return more
