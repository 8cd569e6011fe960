"""The reference of every key of a spec, from its models: `python -m bench.keys` writes `docs/keys.md`.

Meanings and examples are those of the fields in `ray_robust/spec`; `tests/test_keys.py` loads every example and holds
the file to the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ray_robust import registry
from ray_robust.spec.augmentation import AUGMENTATIONS
from ray_robust.spec.keys import keys_of, parents
from ray_robust.spec.mixture_axes import Lattice, MixtureGrid, Simplex
from ray_robust.spec.search_space import Bounds, Choice, SourceSimplex
from ray_robust.spec.section import Section
from ray_robust.spec.values import MOST

DOCUMENT = Path(__file__).parents[1] / "docs/keys.md"
POINTS = (
    "points: [{num_classes: 50, images_per_class: 160}, {num_classes: 200, images_per_class: 40}]"  # no model has it
)
HEAD = f"""\
# Every key of a spec

Made by `python -m bench.keys` from the models in `ray_robust/spec`: change a key's meaning there, and run it again.

A spec is a mapping of the sections below. Under `task`, `model`, `pretrain` and `finetune` any value, and a section as
a whole, may be `{{grid: [...]}}`: every combination is run. `pretrain.points` lists combinations that are no product,
such as `{POINTS}`.
Numbers may be written `3e-4`, `64k`, `1.2M` or `1_000`; whole numbers are at most 10^12. Paths are relative to the
directory that the command is run in. An example shows what stands in the section of its table.
"""
TITLES = {"": "At the top of the file", "pretrain.sources.NAME": "pretrain.sources: each source"}
AXES = "pretrain.sources as a whole"
OPEN = "Values that a search draws"
INTROS = {
    AXES: "In place of a mapping of sources: several mixtures.",
    OPEN: "Where a search draws, any value of `pretrain` or `finetune` may be one of these ([Searching](search.md)).",
}
AUGMENT = (
    "What `pretrain.augment` and `finetune.augment` name; test images never change. Several joined by `+` are done "
    "in the order of this table, and what is part of another is not done twice: `flip+crop` is `crop`, "
    "`crop+trivialaugment` is `trivialaugment`. For satellite images, say `rotate90+crop` or "
    "`rotate90+trivialaugment`. "
    "`randaugment` and `trivialaugment` are drawn for one image at a time, the others for a whole batch "
    "([cost](performance.md#augmentations))."
)
_SIGNS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def sections() -> Iterator[tuple[str, str, list[type[BaseModel]]]]:
    """Yield (title, path that examples stand in, models) of every table."""
    for one in parents({}):
        if one.model is not None:
            yield TITLES.get(one.path, one.path), one.path, [one.model]
        if one.path == "pretrain.sources.NAME":
            yield AXES, "pretrain.sources", [MixtureGrid, Lattice, Simplex]
    yield OPEN, "pretrain", [Bounds, Choice, SourceSimplex]
    for kind, table in (("task", registry.TASKS), ("source", registry.SOURCES)):
        names: dict[type[BaseModel], list[str]] = {}
        for name in table:
            names.setdefault(registry.find(kind, name).Options, []).append(name)
        for options, same in names.items():
            yield f"{kind} {', '.join(f'`{name}`' for name in same)}", f"{kind} {same[0]}", [options]


def markdown() -> str:
    """Return the text of docs/keys.md."""
    parts = [HEAD]
    for title, _, models in sections():
        intro = INTROS.get(title) or " ".join((models[0].__doc__ or "").split("\n\n")[0].split())
        heading = f"{'#' * (2 + title.count('.'))} {title}"
        lines = dict.fromkeys(line for model in models for line in rows(model))  # what several ways share, once
        table = ["| key | default | type | meaning | example |", "|---|---|---|---|---|", *lines]
        parts.append("\n".join([heading, "", *([intro, ""] if intro else []), *table, ""]))
    return "\n".join([*parts, *augmentations()])


def augmentations() -> Iterator[str]:
    """Yield the lines on what each value of `augment` does."""
    yield from ("## Augmentations", "", AUGMENT, "", "| augment | what it does |", "|---|---|")
    yield from (f"| `{name}` | {what} |" for name, what in AUGMENTATIONS.items())
    yield ""


def rows(model: type[BaseModel]) -> Iterator[str]:
    """Yield the line of every key of a model."""
    schema = model.model_json_schema()["properties"]
    only_for = model.only_for if issubclass(model, Section) else {}
    for name, field in keys_of(model).items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        shown = str(extra.get("shown") or type_text(schema[name]))
        words = [f"`{word}`" for word in words] if isinstance(words := extra.get("words"), list) else []
        meaning = field.description or ""
        if methods := only_for.get(name):
            meaning = f"method {' or '.join(methods)}: {meaning}"
        cells = [f"`{name}`", default_text(field, extra), " or ".join([shown, *words]), meaning]
        cells.append(" <br> ".join(f"`{example}`" for example in field.examples or ()))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def default_text(field: FieldInfo, extra: dict[str, Any]) -> str:
    """Return a key's default as YAML."""
    if "default" in extra:
        return str(extra["default"])
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{text.replace('...', '').strip()}`"


def type_text(schema: dict[str, Any]) -> str:
    """Return what a key may be, for people, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        limits = [f"{text} {schema[sign]:,.12g}" for sign, text in _SIGNS.items() if schema.get(sign, MOST) != MOST]
        limits += [f"a multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
        return f"{'whole number' if kind == 'integer' else 'number'} {' and '.join(limits)}".strip()
    if kind == "array":
        items = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return f"list of {type_text(items)}" if items else "list"
    plain = {"string": "text", "boolean": "`true`, `false`", "object": "mapping"}
    return plain.get(str(kind), "mapping" if "$ref" in schema else "any")


if __name__ == "__main__":
    DOCUMENT.write_text(markdown(), "utf-8")
