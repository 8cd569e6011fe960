"""Parse the search space of a spec: every distribution of a file as a dimension, checked by drawing from it.

A value that no draw could have is an error, reported at its line. Values that are only invalid together are not: the
search rejects such a draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ray_robust import registry
from ray_robust.errors import Problem, did_you_mean
from ray_robust.spec.grid import POINTS, SOURCES, WITHIN, axes_in, is_drawn
from ray_robust.spec.keys import SECTIONS, keys_of, unknown_key
from ray_robust.spec.search_section import Search
from ray_robust.spec.search_space import DISTRIBUTIONS, Dimension, Space, dimension, distribution_of
from ray_robust.spec.section_parser import DRAWN, VARYING, Level, SectionParser, mapping
from ray_robust.spec.validation_messages import describe_error, dotted, first_per_key
from ray_robust.spec.values import is_whole

DRAWS_TRIED = 1_000  # for one that meets all conditions
DRAWS_ALIKE = 100  # after which an error of all of them, away from what is drawn, is taken for the file's own


def parse_space(parser: SectionParser, raw: Mapping[str, Any], search: Search) -> Space:
    """Return what the search draws, empty where there is nothing or an error, which is reported. Sets the parser's
    `drawn` to the first draw whose values are valid together."""
    dimensions: list[Dimension] = []
    for key in VARYING:
        for path, axis in axes_in(raw.get(key, {}), (key,)):
            if is_drawn(path, axis):
                dimensions += _dimension(parser, path, axis, search)
    space = Space(tuple(dimensions), search.seed)
    if search.draws and not dimensions and not parser.problems:
        ways = "{uniform: [a, b]}, {loguniform: [a, b]}, {choice: [...]} or {simplex: [names]}"
        parser.report(
            ("search",), f"search: method {search.method} draws, but no value is left open; write one as {ways}"
        )
    if not dimensions or parser.problems:
        return Space((), search.seed)
    first: SectionParser | None = None
    alike: set[tuple[tuple, Problem]] | None = None
    for number in range(DRAWS_TRIED):
        trial = SectionParser(parser.document, space.draw(number))
        levels = [trial.levels(key, raw.get(key, {})) for key in DRAWN]
        if all(levels) and not trial.problems:
            parser.drawn = trial.drawn
            return space
        first = trial if first is None or (trial.problems and not first.problems) else first
        own = set(zip(trial.paths, trial.problems, strict=True))
        alike = own if alike is None else alike & own
        if number + 1 >= DRAWS_ALIKE and any(not _is_within(path, dimensions) for path, _ in alike):
            break
    assert first is not None
    for path, problem in zip(first.paths, first.problems, strict=True):
        parser.report(path, problem.what)
    if not first.problems:
        parser.report(("search", "where"), f"search.where: none of the first {DRAWS_TRIED:,} draws meets it")
    return space


def _is_within(path: tuple, dimensions: Sequence[Dimension]) -> bool:
    """Whether a path is at, below or above something that is drawn."""
    return any(path[: len(one.path)] == one.path[: len(path)] for one in dimensions)


def representative_levels(parser: SectionParser, raw: Mapping[str, Any], space: Space) -> list[Level]:
    """Return mixtures that, with the first, stand for all that can be drawn; report values that no draw could have."""
    levels: list[Level] = []
    paths = {one.key: one.path for one in space.dimensions}
    for changed, values in space.cover(parser.drawn or {}):
        trial, own = SectionParser(parser.document, values), paths[changed]
        mixtures, *_ = [trial.levels(key, raw.get(key, {})) for key in DRAWN]
        for path, problem in zip(trial.paths, trial.problems, strict=True):
            if path[: len(own)] == own:  # else the values only clash here
                parser.report(path, problem.what)
        levels += [] if trial.problems else mixtures
    return levels


def _dimension(parser: SectionParser, path: tuple, axis: Mapping[str, Any], search: Search) -> list[Dimension]:
    """Return the dimension of one distribution, as a list of none or one."""
    key, name = dotted(path), distribution_of(axis)
    if not search.draws and name == "simplex":
        return []  # a simplex of a grid, which wants its number of draws
    if not search.draws:
        drawing = " or ".join(method for method, of in registry.SEARCHES.items() if of.draws)
        what = (
            f"{key}: {{{name}: ...}} is drawn by search.method {drawing}; method {search.method} wants {{grid: [...]}}"
        )
        parser.report(path, what)
    elif path[0] not in DRAWN:
        what = f"a search draws within {' and '.join(DRAWN)}; {{grid: [...]}} runs every draw on each"
        parser.report(path, f"{key}: {what}")
    elif len(path) > 1 and path[:2] != POINTS and path[1] not in (keys := keys_of(SECTIONS[path[0]])):
        what = unknown_key(path[1], path[0], keys, parser.document.tree)
        parser.report(path[:2], f"{dotted(path[:2])}: {what}")
    elif (
        len(path) > 2
        and path[1] not in WITHIN
        and not (path[:2] == SOURCES and (len(path) == 3 or path[3:] == ("weight",)))
    ):
        parser.report(path, f"{key}: cannot be drawn; of a source only its weight can")
    else:
        field = SECTIONS[path[0]].model_fields.get(path[1]) if len(path) == 2 else None
        try:
            one = dimension(path, axis, field is not None and is_whole(field))
            for source in mapping(axis.get("options")):
                if source not in one.names:
                    what = f"no source of the simplex{did_you_mean(source, one.names)}"
                    parser.report((*path, "options", source), f"{key}.options.{source}: {what}")
            return [one]
        except ValidationError as error:
            for detail in first_per_key(DISTRIBUTIONS[name], error):
                for line in describe_error(DISTRIBUTIONS[name], detail, path, {}, False, parser.document.tree):
                    parser.report(*line)
        except ValueError as error:
            parser.report(path, f"{key}: {error}")
    return []
