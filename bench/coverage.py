"""Do the intervals hold what they promise, and are the claims true? `python -m bench.coverage [--replicates N] [--only
NAME] [--write FILE] [--keep FOLDER]`.

Simulates the sweeps of `bench.scenarios`, whose truth is known, analyses each as a real one, and counts: how often 95 %
intervals hold the truth, how often a test finds what is not there, how often equivalence is claimed exactly at the
margin; and of the findings, as a reader meets them, the share that is false (`bench.claims`). The last line is one JSON
object. With `--write docs/statistics.md` the rows of these scenarios replace theirs between its marks there. With
`--keep` every simulated sweep is kept in that folder, below a hash of the code that analysed it, and not run again, so
that a long list can be run in pieces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.input.plain_table import read_csv
from analysis.options import Options
from analysis.stats.resampled import scores_of
from analysis.study import Analysis, analyse
from bench import print_table, show, table_in, write_table
from bench.claims import between, claim_summary, claims_of_scores, judged, truths
from bench.designs import Design, draw
from bench.raw_scores import BEHIND, SCORE_KINDS, score_numbers, score_rows
from bench.scenarios import MARGIN, SCENARIOS
from bench.simulated import BASELINE, FACTOR, Truth, World, counted, shares, simulate
from ray_robust.errors import UserError

SIMULATES = ("claims", "coverage", "designs", "raw_scores", "scenarios", "simulated")  # the modules of bench that do

__all__ = ["MARGIN", "SCENARIOS", "Truth", "World", "counted", "shares", "simulate"]


def looked_at(scenario: Truth | Design, seed: int, scores_only: bool = False) -> dict[str, Any]:
    """What one simulated analysis reported, beside what is true: estimates with their ends, tests, and claims;
    `scores_only`: of the raw scores alone."""
    world = simulate(scenario, seed) if isinstance(scenario, Truth) else draw(scenario, seed)
    options = Options(BASELINE, margin=MARGIN)
    without_cluster = isinstance(scenario, Design) and scenario.without_cluster
    if scores_only and not without_cluster:  # else the input may be refused
        scores = scores_of(world.points, options, world.counts)
        raw = score_numbers(scores, world)
        return {
            **raw,
            "equivalent": [],
            "equivalent scores": raw["equivalent"],
            "claims": claims_of_scores(scores, world),
        }
    analysis, sentences = _analysed(world, options, without_cluster)
    numbers = _numbers(analysis, world) if analysis else {"intervals": [], "tests": [], "equivalent": []}
    if analysis:
        raw = score_numbers(analysis.scores, world)
        numbers = {"intervals": numbers["intervals"] + raw["intervals"], "tests": numbers["tests"] + raw["tests"],
                   "equivalent": numbers["equivalent"], "equivalent scores": raw["equivalent"]}  # fmt: skip
    return {**numbers, "claims": judged(analysis, world, sentences)}


def _analysed(world: World, options: Options, plain: bool) -> tuple[Analysis | None, list[str]]:
    """The analysis of a world, of a plain table by way of its file; None and the reason where the table is refused."""
    if not plain:
        return analyse("simulated", world.points, options, counts=world.counts), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "models.csv"
        world.points.drop(columns="trial").to_csv(file, index=False)
        try:
            table = read_csv(str(file), id="id", ood="ood", group="group", options=options)
        except UserError as error:
            return None, [str(error)]
    return analyse("task", table.points, options, table.left_out, table.warnings), list(table.warnings)


def _numbers(analysis: Analysis, world: World) -> dict[str, list[Any]]:
    """Intervals (kind, what, truth, value, low, high), tests of true null hypotheses (kind, p, adjusted p), and whether
    contrasts that are exactly at the margin pass for equivalent."""
    known = truths(analysis, world)
    intervals: list[Any] = []
    tests: list[Any] = []
    equivalent: list[bool] = []
    if not world.reference:
        return {"intervals": intervals, "tests": tests, "equivalent": equivalent}
    for row in analysis.groups.to_dict("records"):
        if row["group"] != BASELINE:
            intervals.append(
                ("mean ER", row["group"], known.groups[row["group"]], row["er"], row["er_low"], row["er_high"])
            )
    for row in analysis.contrasts.to_dict("records"):
        a, b = row["a"], row["b"]
        true, kind = between(analysis, known, a, b), "against the baseline" if b == BASELINE else "pair"
        intervals.append((kind, f"{a}-{b}", true, row["delta_er"], row["low"], row["high"]))
        if abs(true) < 1e-9:
            tests.append((kind, row["p"], row["p_adjusted"]))
        if abs(abs(true) - MARGIN) < 1e-9:
            equivalent.append(bool(row["equivalent"]))
    for row in analysis.ancova.to_dict("records"):
        true = world.slopes[row["a"]] - world.slopes[row["b"]]
        if np.isfinite(true):
            ends = row["slope_difference"], row["slope_low"], row["slope_high"]
            intervals.append(("slope", f"{row['a']}-{row['b']}", true, *ends))
        if true == 0:
            tests.append(("slope", row["slope_p"], row["slope_p_adjusted"]))
    constant = all(np.ptp(known.er[analysis.points["group"] == name]) < 1e-9 for name in known.groups)
    for factor in analysis.regression.factors:
        if factor.name == FACTOR and np.isfinite(known.slope) and constant:
            slope = factor.slope
            intervals.append(("trend", FACTOR, known.slope, slope.value, slope.low, slope.high))
            if abs(known.slope) < 1e-9:
                tests.append(("trend", slope.p, slope.p))
    return {"intervals": intervals, "tests": tests, "equivalent": equivalent}


def run(
    name: str,
    replicates: int,
    mapped: Callable[..., Iterable[dict[str, Any]]] = map,
    keep: Path | None = None,
    scores_only: bool = False,
) -> list[dict[str, Any]]:
    """All replicates of a scenario, by that `map`; those in the folder `keep` are read, the others added to it."""
    seeds = [hash_seed(name, i) for i in range(replicates)]
    suffix = ".scores.jsonl" if scores_only else ".jsonl"
    file = keep / code() / f"{name.replace(' ', '_')}{suffix}" if keep else None
    reports = _kept(file) if file and file.exists() else {}
    missing = [seed for seed in seeds if seed not in reports]
    new = dict(zip(missing, mapped(partial(looked_at, SCENARIOS[name], scores_only=scores_only), missing), strict=True))
    if file and new:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"seed": seed, **report}) + "\n" for seed, report in new.items())
    return [(reports | new)[seed] for seed in seeds]


@lru_cache(maxsize=1)
def code() -> str:
    """A hash of all code that decides what comes of a simulated sweep: what another version made is not mixed in."""
    root = Path(__file__).parents[1]
    files = [*root.glob("analysis/**/*.py"), *(root / f"bench/{name}.py" for name in SIMULATES)]
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _kept(file: Path) -> dict[int, dict[str, Any]]:
    """The sweeps of a file by their seed. Two runs at once may have written some twice, and one that was ended may have
    left a piece of a line."""
    reports = {}
    for line in file.read_text("utf-8").splitlines():
        with suppress(ValueError):
            report = json.loads(line)
            reports[report.pop("seed")] = report
    return reports


def hash_seed(name: str, number: int) -> int:
    """A seed by name, so that a scenario's draws do not depend on which others run."""
    return zlib.crc32(name.encode()) * 1_000 + number


def summary(name: str, said: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all replicates. For a metric without a closed form, and for a raw score whose truth is not known
    beforehand, the truth is the mean of the estimates."""
    intervals = pd.DataFrame([row for one in said for row in one["intervals"]],
                             columns=["kind", "what", "true", "value", "low", "high"])  # fmt: skip
    intervals["sweep"] = [i for i, one in enumerate(said) for _ in one["intervals"]]
    scenario = SCENARIOS[name]
    unknown = intervals["true"].isna()
    if isinstance(scenario, Truth) and scenario.metric != "accuracy":
        unknown |= ~intervals["kind"].isin(SCORE_KINDS)  # of raw scores a world says itself what is not known
    averages = intervals.groupby(["kind", "what"])["value"].transform("mean")
    intervals["true"] = intervals["true"].astype(float).mask(unknown, averages)
    given = intervals.dropna(subset=["low", "high"])
    held = given.assign(held=(given["low"] <= given["true"]) & (given["true"] <= given["high"]))
    tests = pd.DataFrame([row for one in said for row in one["tests"]], columns=["kind", "p", "p_adjusted"])
    tests["sweep"] = [i for i, one in enumerate(said) for _ in one["tests"]]
    by_kind = (tests["p_adjusted"] <= 0.05).groupby([tests["kind"], tests["sweep"]]).any().groupby("kind")
    families = by_kind.mean()
    for kind in families.index:
        if kind.endswith(BEHIND):  # a group that is not lower is behind the best in some sweeps only
            families[kind] = by_kind.sum()[kind] / len(said)
    equivalent, alike = ([claimed for one in said for claimed in one.get(key, ())]
                         for key in ("equivalent", "equivalent scores"))  # fmt: skip
    return {
        "replicates": len(said),
        "coverage": _coverage(held),
        "no interval": _missing(intervals.loc[~intervals["kind"].isin(SCORE_KINDS)]),
        "no interval of a score": _missing(intervals.loc[intervals["kind"].isin(SCORE_KINDS)]),
        "width": (given["high"] - given["low"]).groupby(given["kind"]).median().round(2).to_dict(),
        "false positives": (tests["p"] <= 0.05).groupby(tests["kind"]).mean().round(4).to_dict(),
        "any false positive after Holm": families.round(4).to_dict(),
        "equivalent at the margin": round(float(np.mean(equivalent)), 4) if equivalent else None,
        "equivalent scores at the margin": round(float(np.mean(alike)), 4) if alike else None,
        "claims": claim_summary([one["claims"] for one in said], getattr(scenario, "matter", "")),
    }


def _coverage(held: pd.DataFrame) -> dict[str, float]:
    """The share of intervals that hold the truth, by kind; of simultaneous ones that of families all of which do."""
    alone = held.groupby("kind")["held"].mean()
    together = held.loc[held["kind"] == BEHIND]
    families = together.groupby([together["sweep"], together["what"].str.split().str[0]])["held"].all()
    return {**alone, **({BEHIND: families.mean()} if len(families) else {})}


def _missing(intervals: pd.DataFrame) -> float:
    """The share of numbers that have no interval."""
    return round(1 - len(intervals.dropna(subset=["low", "high"])) / max(1, len(intervals)), 4)


def rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The first table: a line per scenario, coverage by kind of interval, false positives by kind of test."""
    kinds = ("mean ER", "pair", "slope", "trend")
    tests = ("against the baseline", "pair", "slope", "trend")
    yield ("scenario", "replicates", *kinds, *(f"false: {kind}" for kind in tests), "equivalent at the margin",
           "without interval")  # fmt: skip
    for name, one in found.items():
        yield (
            name,
            str(one["replicates"]),
            *(_share(one["coverage"].get(kind)) for kind in kinds),
            *(_share(one["false positives"].get(kind)) for kind in tests),
            _share(one["equivalent at the margin"]),
            _share(one["no interval"] or None),
        )


def claim_rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The second table: a line per scenario, of what is claimed in words."""
    kinds = ("group", "pair", "levels", "slopes")
    yield ("scenario", "replicates", "any false claim", "of a group", "of a pair", "of levels", "of slopes",
           'false "no effect"', "refused", "not robust", "warned", "true: groups", "true: levels")  # fmt: skip
    for name, one in found.items():
        claims = one["claims"]
        yield (
            name,
            str(one["replicates"]),
            _share(claims["any"]),
            *(_share(claims["false"].get(kind)) for kind in kinds),
            *(_share(claims[what]) for what in ("no effect", "refused", "not robust", "warned")),
            *(_share(claims["claimed"].get(kind)) for kind in ("group", "levels")),
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _merged(file: Path, name: str, table: Sequence[tuple[str, ...]]) -> None:
    """Put these rows into the document's table of that name, in place of the same scenarios' rows."""
    header, *lines = table
    known = {row[0]: row for row in [*table_in(file, name)[1:], *lines]}
    write_table(file, name, [header, *(known[one] for one in SCENARIOS if one in known)])


def main(argv: list[str]) -> None:
    """Run the scenarios, print the tables and the JSON line, write the document's tables when asked to."""
    parser = argparse.ArgumentParser("python -m bench.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="these scenarios")
    parser.add_argument("--scores-only", action="store_true", help="the raw scores alone, which is faster by far")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the tables into this document")
    parser.add_argument("--keep", type=Path, help="keep every simulated sweep in this folder, and go on from there")
    args = parser.parse_args(argv)
    found: dict[str, dict[str, Any]] = {}
    with multiprocessing.get_context("spawn").Pool(args.processes) if args.processes > 1 else nullcontext() as pool:
        mapped = partial(pool.map, chunksize=4) if pool else map
        for name in args.only or SCENARIOS:
            begun = time.perf_counter()
            found[name] = summary(name, run(name, args.replicates, mapped, args.keep, args.scores_only))
            print(f"{name}: {time.perf_counter() - begun:.0f} s {found[name]}", flush=True)
    tables = {"scores": list(score_rows(found))}
    if not args.scores_only:
        tables |= {"claims": list(claim_rows(found)), "coverage": list(rows(found))}
    if args.write:
        for name, table in tables.items():
            _merged(args.write, name, table)
    *others, last = tables.values()
    for table in others:
        print_table(table[0], table[1:])
    show(last[0], last[1:], found)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
