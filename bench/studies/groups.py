"""Groups of a study as a reader calls them: `num_images=16000` is "16,000 images"; and which of them has which role.

Owns the roles that claims are about: the finest and the coarsest labels, photographs, generated images, fractals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.formatting import listed, some

GENERATED, FRACTALS = ("species", "diffusion"), "fractals"
WORDS = {"species": "rendered animals"}  # of sources, by kind


def group_label(group: str) -> str:
    """Return a group's name in words; one that is no `key=value` stays as it is."""
    if (counts := re.fullmatch(r"num_classes=(\d+), images_per_class=(\d+)", group)) is not None:
        return f"{int(counts[1]):,} classes of {int(counts[2]):,}"
    parts = re.split(r", (?=\w+=)", group)
    return ", ".join(map(_part, parts)) if all("=" in part for part in parts) else group


def _part(part: str) -> str:
    key, _, value = part.partition("=")
    count = f"{int(value):,}" if value.isdigit() else value
    if key == "sources":
        return mix_label(value)
    if key == "classes":
        first, *others = value.removeprefix("under:").split(",")
        under = "under " if value.startswith("under:") else ""
        return "all classes" if value == "all" else f"classes {under}{some([first, *others], 1)}"
    if key == "weights":
        return value.rstrip("/").rpartition("/")[2]
    phrases = {
        "num_images": f"{count} image{'s' * (value != '1')}",
        "num_classes": f"{count} class{'es' * (value != '1')}",
        "images_per_class": f"{count} images a class",
        "granularity": re.sub(r"^random:(\d+)", r"\1 random", value) + " labels",
        "subclasses_per_label": f"{count} subclass{'es' * (value != '1')} a label",
        "method": {"clip": "CLIP", "simclr": "SimCLR"}.get(value, value),
    }
    return phrases.get(key, f"{key.removeprefix('model.')} {value}")


def mix_label(value: str) -> str:
    """Return a mixture: `species:0.25+fractals:0.75` is "25 % rendered animals + 75 % fractals"."""
    shares = [one.rpartition(":") for one in value.split("+")]
    if not all(name and re.fullmatch(r"[\d.]+", share) for name, _, share in shares):
        return value
    if len(shares) == 1:
        return f"{WORDS.get(shares[0][0], shares[0][0])} alone"
    return " + ".join(f"{100 * float(share):.3g} % {WORDS.get(name, name)}" for name, _, share in shares)


def role_of(role: str, record: Mapping[str, Any], photographs: bool) -> list[str]:
    """Return the groups of an entry that have a role: one, several pools of photographs alone, or none.

    In the rendered world its animals, which its task is about, stand where photographs do, and nothing is generated.
    """
    baseline = record["line"]["group"]
    if role == "scratch":
        return [baseline]
    groups = {name: group for name, group in record["groups"].items() if name != baseline}
    if role.endswith(" labels"):
        counts = {name: group["labels"] for name, group in groups.items() if "random:" not in name and group["labels"]}
        if len(set(counts.values())) < 2:
            return []
        return [(max if role == "finest labels" else min)(counts, key=counts.__getitem__)]
    alone = {name: next(iter(group["sources"])) for name, group in groups.items() if len(group["sources"]) == 1}
    return [name for name, source in alone.items() if _role(record["sources"].get(source, source), photographs) == role]


def controls(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every group with labels drawn at random, and the group whose labels are nearest to as many."""
    groups = {name: group for name, group in record["groups"].items() if group["labels"]}
    cuts = {name: group["labels"] for name, group in groups.items() if "random:" not in name}
    for name in groups if cuts else ():
        if name not in cuts:
            yield name, min(cuts, key=lambda cut: abs(cuts[cut] - groups[name]["labels"]))


def _role(kind: str, photographs: bool) -> str:
    if kind == FRACTALS:
        return "fractals"
    return "generated" if photographs and kind in GENERATED else "natural"


def sources_text(record: Mapping[str, Any]) -> str:
    """Return what a run pre-trained on: its sources by name, or that others did."""
    if names := [WORDS.get(kind, name) for name, kind in record["sources"].items()]:
        return listed(names)
    return "published weights" if any(group.startswith("weights=") for group in record["groups"]) else "none"
