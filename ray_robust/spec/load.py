"""A sweep's YAML, read and checked: what varies, what is held fixed, and every mistake in it at once.

Hands on `Spec`. What each key means is in `sections`, one section is read by `reader`, what a search draws by
`drawing`, the file with its lines by `yaml_lines`; no torch, no ray, milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ray_robust import registry
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.spec.grid import axes_in, is_drawn, put
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS, Search
from ray_robust.spec.search_space import NO_SPACE, Space
from ray_robust.spec.section_parser import DRAWN, NOTHING, SECTIONS, VARYING, Level, Reader, mapping
from ray_robust.spec.sections import (
    LARGEST_SEED,
    MOST_TRIALS,
    Analysis,
    Baseline,
    Finetune,
    ModelSection,
    PoolSection,
    Pretrain,
    Resources,
    Section,
    SourceSection,
    TaskSection,
    Training,
    parse_number,
)
from ray_robust.spec.space_parser import others, read_space
from ray_robust.spec.validation_messages import dotted, shown
from ray_robust.spec.yaml_lines import Document, parse


@dataclass(frozen=True)
class Spec:
    """A whole sweep, checked. `resolved` is its YAML with every default filled in; `place` says where a key stands.

    space   what a search draws; empty for a grid. Its `pretrains` then stand for all that can be drawn, so that sources
            and tables are known; `at` gives those of one draw
    fallen  how many mixtures of the grid do not meet `search.where`
    """

    name: str
    question: str
    tasks: tuple[Level[TaskSection], ...]
    models: tuple[Level[ModelSection], ...]
    pretrains: tuple[Level[Pretrain], ...]
    finetunes: tuple[Level[Finetune], ...]
    baseline_finetunes: tuple[Level[Finetune], ...]
    seeds: tuple[int, ...]
    baseline: Baseline
    search: Search
    resources: Resources
    analysis: Analysis
    track: tuple[str, ...]
    resolved: str
    document: Document
    space: Space = NO_SPACE
    fallen: int = 0

    def at(self, values: Mapping[str, Any]) -> Spec:
        """The sweep with what a search has drawn in its place; see `Space.draw`.

        Raises UserError when the values do not go together, or do not meet `search.where`.
        """
        reader = Reader(self.document, values)
        levels = {key: reader.levels(key, self.document.tree.get(key, {})) for key in DRAWN}
        if reader.problems:
            raise UserError(*reader.problems)
        if not levels["pretrain"]:
            raise UserError(Problem(self.place("search", "where"), "search.where: is not met"))
        return replace(self, pretrains=levels["pretrain"], finetunes=levels["finetune"], space=NO_SPACE)

    def place(self, *path: str | int) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        return self.document.place(path)


TRACK = ["csv"]  # the logs that are kept where the spec names none
OTHER_KEYS = (
    "seeds",
    "track",
    "question",
    "provenance",
)  # provenance: written into a run's spec.yaml, ignored when read


def load_spec(file: str | Path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read and check a sweep's YAML; `overrides` are `dotted.key=value` texts that replace single values.

    Raises UserError with every problem found, each with file and line.
    """
    document = parse(Path(file))
    problems: list[Problem] = []
    for override in overrides:
        try:
            document.override(override)
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    return _Reader(document).read()


class _Reader(Reader):
    """Makes a Spec of a document."""

    def read(self) -> Spec:
        raw = self.document.tree
        for key in raw:
            if key not in SECTIONS and key not in OTHER_KEYS:
                known = [*SECTIONS, *OTHER_KEYS]
                self.say((key,), f"{key}: unknown key{did_you_mean(key, known)}")
        raw = {key: value for key, value in raw.items() if key in SECTIONS or key in OTHER_KEYS}
        raw["baseline"] = _baseline(raw.get("baseline", "scratch"))
        for key in ("task", "pretrain"):
            if key not in raw:
                self.say((), f"{key}: missing; a sweep needs it")
        self.misspelt(raw)
        given = self.fixed("search", raw.get("search", {}))
        if given is None and mapping(raw.get("search")).get("method") in ("random", "optuna"):
            raise UserError(*self.problems)  # how to read what is left open is not known
        search = given or Search()
        self.conditions = self.where(mapping(raw.get("search")).get("where"))
        space = NO_SPACE if given is None else read_space(self, raw, search)
        if self.problems and search.draws:
            for key in DRAWN:
                self.unknown_keys((key,), mapping(raw.get(key)), key)
            raise UserError(*self.problems)  # what is drawn is not known, and neither is what follows
        levels = {
            key: self.levels(key, raw.get(key, {})) for key in VARYING if key in raw or key in ("model", "finetune")
        }
        fixed = {key: self.fixed(key, raw.get(key, {})) for key in SECTIONS if key not in (*VARYING, "search")}
        if space.dimensions:
            levels["pretrain"] = (*levels["pretrain"], *others(self, raw, space))
        if self.fallen and not levels.get("pretrain") and not self.problems:
            self.say(("search", "where"), f"search.where: none of the {self.fallen:,} mixtures meets it")
        seeds = self.seeds(raw.get("seeds", 1))
        track = self.track(raw.get("track", TRACK))
        baseline = fixed["baseline"]
        baseline_finetunes: tuple = ()
        if baseline is not None:
            merged = {**mapping(raw.get("finetune")), **baseline.finetune}
            self.unknown_keys(("baseline", "finetune"), baseline.finetune, "finetune")
            own = {("finetune", name): ("baseline", "finetune", name) for name in baseline.finetune}
            if open_ := [path for path, axis in axes_in(merged, ("finetune",)) if is_drawn(path, axis)]:
                if baseline.name == "scratch":
                    what = "is drawn; say in baseline.finetune what the baseline takes"
                    self.say(open_[0], f"{dotted(open_[0])}: {what}")
            else:
                baseline_finetunes = self.levels("finetune", merged, own)
            if search.draws and baseline.name not in ("scratch", "none"):
                self.say(("baseline",), "baseline: of a search it is scratch or none: no drawn mixture is known before")
            elif search.steered and search.objective == EFFECTIVE_ROBUSTNESS and baseline.name == "none":
                self.say(("baseline",), "baseline: none leaves no line, so no effective_robustness; give scratch, or "
                                        "another search.objective")  # fmt: skip
            groups = [level.label for level in levels.get("pretrain", ()) if level.label]
            if raw.get("pretrain") == NOTHING and baseline.name != "scratch":
                self.say(("pretrain",), f"pretrain: none leaves nothing to run with baseline: {baseline.name}")
            elif baseline.name not in ("scratch", "none", *groups) and levels.get("pretrain"):
                known = ["scratch", "none", *groups]
                self.say(("baseline",), f"baseline: {baseline.name!r} is no group{did_you_mean(baseline.name, known)}")
            if baseline.name != "scratch" and (baseline.finetune or baseline.seeds):
                self.say(("baseline",), "baseline: seeds and finetune belong to the scratch baseline only")
        question = raw.get("question") or self.document.question
        if not isinstance(question, str):
            self.say(("question",), f"question: must be text, not {question!r}")
        mixtures = search.trials or 1 if search.draws else len(levels.get("pretrain", ()) or (None,))
        counts = [len(levels["model"]), mixtures]
        if (count := math.prod((*counts, len(seeds)))) > MOST_TRIALS:
            self.say((), f"models x mixtures x seeds make {count:,} trials; at most {MOST_TRIALS:,} are possible")
        for key in ("pretrain", "finetune"):
            self.unused(key, raw.get(key), [level.section for level in levels.get(key, ())])
        if self.problems:
            raise UserError(*self.problems)
        return Spec(
            name=self.document.name,
            question=question,
            tasks=levels["task"],
            models=levels["model"],
            pretrains=levels["pretrain"],
            finetunes=levels["finetune"],
            baseline_finetunes=baseline_finetunes if baseline.name == "scratch" else (),
            seeds=seeds,
            baseline=baseline,
            search=search,
            resources=fixed["resources"],
            analysis=fixed["analysis"],
            track=track,
            resolved=_resolved(raw, levels, {**fixed, "search": search}, seeds, track, question),
            document=self.document,
            space=space,
            fallen=self.fallen,
        )

    def unknown_keys(self, path: tuple, raw: Mapping[str, Any], section: str) -> None:
        """Report keys that a section does not have, where it may not come to be read."""
        known = SECTIONS[section].model_fields
        for name in raw:
            if name not in known and name not in ("points", "grid"):
                self.say((*path, name), f"{dotted((*path, name))}: unknown key{did_you_mean(name, known)}")

    def unused(self, key: str, raw: Any, sections: list[Any]) -> None:
        """Say which written keys belong to methods that no level of the section has."""
        if None in sections or not sections:
            return
        points = [name for point in mapping(raw).get("points") or () for name in point]
        for name in dict.fromkeys([*mapping(raw), *points]):
            methods = SECTIONS[key].only_for.get(name, ())
            if methods and not any(section.method in methods for section in sections):
                self.say((key, name), f"{key}.{name}: belongs to method {' or '.join(methods)}, which is not used here")

    def seeds(self, raw: Any) -> tuple[int, ...]:
        value = parse_number(raw) if isinstance(raw, str) else raw
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TRIALS:
            return tuple(range(1, value + 1))
        good = isinstance(value, list) and all(type(v) is int and 0 <= v < LARGEST_SEED for v in value)
        if isinstance(value, list) and value and good and len(set(value)) == len(value):
            return tuple(value)
        told = repr(raw)[:60] if isinstance(raw, list) else shown(raw)
        odd = [i for i, v in enumerate(value) if type(v) is not int] if isinstance(value, list) else []
        self.say(
            ("seeds", *odd[:1]),
            f"seeds: must be how many, at least 1, or a list of different whole numbers, not {told}",
        )
        return ()

    def track(self, raw: Any) -> tuple[str, ...]:
        """The logs that a sweep keeps for other tools."""
        names = [raw] if isinstance(raw, str) else raw
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.say(("track",), f"track: must be a list of logs, e.g. [csv, tensorboard], not {shown(raw)}")
            return ()
        for i, name in enumerate(names):
            if name not in registry.LOGS:
                self.say(("track", i), f"track: {name!r} is no known log{did_you_mean(name, registry.LOGS)}")
        return tuple(dict.fromkeys(names))


def _baseline(raw: Any) -> Any:
    """`baseline: scratch` is short for `baseline: {name: scratch}`; `none` and an empty value are alike."""
    if raw is None:
        return {"name": "none"}
    return {"name": raw} if isinstance(raw, str) else raw


def _resolved(
    raw: dict, levels: dict, fixed: dict, seeds: tuple[int, ...], track: tuple[str, ...], question: str
) -> str:
    """The spec with defaults filled in and its axes as they were written."""
    tree: dict[str, Any] = {"question": question} if question else {}
    for key in SECTIONS:
        if raw.get(key) == NOTHING:
            tree[key] = NOTHING
            continue
        section = levels[key][0].section if key in levels else fixed[key]
        tree[key] = _plain(key, section)
        written = mapping(raw.get(key))
        if key == "pretrain":  # in their order, with those that the first mixture lacks
            known, sources = tree[key]["sources"], mapping(written.get("sources"))
            tree[key]["sources"] = {name: known.get(name, part) for name, part in sources.items()} or known
        if key in ("pretrain", "finetune"):  # what only another level's method uses
            tree[key] |= {name: written[name] for name in section.idle(section.method) & set(written)}
        for path, axis in axes_in(written, (key,)):
            put(tree, path, axis)
        if key == "pretrain" and "points" in written:
            for name in {name: None for point in written["points"] for name in point}:
                tree[key].pop(name, None)
                if name in written:  # what holds where a point does not say otherwise
                    tree[key][name] = written[name]
            tree[key]["points"] = written["points"]
        if key in ("pretrain", "finetune"):
            for name in _of_methods([level.section for level in levels[key]], written):
                tree[key].pop(name, None)
    tree["seeds"] = list(seeds)
    tree["track"] = list(track)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _of_methods(sections: list[Any], written: dict) -> set[str]:
    """Keys that `resolved` leaves out: what no method there uses, and defaults that differ between methods."""
    each = list({section.method: section for section in sections}.values())
    unused = set.intersection(*(section.idle(section.method) for section in each))
    differing = {name for name in type(each[0]).model_fields if len({repr(getattr(s, name)) for s in each}) > 1}
    return unused | (differing - set(written))


def _plain(key: str, section: Section) -> dict:
    """A section as the user could have written it."""
    if key == "search":  # a method refuses the keys of others, even with their defaults
        return {"method": section.method, **section.model_dump(mode="json", exclude_defaults=True)}  # type: ignore[attr-defined]
    plain = section.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    if key == "task":
        return {"name": plain["name"], "kind": plain["kind"], **plain["options"]}
    if key == "pretrain":
        plain["sources"] = {
            name: {"kind": source["kind"], "weight": source["weight"], **source["options"]}
            for name, source in plain["sources"].items()
        }
    return plain


__all__ = ["Analysis", "Baseline", "Finetune", "Level", "ModelSection", "PoolSection", "Pretrain", "Resources",
           "Search", "Section", "SourceSection", "Spec", "TaskSection", "Training", "load_spec",
           "parse_number"]  # fmt: skip
