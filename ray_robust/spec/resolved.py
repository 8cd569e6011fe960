"""The resolved YAML of a spec: every default filled in, axes as the user wrote them. Reading it gives the same spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ray_robust.spec.grid import axes_in, put
from ray_robust.spec.keys import SECTIONS
from ray_robust.spec.section import Section
from ray_robust.spec.section_parser import DRAWN, NOTHING, Level, mapping


def resolved_yaml(
    raw: Mapping[str, Any],
    levels: Mapping[str, tuple[Level, ...]],
    fixed: Mapping[str, Section],
    other_keys: Mapping[str, Any],
) -> str:
    """Return the text of the spec with its defaults filled in.

    raw         the file's tree
    levels      the checked levels of each section that varies
    fixed       the checked sections that do not vary, `search` among them
    other_keys  question, seeds and track
    """
    question = other_keys["question"]
    tree: dict[str, Any] = {"question": question} if question else {}
    for key in SECTIONS:
        if raw.get(key) == NOTHING:
            tree[key] = NOTHING
            continue
        section = levels[key][0].section if key in levels else fixed[key]
        tree[key] = _plain(key, section)
        _restore_axes(key, tree[key], mapping(raw.get(key)), [level.section for level in levels.get(key, ())])
    tree["seeds"] = other_keys["seeds"]
    tree["track"] = list(other_keys["track"])
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _restore_axes(key: str, plain: dict, written: dict, sections: list[Any]) -> None:
    """Put what varies back into the plain first level of a section."""
    if key == "pretrain":  # in their order, with those that the first mixture lacks
        first, sources = plain["sources"], mapping(written.get("sources"))
        plain["sources"] = {name: first.get(name, part) for name, part in sources.items()} or first
    if key in DRAWN:  # what only another level's method uses
        plain |= {name: written[name] for name in sections[0].idle(sections[0].method) & set(written)}
    for path, axis in axes_in(written, (key,)):
        if path == (key,):  # the section as a whole varies
            plain.clear()
            plain |= axis
        elif len(path) > 2 and path[1] not in plain:  # the first level has nothing of this key
            plain[path[1]] = written[path[1]]
        else:
            put({key: plain}, path, axis)
    if key == "pretrain" and "points" in written:
        for name in {name: None for point in written["points"] for name in point}:
            plain.pop(name, None)
            if name in written:  # what holds where a point does not say otherwise
                plain[name] = written[name]
        plain["points"] = written["points"]
    if key in DRAWN:
        for name in _of_methods(sections, written):
            plain.pop(name, None)


def _of_methods(sections: list[Any], written: dict) -> set[str]:
    """Return the keys to leave out: those that no method there uses, and defaults that differ between methods, or of
    length between levels of which some have a length of their own."""
    each = list({section.method: section for section in sections}.values())
    unused = set.intersection(*(section.idle(section.method) for section in each))
    differing = {name for name in type(each[0]).model_fields if len({repr(getattr(s, name)) for s in each}) > 1}
    differing |= {name for name in ("epochs", "min_images_seen") if len({getattr(s, name, None) for s in sections}) > 1}
    return unused | (differing - set(written))


def _plain(key: str, section: Any) -> dict:
    """Return a section as the user could have written it."""
    if key == "search":  # a method refuses the keys of others, even with their defaults
        return {"method": section.method, **section.model_dump(mode="json", exclude_defaults=True)}
    plain = section.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
    if key == "task":
        return {"name": plain["name"], "kind": plain["kind"], **plain["options"]}
    if key == "pretrain":
        plain["sources"] = {
            name: {"kind": source["kind"], "weight": source["weight"], **source["options"]}
            for name, source in plain["sources"].items()
        }
    return plain
