"""What a sweep prints: before it runs its trials, mixtures and cost, less what is done; after it its failed trials."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ray_robust.data.pool import Pool, Task
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare.devices import Device, DeviceHours, on_device
from ray_robust.prepare.estimate import (
    dearest,
    decoding_seconds,
    estimate,
    gpus_here,
    hours_and_price,
    time_unknown,
    unknown_trainings,
)
from ray_robust.prepare.left_out import left_out
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.subsets import Subsets, decode_jobs
from ray_robust.prepare.work import ALL_DECIDED, OpenWork, Undecided, open_work
from ray_robust.run.missing import Remaining
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import named
from ray_robust.spec.load import Resources, Spec
from ray_robust.text.durations import duration
from ray_robust.text.names import count_noun
from ray_robust.text.percent import percent

SHOWN_IN_A_PLAN = 60  # trials, one line each


def print_title(out: Console, spec: Spec) -> None:
    """Print the sweep's name and its question."""
    out.print(f"[bold]{escape(spec.name)}[/]  {escape(spec.question)}", soft_wrap=True)


def print_plan(
    out: Console,
    sweep: Sweep,
    subsets: Subsets,
    left: Remaining | None = None,
    folder: str = "",
    timing: bool = False,
    undecided: Undecided = ALL_DECIDED,
    device: Device | None = None,
) -> None:
    """Print what --plan shows: every trial and mixture, images, time, disk and power.

    left    what the run `folder` lacks of the plan, None where ids are provisional
    timing  whether a few steps may be timed where the time would not be known
    undecided  what the plan cannot count yet
    device  the card whose hours are told, in place of the time on this machine
    """
    from ray_robust.prepare import (
        power as planning,  # late: scipy's functions take a moment, and a run needs none of them
    )

    spec, plan = sweep.spec, sweep.plan
    print_title(out, spec)
    if left is not None and left.untouched:
        left = None
    _print_trials(out, plan, subsets, left)
    print_composition(out, sweep, subsets)
    for task in sweep.tasks.values():
        print_outline(out, task)
    _print_provisional(out, sweep)
    out.print(f"{len(plan)} trials, {plan.pretrainings} unique pre-trainings")
    if left is not None:
        out.print(f"done  {left.done_counts()}, in {folder}", markup=False, soft_wrap=True)
        print_missing(out, left)
    work = open_work(plan, left)
    out.print(f"images to process: {sum(one.pretrained for one in work):,} in pre-training, "
              f"{sum(one.finetuned for one in work):,} in fine-tuning, {sum(one.evaluated for one in work):,} in "
              f"evaluation")  # fmt: skip
    jobs = decode_jobs(sweep, Plan(tuple(t for t in plan if not t.draws or t.id in subsets)), subsets)
    pilot, later = undecided.pilot, undecided.later
    most = [*(work if pilot is None else dearest(work, pilot)), *later]
    if work and device is not None:
        _print_hours(out, on_device(device, work, spec.resources, most), spec.resources)
    elif work:
        note = _time_steps(out, work, spec.resources) if timing else ""
        time_needed = estimate(work, spec.resources, decoding_seconds(jobs), pilot, later)
        out.print(f"time  {time_needed.text(_where_known(spec.resources))}{note}", soft_wrap=True)
        if cost := time_needed.cost(spec.resources.price):
            out.print(f"cost  {cost}", soft_wrap=True)
        elif spec.resources.price is not None:
            out.print("cost  not known without a rate; --on a100, or another card, tells what it would be there")
    stored = sum(form.bytes_of(len(pool.catalog) if rows is None else len(rows)) for _, pool, form, rows in jobs)
    kind = "decoded images" if all(form.side is None for _, _, form, _ in jobs) else "images, stored compact"
    out.print(f"disk  about {stored / 1e6:,.0f} MB of {kind}, besides checkpoints and results")
    unmade = {(pool.name, len(pool.unmade(rows))) for _, pool, _, rows in jobs if rows is not None}
    for name, count in sorted((name, count) for name, count in unmade if count):
        out.print(f"make  {count:,} images of {escape(name)}, which are kept; the time for it is not counted above")
    if power := planning.line(planning.design_in(sweep)):
        out.print(f"power {power}", markup=False, soft_wrap=True)


def _print_hours(out: Console, on: DeviceHours, resources: Resources) -> None:
    """Print what the work takes on a card."""
    hours = hours_and_price(on.hours, on.most, f"{on.device.name}-hours", resources.price)
    out.print(f"cost  about {hours}: {on.source}", soft_wrap=True)


def print_missing(out: Console, left: Remaining) -> None:
    """Print what is to do, in pre-trainings and fine-tunings, and a line for the trials that lack the same."""
    out.print(f"to do {left.counts() if left.missing else 'nothing'}", markup=False)
    for line in left.lines():
        out.print(f"      {line}", markup=False, soft_wrap=True)


def _time_steps(out: Console, work: list[OpenWork], resources: Resources) -> str:
    """Time a few steps of what has no rate yet; return how long that took, for print, "" where nothing was timed."""
    unknown = unknown_trainings(work, resources)
    if not unknown:
        return ""
    what = f"times a few steps of {count_noun(len(unknown), 'training')}"
    with out.status(f"{what} ...") if out.is_terminal else contextlib.nullcontext():
        begun = time.monotonic()
        time_unknown(unknown, resources, len(work))
    return f" (timed in {duration(time.monotonic() - begun)}; kept for the next plan)"


def _where_known(resources: Resources) -> str:
    """Return why this machine cannot tell a time, and what does; "" where nothing stands in its way."""
    if not resources.gpus_per_worker or gpus_here():
        return ""
    return ", where no NVIDIA GPU is found to time steps on: --on a100, or another card, estimates the hours there"


def _print_trials(out: Console, plan: Plan, subsets: Subsets, left: Remaining | None) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("trial", "group", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("seed", "pre-training images", "classes", "images seen", "fine-tunings"):
        table.add_column(name, justify="right")
    if left is not None:
        table.add_column("to do", no_wrap=True)
    for trial in plan.trials[:SHOWN_IN_A_PLAN]:
        subset = subsets.get(trial.id)
        table.add_row(trial.id, trial.group, trial.model.name, str(trial.seed),
                      f"{subset.images:,}" if subset else "0" if not trial.draws else "",
                      f"{subset.leaf_classes:,}" if subset else "",
                      f"{trial.pretrain_images:,}", str(len(trial.finetunings)),
                      *((left.text_of(trial.id),) if left is not None else ()))  # fmt: skip
    out.print(table, markup=False)
    if len(plan) > SHOWN_IN_A_PLAN:
        out.print(f"... and {len(plan) - SHOWN_IN_A_PLAN:,} more: with --out they are all in plan.csv")


def _print_provisional(out: Console, sweep: Sweep) -> None:
    """Print which data is absent or unread, so that ids will be others."""
    for pool in (absent := sweep.absent()):
        out.print(f"[yellow]absent[/]  {escape(pool.describe())}", soft_wrap=True)
        out.print(escape(f"        {pool.absent}"), soft_wrap=True)
    if absent:
        out.print("Names of classes and ranks, and how many images each class has, are checked when the data is there; "
                  "ids will then be others.", soft_wrap=True)  # fmt: skip
    for own in sweep.unread():
        out.print(f"[yellow]unread[/]  {escape(own.name)}: {len(own.unread()):,} of {len(own.catalog):,} files have "
                  "not been read yet; until they are (by the run, or by ray_robust.ingest) ids are provisional",
                  soft_wrap=True)  # fmt: skip


def print_composition(out: Console, sweep: Sweep, subsets: Subsets) -> None:
    """Print what every mixture is made of: asked for, available and taken."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("mixture", "source"):
        table.add_column(name, no_wrap=True)
    parts = [
        (trial.group, part) for trial in sweep.plan if trial.id in subsets for part in subsets[trial.id].composition
    ]
    cut = any(part["labels"] != part["classes"] for _, part in parts)
    words = ("class", "label") if cut else ("class",)
    for name in ("available", "held out", "taken", "share", "wanted", "classes", "per class", "labels", "per label"):
        if cut or "label" not in name:
            table.add_column(name, justify="right")
    shown = set()
    for group, part in parts:
        counts = (f"{part[key]:,}" for key in ("available", "held_out", "selected"))
        shares = (percent(part[key]) for key in ("share", "target_share"))
        row = [group, part["source"], *counts, *shares]
        for word, number in zip(words, ("classes", "labels"), strict=False):
            row += [f"{part[number]:,}", f"{part[f'fewest_per_{word}']:,}-{part[f'most_per_{word}']:,}"]
        if tuple(row) not in shown:
            shown.add(tuple(row))
            table.add_row(*row)
    if shown:
        out.print(table, markup=False)
    notes = (
        f"select {part['source']}: {part['select']}: {part['select_note']}" for _, part in parts if "select" in part
    )
    copies = (f"dedupe {part['source']}: {part['dedupe_note']}" for _, part in parts if "dedupe_note" in part)
    for note in (*dict.fromkeys(notes), *dict.fromkeys(copies), *sweep.notes, *left_out(sweep.spec, sweep.plan)):
        out.print(note, markup=False, soft_wrap=True)


def print_outline(out: Console, task: Pool) -> None:
    """Print how a task's splits were made, where it was not given them: the tree of its labels and subclasses."""
    lines = task.outline() if isinstance(task, Task) else ()
    if not lines:
        return
    counts = (f"{named(part)} {len(task.catalog.rows(part)):,}" for part in task.catalog.parts)
    out.print(f"task {task.name}: {', '.join(counts)}", markup=False, soft_wrap=True)
    for line in lines[:SHOWN_IN_A_PLAN]:
        out.print(f"  {line}", markup=False, soft_wrap=True)
    if len(lines) > SHOWN_IN_A_PLAN:
        out.print(f"  ... and {len(lines) - SHOWN_IN_A_PLAN:,} more labels")


def print_failures(out: Console, run: RunFolder, failed: Iterable[Trial]) -> int:
    """Print why trials failed, and which files of others are damaged; return how many have failed."""
    count = 0
    for folder, name in ((run.trial(trial.id), trial.id) for trial in failed):
        if (failure := folder.failure()) is not None:
            count += 1
            out.print(f"[red]failed[/]  {name}: ", end="")
            out.print(f"{failure['reason']} (log: {failure['log']})", markup=False, soft_wrap=True)
        elif damage := folder.damage():
            out.print(f"damaged  {name}: {damage}; the same command again runs what is missing of it", markup=False,
                      soft_wrap=True)  # fmt: skip
    return count
