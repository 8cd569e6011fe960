"""Read and check a sweep's YAML: `load_spec(file)` returns a `Spec` or raises all errors at once.

What each key means is in `sections` and `search_section`; `section_parser` reads one section, `space_parser` what a
search draws, `yaml_lines` the file with its lines; `resolved` writes the spec back. No torch, no ray: milliseconds.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ray_robust import registry
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.run.analysis_settings import DEFAULTS
from ray_robust.run.seed_plan import SeedRule
from ray_robust.spec.builtin import builtin_sweeps, is_name
from ray_robust.spec.grid import axes_in, is_drawn
from ray_robust.spec.keys import SECTIONS, TOP, keys_of, unknown_key
from ray_robust.spec.pool_sections import PoolSection, SourceSection, TaskSection
from ray_robust.spec.python_values import document_of
from ray_robust.spec.resolved import resolved_yaml
from ray_robust.spec.run_sections import Analysis, Baseline, Resources
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS, Search
from ray_robust.spec.search_space import NO_SPACE, Space
from ray_robust.spec.section import LARGEST_SEED, MOST_TRIALS, Section
from ray_robust.spec.section_parser import DRAWN, NOTHING, VARYING, Level, SectionParser, mapping
from ray_robust.spec.sections import Finetune, ModelSection, Pretrain
from ray_robust.spec.space_parser import parse_space, representative_levels
from ray_robust.spec.training import Training
from ray_robust.spec.validation_messages import dotted
from ray_robust.spec.values import parse_number, short_repr
from ray_robust.spec.yaml_lines import Document, parse

DEFAULT_LOGS = ["csv"]  # where the spec names none
UNLABELLED = "pretrained"  # the group of a mixture that needs no other name


@dataclass(frozen=True)
class Spec:
    """A whole sweep, checked. `resolved` is its YAML with every default filled in; `location` returns a key's line.

    space     what a search draws; empty for a grid. Its `pretrains` then stand for all that can be drawn, so that
              sources and tables are known; `at` returns those of one draw
    excluded  how many mixtures of the grid do not meet `search.where`
    stages    how more seeds follow those of the first stage, `seeds`; None where they are fixed
    seeds_of  by group, how many seeds it has in both stages, once that is planned
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
    excluded: int = 0
    stages: SeedRule | None = None
    seeds_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def written(self) -> dict[str, Any]:
        """The keys as the user wrote them."""
        return {key: part for key, part in self.document.tree.items() if key != "provenance"}

    def at(self, values: Mapping[str, Any]) -> Spec:
        """Return the sweep with the drawn values in place of their distributions; see `Space.draw`.

        Raise UserError when the values contradict each other, or do not meet `search.where`.
        """
        parser = SectionParser(self.document, values)
        levels = {key: parser.levels(key, self.document.tree.get(key, {})) for key in DRAWN}
        if parser.problems:
            raise UserError(*parser.problems)
        if not levels["pretrain"]:
            raise UserError(Problem(self.location("search", "where"), "search.where: is not met"))
        return replace(self, pretrains=levels["pretrain"], finetunes=levels["finetune"], space=NO_SPACE)

    def location(self, *path: str | int) -> str:
        """Return `file:line` of a key, or of the nearest key above it."""
        return self.document.location(path)


def load_spec(source: str | Path | Mapping[str, Any] | Spec, overrides: tuple[str, ...] = ()) -> Spec:
    """Read and check a sweep: its YAML file, the name of a built-in one, a dict with the same keys, or a Spec.
    `overrides` are `dotted.key=value` texts that replace single values.

    Raise UserError with every problem, each with file and line (of a dict, with its key).
    """
    if isinstance(source, Spec):
        if not overrides:
            return source
        document = copy.deepcopy(source.document)
    elif isinstance(source, Mapping):
        document = document_of(source)
    else:
        document = parse(_file(str(source)))
    for override in overrides:
        try:
            document.override(override)
        except UserError as error:
            document.problems.extend(error.problems)
    return _SpecParser(document).parse()


def _file(text: str) -> Path:
    """The file that a text names. Raise UserError for one that can only be the name of a built-in sweep and is none."""
    if is_name(text):
        named = builtin_sweeps()
        if text in named:
            return named[text]
        if not Path(text).parent.is_dir() or "/" not in text:
            near = did_you_mean(text, named) or f"; there are {', '.join(sorted(named))}"
            raise UserError(Problem(text, f"no such file or built-in sweep{near}"))
    return Path(text)


class _SpecParser(SectionParser):
    """Makes a Spec of a document. Each step reports what it finds wrong; `parse` raises all of it."""

    stages: SeedRule | None = None

    def parse(self) -> Spec:
        raw = self._known_keys()
        self.report_misspelt(raw)
        search, space = self._search(raw)
        levels, fixed = self._sections(raw, search, space)
        seeds, track = self._seeds(raw.get("seeds", 1)), self._track(raw.get("track", DEFAULT_LOGS))
        baseline_finetunes: tuple[Level, ...] = ()
        if fixed["baseline"] is not None:
            baseline_finetunes = self._baseline_finetunes(raw, fixed["baseline"])
            self._check_baseline(raw, fixed["baseline"], search, levels.get("pretrain", ()))
            self._check_stages(raw, fixed["baseline"], search, levels.get("pretrain", ()))
        question, planned = self._question(raw), raw["seeds"] if self.stages else list(seeds)
        self._check_size(search, levels, seeds)
        for key in DRAWN:
            self._check_unused(key, raw.get(key), [level.section for level in levels.get(key, ())])
        if problems := [*self.document.problems, *self.problems]:
            raise UserError(*problems)
        return Spec(
            name=self.document.name,
            question=question,
            tasks=levels["task"],
            models=levels["model"],
            pretrains=levels["pretrain"],
            finetunes=levels["finetune"],
            baseline_finetunes=baseline_finetunes,
            seeds=seeds,
            stages=self.stages,
            baseline=fixed["baseline"],
            search=search,
            resources=fixed["resources"],
            analysis=fixed["analysis"],
            track=track,
            resolved=resolved_yaml(raw, levels, fixed, {"question": question, "seeds": planned, "track": track}),
            document=self.document,
            space=space,
            excluded=self.excluded,
        )

    def _known_keys(self) -> dict[str, Any]:
        """Return the sections of the file, the baseline in its long form."""
        tree = self.document.tree
        for key in tree:
            if key not in TOP:
                self.report((key,), f"{key}: {unknown_key(str(key), '', TOP, tree)}")
        raw = {key: value for key, value in tree.items() if key in TOP}
        raw["baseline"] = _long_baseline(raw.get("baseline", DEFAULTS.baseline))
        for key in ("task", "pretrain"):
            if key not in raw:
                self.report((), f"{key}: missing; a sweep needs it")
        return raw

    def _search(self, raw: Mapping[str, Any]) -> tuple[Search, Space]:
        """Return how the sweep chooses its mixtures, and what it draws from; where the section has an error, what
        stands for it, so that the other sections can be read."""
        search = self.fixed("search", raw.get("search", {}))
        if search is None:
            method = mapping(raw.get("search")).get("method")
            name = method if isinstance(method, str) and method in registry.SEARCHES else "random"
            search = Search(method=name, trials=1) if registry.SEARCHES[name].draws else Search()
        self.drawing = search.draws
        self.conditions = self.parse_conditions(mapping(raw.get("search")).get("where"))
        return search, parse_space(self, raw, search)

    def _sections(
        self, raw: Mapping[str, Any], search: Search, space: Space
    ) -> tuple[dict[str, tuple[Level, ...]], dict[str, Any]]:
        """Return the levels of the sections that vary, and those that do not."""
        levels = {
            key: self.levels(key, raw.get(key, {})) for key in VARYING if key in raw or key in ("model", "finetune")
        }
        fixed = {key: self.fixed(key, raw.get(key, {})) for key in SECTIONS if key not in (*VARYING, "search")}
        if space.dimensions:
            levels["pretrain"] = (*levels["pretrain"], *representative_levels(self, raw, space))
        elif "pretrain" in levels and not search.draws:  # a draw does not know what the others are called
            levels["pretrain"] = _named_by_files(levels["pretrain"])
        if self.excluded and not levels.get("pretrain") and not self.problems:
            self.report(("search", "where"), f"search.where: none of the {self.excluded:,} mixtures meets it")
        return levels, {**fixed, "search": search}

    def _baseline_finetunes(self, raw: Mapping[str, Any], baseline: Baseline) -> tuple[Level, ...]:
        """Return the fine-tunings from scratch: those of `finetune` with the keys of `baseline.finetune` replaced."""
        merged = _over(mapping(raw.get("finetune")), baseline.finetune)
        origins = {("finetune", name): ("baseline", "finetune", name) for name in baseline.finetune}
        if drawn := [path for path, axis in axes_in(merged, ("finetune",)) if is_drawn(path, axis)]:
            if baseline.name == "scratch":
                what = "is drawn; say in baseline.finetune what the baseline takes"
                self.report(drawn[0], f"{dotted(drawn[0])}: {what}")
            for name in baseline.finetune:
                if name not in (keys := keys_of(Finetune)):
                    what = unknown_key(name, "baseline.finetune", keys, self.document.tree)
                    self.report(("baseline", "finetune", name), f"baseline.finetune.{name}: {what}")
            return ()
        unused = {"wise_ft", "probe_epochs"} | ({"method"} if baseline.finetune.get("method") != "full" else set())
        for name in sorted(unused & set(baseline.finetune)):
            what = "a model from scratch is fine-tuned in full, and has no weights to average with; leave it out"
            self.report(("baseline", "finetune", name), f"baseline.finetune.{name}: {what}")
        levels = self.levels("finetune", merged, origins)
        return levels if baseline.name == "scratch" else ()

    def _check_baseline(
        self, raw: Mapping[str, Any], baseline: Baseline, search: Search, pretrains: tuple[Level, ...]
    ) -> None:
        """Report a baseline that this sweep cannot have."""
        if search.draws and baseline.name not in ("scratch", "none"):
            self.report(("baseline",), "baseline: of a search it is scratch or none: no drawn mixture is known before")
        elif search.adaptive and search.objective == EFFECTIVE_ROBUSTNESS and baseline.name == "none":
            self.report(("baseline",), "baseline: none leaves no line, so no effective_robustness; give scratch, or "
                                       "another search.objective")  # fmt: skip
        names = ["scratch", "none", *(level.label for level in pretrains if level.label)]
        if raw.get("pretrain") == NOTHING and baseline.name != "scratch":
            self.report(("pretrain",), f"pretrain: none leaves nothing to run with baseline: {baseline.name}")
        elif baseline.name not in names and pretrains:
            self.report(("baseline",), f"baseline: {baseline.name!r} is no group{_meant(baseline.name, names)}")
        if baseline.name != "scratch" and (baseline.finetune or baseline.seeds):
            self.report(("baseline",), "baseline: seeds and finetune belong to the scratch baseline only")
        if baseline.spread is not None:
            self._check_spread(raw, baseline)
        if baseline.name == "none" and baseline.stop_if_no_line:
            what = "baseline.stop_if_no_line: name none leaves no line to wait for"
            self.report(("baseline", "stop_if_no_line"), what)

    def _check_stages(
        self, raw: Mapping[str, Any], baseline: Baseline, search: Search, pretrains: tuple[Level, ...]
    ) -> None:
        """Report seeds in two stages that this sweep cannot have."""
        rule = self.stages
        if rule is None:
            return
        if search.draws:
            what = "a search gives every draw the same seeds; write how many, e.g. seeds: 3"
            self.report(("seeds",), f"seeds.first: {what}")
        elif baseline.name == "none" or raw.get("pretrain") == NOTHING:
            what = "baseline: none leaves no line" if baseline.name == "none" else "pretrain: none leaves no group"
            self.report(
                ("seeds", "until"), f"seeds.until: is of effective robustness, and {what}; write how many seeds"
            )
        labels = [level.label or UNLABELLED for level in pretrains]
        names = list(dict.fromkeys(["scratch", baseline.name, *labels]))
        for name in rule.of if isinstance(rule.of, tuple) else ():
            of_model = UNLABELLED in labels and name.startswith("model=")  # what it is called where there are several
            if pretrains and name not in names and not of_model:
                self.report(("seeds", "of"), f"seeds.of: {name!r} is no group{_meant(name, names)}")

    def _check_spread(self, raw: Mapping[str, Any], baseline: Baseline) -> None:
        """Report what a baseline whose fine-tunings a pilot chooses cannot have."""
        if baseline.name != "scratch":
            what = f"baseline.spread: auto chooses fine-tunings from scratch; name is {baseline.name}"
            self.report(("baseline", "spread"), what)
        for path, keys in (
            (("baseline", "finetune"), baseline.finetune),
            (("finetune",), mapping(raw.get("finetune"))),
        ):
            for key in ("num_images", "per_class"):
                if keys.get(key) not in (None, "all") and (path[0] == "baseline" or key not in baseline.finetune):
                    way = "leave it out, or set baseline.finetune.num_images to all"
                    way = way if key == "num_images" else "leave one of the two out"
                    what = f"is chosen by baseline.spread: auto; {way}"
                    self.report((*path, key), f"{dotted((*path, key))}: {what}")

    def _question(self, raw: Mapping[str, Any]) -> Any:
        question = raw.get("question") or self.document.question
        if not isinstance(question, str):
            self.report(("question",), f"question: must be text, not {question!r}")
        return question

    def _check_size(self, search: Search, levels: Mapping[str, tuple[Level, ...]], seeds: tuple[int, ...]) -> None:
        """Report a sweep of more trials than anyone could want."""
        mixtures = search.trials or 1 if search.draws else len(levels.get("pretrain", ()) or (None,))
        if (count := math.prod((len(levels["model"]), mixtures, len(seeds)))) > MOST_TRIALS:
            self.report((), f"models x mixtures x seeds make {count:,} trials; at most {MOST_TRIALS:,} are possible")

    def _check_unused(self, key: str, raw: Any, sections: list[Any]) -> None:
        """Report keys of methods that no level of the section has."""
        if None in sections or not sections:
            return
        points = [name for point in mapping(raw).get("points") or () for name in point]
        for name in dict.fromkeys([*mapping(raw), *points]):
            methods = SECTIONS[key].only_for.get(name, ())
            if methods and not any(section.method in methods for section in sections):
                what = f"belongs to method {' or '.join(methods)}, which is not used here"
                self.report((key, name), f"{key}.{name}: {what}")

    def _seeds(self, raw: Any) -> tuple[int, ...]:
        """Return the seeds: 1 to N where the file gives a number, else those of its list; of two stages the first's."""
        if isinstance(raw, dict):
            section = self.section("seeds", raw, ("seeds",))
            self.stages = section and section.rule
            return tuple(range(1, self.stages.first + 1)) if self.stages else ()
        value = parse_number(raw) if isinstance(raw, str) else raw
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TRIALS:
            return tuple(range(1, value + 1))
        good = isinstance(value, list) and all(type(v) is int and 0 <= v < LARGEST_SEED for v in value)
        if isinstance(value, list) and value and good and len(set(value)) == len(value):
            return tuple(value)
        shown = repr(raw)[:60] if isinstance(raw, list) else short_repr(raw)
        odd = [i for i, v in enumerate(value) if type(v) is not int] if isinstance(value, list) else []
        what = f"must be how many, at least 1, or a list of different whole numbers, not {shown}"
        self.report(("seeds", *odd[:1]), f"seeds: {what}")
        return ()

    def _track(self, raw: Any) -> tuple[str, ...]:
        """Return the names of the logs that the sweep keeps for other tools."""
        names = [raw] if isinstance(raw, str) else raw
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.report(("track",), f"track: must be a list of logs, e.g. [csv, tensorboard], not {short_repr(raw)}")
            return ()
        for i, name in enumerate(names):
            if name not in registry.LOGS:
                self.report(("track", i), f"track: {name!r} is no known log{did_you_mean(name, registry.LOGS)}")
        return tuple(dict.fromkeys(names))


def _long_baseline(raw: Any) -> Any:
    """Return `baseline` in its long form: `scratch` is short for `{name: scratch}`; `none` and an empty value are
    alike."""
    if raw is None:
        return {"name": "none"}
    return {"name": raw} if isinstance(raw, str) else raw


__all__ = ["Analysis", "Baseline", "Finetune", "Level", "ModelSection", "PoolSection", "Pretrain", "Resources",
           "Search", "Section", "SourceSection", "Spec", "TaskSection", "Training", "load_spec",
           "parse_number"]  # fmt: skip


def _named_by_files(levels: tuple[Level[Pretrain], ...]) -> tuple[Level[Pretrain], ...]:
    """Return levels in whose labels weights that are a file or folder go by its name, without the folders above it;
    where two are called alike, by their paths as they are written."""
    written = {value for level in levels for key, value in level.axes if key == "weights"}
    paths = [value for value in written if PurePosixPath(value).is_absolute() or value.startswith(("~", "$", "."))]
    files = {value: PurePosixPath(value).name for value in paths}
    if len({files.get(value, value) for value in written}) < len(written):
        return levels
    return tuple(replace(level, files=files) for level in levels)


def _meant(name: str, groups: Sequence[str]) -> str:
    """Return which group is meant: first one whose name is this one without keys that its method ignores."""
    parts = set(name.split(", "))
    shorter = [group for group in groups if set(group.split(", ")) < parts]
    return f"; did you mean {max(shorter, key=len)}?" if shorter else did_you_mean(name, groups)


def _over(section: dict, own: dict) -> dict:
    """Return a section with the keys of `own` replaced, in every entry where one is a grid of whole sections."""
    parts = [one["grid"] if set(one) == {"grid"} and isinstance(one["grid"], list) else [one] for one in (section, own)]
    if not all(isinstance(one, dict) for part in parts for one in part):
        return {**section, **own}  # an error that is reported elsewhere
    entries = [{**below, **above} for below, above in itertools.product(*parts)]
    return entries[0] if "grid" not in section | own else {"grid": entries}
