"""What a spec leaves open for a search: every distribution of a file as a dimension, checked by drawing from it.

Owns how the mistakes of a search space are found: a value that no draw could have is said at its line; values that only
do not go together are no mistake, such a draw is left out. Hands on `Space` to `spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ray_robust.errors import did_you_mean
from ray_robust.spec.grid import SOURCES, axes_in, is_drawn
from ray_robust.spec.search_section import Search
from ray_robust.spec.search_space import MODELS, Dimension, Space, dimension, way_of
from ray_robust.spec.section_parser import DRAWN, SECTIONS, VARYING, Level, Reader, mapping
from ray_robust.spec.sections import is_whole
from ray_robust.spec.validation_messages import dotted, explain, one_per_key

DRAWS_TRIED = 1_000  # for one that meets all conditions


def read_space(reader: Reader, raw: Mapping[str, Any], search: Search) -> Space:
    """What the search draws, empty where there is nothing or a mistake, which is said. Sets the reader's `drawn` to the
    first draw whose values go together."""
    found: list[Dimension] = []
    for key in VARYING:
        for path, axis in axes_in(raw.get(key, {}), (key,)):
            if is_drawn(path, axis):
                found += _dimension(reader, path, axis, search)
    space = Space(tuple(found), search.seed)
    if search.draws and not found and not reader.problems:
        ways = "{uniform: [a, b]}, {loguniform: [a, b]}, {choice: [...]} or {simplex: [names]}"
        reader.say(("search",), f"search: method {search.method} draws, but no value is left open; write one as {ways}")
    if not found or reader.problems:
        return Space((), search.seed)
    first: Reader | None = None
    for number in range(DRAWS_TRIED):
        trial = Reader(reader.document, space.draw(number))
        levels = [trial.levels(key, raw.get(key, {})) for key in DRAWN]
        if all(levels) and not trial.problems:
            reader.drawn = trial.drawn
            return space
        first = trial if first is None or (trial.problems and not first.problems) else first
    assert first is not None
    for path, problem in zip(first.paths, first.problems, strict=True):
        reader.say(path, problem.what)
    if not first.problems:
        reader.say(("search", "where"), f"search.where: none of the first {DRAWS_TRIED:,} draws meets it")
    return space


def others(reader: Reader, raw: Mapping[str, Any], space: Space) -> list[Level]:
    """Mixtures that, with the first, stand for all that can be drawn; says what no draw of a value could be."""
    found: list[Level] = []
    paths = {one.key: one.path for one in space.dimensions}
    for changed, values in space.cover(reader.drawn or {}):
        trial, own = Reader(reader.document, values), paths[changed]
        mixtures, *_ = [trial.levels(key, raw.get(key, {})) for key in DRAWN]
        for path, problem in zip(trial.paths, trial.problems, strict=True):
            if path[: len(own)] == own:  # else the values only clash here
                reader.say(path, problem.what)
        found += [] if trial.problems else mixtures
    return found


def _dimension(reader: Reader, path: tuple, axis: Mapping[str, Any], search: Search) -> list[Dimension]:
    """One value that is left open, as a list of none or one."""
    key, way = dotted(path), way_of(axis)
    if not search.draws and way == "simplex":
        return []  # a simplex of a grid, which wants its number of draws
    if not search.draws:
        reader.say(path, f"{key}: {{{way}: ...}} is drawn by search: {{method: random}} or optuna; "
                         "method grid wants {grid: [...]}")  # fmt: skip
    elif path[0] not in DRAWN:
        what = f"a search draws within {' and '.join(DRAWN)}; {{grid: [...]}} runs every draw on each"
        reader.say(path, f"{key}: {what}")
    elif len(path) > 2 and not (path[:2] == SOURCES and (len(path) == 3 or path[3:] == ("weight",))):
        reader.say(path, f"{key}: cannot be drawn; of a source only its weight can")
    else:
        field = SECTIONS[path[0]].model_fields.get(path[1]) if len(path) == 2 else None
        try:
            found = dimension(path, axis, field is not None and is_whole(field))
            for name in mapping(axis.get("options")):
                if name not in found.names:
                    what = f"no source of the simplex{did_you_mean(name, found.names)}"
                    reader.say((*path, "options", name), f"{key}.options.{name}: {what}")
            return [found]
        except ValidationError as error:
            for detail in one_per_key(MODELS[way], error):
                reader.say(*explain(MODELS[way], detail, path, {}, False))
        except ValueError as error:
            reader.say(path, f"{key}: {error}")
    return []
