"""The command `python -m analysis power --spec SPEC [--from RUN]`: which effects a sweep could detect, before it runs.

Prints the rows of `analysis.predict.power` for the planned design and over numbers of seeds, and how many seeds the
margin needs. `--plan` of a sweep prints `line` of the same numbers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from analysis.predict.design import Design, design_of
from analysis.predict.power import MOST_SEEDS, SEEDS, Power, kinds, power, seeds_for
from analysis.predict.spread import Spread, published
from ray_robust.errors import DONE, Arguments, Problem, UserError
from ray_robust.files.storage import Storage
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.text import safe_csv
from ray_robust.text.console import console as default_console
from ray_robust.text.percent import percent

COMMAND = "power"
SIDES = {"ID groups": "id_test", "OOD groups": "ood_test"}
NOTHING = "–"
EXPLAINED = (
    "Points of ER, per tenfold for a trend. detectable: found in four sweeps of five by a two-sided 5 % test; after "
    "Holm: where it must pass the first step of the correction in its family; provable: the smallest margin that a "
    "true difference of 0 is proved to lie within in four of five; chance at the margin: how often that is "
    "the spec's. From three seeds on that all groups have, they are compared seed by seed, with one degree of freedom "
    "less than there are seeds: three may find less than two."
)


def main(argv: Sequence[str]) -> int:
    """Print which effects the spec's design could detect; return the exit code. Raise UserError."""
    args = _parser().parse_args(argv)
    if (args.spec is None) == (args.named is None):
        raise UserError("which sweep is planned? wanted: power SPEC.yaml, or --spec SPEC.yaml, once")
    spec = args.spec or args.named
    seeds = _seeds(args.seeds)
    if args.margin is not None and not (args.margin > 0 and math.isfinite(args.margin)):
        raise UserError(f"--margin: {args.margin:g} is not a positive number of percentage points")
    design = design_in(open_sweep(load_spec(spec, tuple(args.set)), plan_only=True), args.margin)
    if not design.groups:
        raise UserError(Problem(spec, "plans no group beside the baseline: there is no contrast"))
    if not design.baseline:
        raise UserError(Problem(spec, "plans no trial of a baseline: there is no line, hence no ER"))
    spread = published(design)
    if args.run is not None:
        from analysis.predict import variances

        spread = variances.of_run(args.run)
    show(design, spread, seeds)
    if args.out:
        Storage(args.out).write("power.csv", table(design, spread, seeds))
    return DONE


def design_in(sweep: Sweep, margin: float | None = None) -> Design:
    """Return the design of an opened sweep; of several tasks the first one's test groups count."""
    spec = sweep.spec
    task = next(iter(sweep.tasks.values()), None)
    groups = test_groups(task.catalog) if task is not None else {}
    return design_of(sweep.plan.rows(), spec.baseline.name, margin or spec.analysis.margin, groups)


def test_groups(catalog: Any) -> dict[str, int]:
    """Return how many groups each test has, by the name of that source of error (see `stats.group_jackknife`)."""
    if catalog.group is None:
        return {}
    sides = {name: {*catalog.group[catalog.rows(split)].tolist()} for name, split in SIDES.items()}
    if sides["ID groups"] & sides["OOD groups"]:
        return {"groups": len(sides["ID groups"] | sides["OOD groups"])}
    return {name: len(groups) for name, groups in sides.items()}


def line(design: Design, spread: Spread | None = None) -> str:
    """Return the sentence that `--plan` prints, from published figures unless a `spread` is given; "" where there is no
    contrast."""
    assumed = spread or published(design)
    rows = [row for row in power(design, assumed) if math.isfinite(row.detectable)]
    if not kinds(design):
        return ""
    if not rows:
        return "one trial a group: no difference between groups can be established; more seeds are needed"
    claimed = [f"{row.kind} from {row.after_holm:.1f} points of ER" for row in rows]
    provable = min(row.provable for row in rows if not row.of_trend) if any(not row.of_trend for row in rows) else None
    if assumed.df:
        basis = f"ER varies by {math.sqrt(assumed.of_trial(design.finetunings)):.1f} points between {assumed.by}"
    else:
        basis = f"Assumed: ER varies by {assumed.trials:.1f} points between seeds"
    more = "" if assumed.df else f"; python -m analysis {COMMAND} takes that from an earlier run"
    if design.test_groups and not assumed.test_groups:
        counts = ", ".join(f"{count} {name}" for name, count in design.test_groups.items())
        more += f". That is for these test groups alone ({counts}): intervals that hold for others, too, are wider"
    proof = ""
    if provable is not None:
        proof = f"; one contrast alone could prove no effect within {provable:.1f} at best (margin {design.margin:g})"
    return (
        f"in four sweeps of five it would find {', '.join(claimed)} on, after Holm's correction, as the report claims "
        f"it{proof}. {basis}{more}"
    )


def show(design: Design, spread: Spread, seeds: Iterable[int], console: Console | None = None) -> None:
    """Print the tables."""
    out = console or default_console()
    trials = ", ".join(f"{name} {count}" for name, count in list(design.groups.items())[:8])
    more = f" and {len(design.groups) - 8} more" if len(design.groups) > 8 else ""
    tuned = f"{design.finetunings} fine-tunings of each, of the baseline's {design.baseline_finetunings}"
    out.print(f"[bold]trials[/]  baseline {design.baseline}, {escape(trials)}{more}; {tuned}", soft_wrap=True)
    out.print(f"[bold]spread[/]  {escape(spread.by)}", soft_wrap=True)
    for sentence in spread_sentences(design, spread):
        out.print(f"        {escape(sentence)}", soft_wrap=True)
    rows = power(design, spread)
    out.print(_rows(rows))
    for number, row in enumerate(rows):
        out.print(f"  {escape(_seeds_sentence(number, row, design, spread))}", soft_wrap=True)
    out.print(_over_seeds(design, spread, seeds))
    out.print(EXPLAINED, soft_wrap=True)


def spread_sentences(design: Design, spread: Spread) -> list[str]:
    """Return what the spread's numbers are, and what they do not cover."""
    sentences = []
    if design.paired:
        sentences.append(f"all groups have the same {design.trials} seeds and are compared seed by seed")
    if spread.df:
        from analysis.predict.variances import reach

        low, high = reach(1.0, spread.df)
        sentences.append(
            f"a trial's ER varies by {spread.trials:.2f} points, a fine-tuning's within it by {spread.finetunings:.2f} "
            f"(standard deviations); from so few trials they are known to a factor of {low:.2f} to {high:.2f} (95 %)"
        )
    if shared := [name for name in spread.test_groups if name in design.test_groups]:
        counts = ", ".join(f"{design.test_groups[name]} {name}" for name in shared)
        sentences.append(f"test groups: {counts}; what is found then holds for others of their kind")
    elif design.test_groups:
        sentences.append("what other test groups would do is not known from it: figures speak of these groups only")
    return sentences


def table(design: Design, spread: Spread, seeds: Iterable[int]) -> str:
    """Return the text of power.csv: a row per kind of contrast and number of seeds."""
    import pandas as pd

    rows = []
    for count in dict.fromkeys([design.trials, *seeds]):
        for row in power(design if count == design.trials else design.with_seeds(count), spread):
            plain = asdict(row)
            shares = {f"share of {name}": share for name, share in plain.pop("shares").items()}
            rows.append({"seeds": count, "margin": design.margin, **plain, **shares})
    return safe_csv.text_of(pd.DataFrame(rows))


def _rows(rows: Sequence[Power]) -> Grid:
    grid = _grid("contrast", "SE", "detectable", "after Holm", "provable", "chance at the margin", "error comes from")
    for row in rows:
        shares = ", ".join(f"{name} {percent(share, 0)}" for name, share in row.shares.items())
        chance = percent(row.at_margin, 0, NOTHING)
        numbers = [_number(value) for value in (row.se, row.detectable, row.after_holm, row.provable)]
        grid.add_row(escape(row.kind), *numbers, chance, escape(shares) or "no interval could be given")
    return grid


def _over_seeds(design: Design, spread: Spread, seeds: Iterable[int]) -> Grid:
    names = [row.kind for row in power(design, spread)]
    grid = _grid("seeds", *[f"{name}: after Holm | provable" for name in names])
    for count in seeds:
        rows = power(design.with_seeds(count), spread)
        grid.add_row(str(count), *[f"{_number(row.after_holm)} | {_number(row.provable)}" for row in rows])
    return grid


def _seeds_sentence(number: int, row: Power, design: Design, spread: Spread) -> str:
    def needed(of: Callable[[Power], float]) -> str:
        if count := seeds_for(design.margin, number, design, spread, of):
            return f"with {count} seeds"
        floor = of(power(design.with_seeds(MOST_SEEDS), spread)[number])
        if not spread.test_groups:
            return f"with more than {MOST_SEEDS:,} seeds, with which it is {floor:.2g}"
        return f"with no number of seeds, which come down to {floor:.1f}: the test groups stay those they are"

    to_detect, to_prove = needed(lambda power: power.after_holm), needed(lambda power: power.provable)
    margin = f"{design.margin:g}"
    return (
        f"{row.kind}: after Holm's correction, {margin} points are found {to_detect}; no effect within {margin} is "
        f"proved {to_prove}"
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else NOTHING


def _grid(first: str, *names: str) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column(first)
    for name in names:
        grid.add_column(escape(name), justify="right" if name != "error comes from" else "left")
    return grid


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 1 or max(seeds) > 10_000:
        raise UserError(f"--seeds: {text!r} is no list of numbers from 1 to 10000, such as 2,3,5,10")
    return seeds


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        f"python -m analysis {COMMAND}", description="Which effects a sweep could detect, before it is run."
    )
    what = "the sweep that is planned: a file, or a built-in one by name"
    parser.add_argument("spec", metavar="SPEC.yaml", nargs="?", help=what)
    parser.add_argument("--spec", dest="named", metavar="SPEC.yaml", help="the same")
    parser.add_argument("--from", dest="run", metavar="RUN_DIR", help="an earlier run whose variances hold "
                        "(default: published figures)")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the spec")
    parser.add_argument("--margin", type=float, metavar="PP", help="points of ER that count as no effect (default: the "
                        "spec's)")  # fmt: skip
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), metavar="N,N,...", help="rows of the table")
    parser.add_argument("--out", metavar="DIR", help="also write power.csv there")
    return parser
