"""How the YAML of advice is put to use, in words; page and terminal print them."""

from __future__ import annotations

import yaml

from analysis.formatting import listed

ORDER = "In this order: each block keeps what those above add to its section, and each cost comes on top of theirs."


def paste_line(text: str) -> str:
    """Return where a piece of YAML goes: `Paste this in place of `baseline` ... and run the same command again:`."""
    sections = listed([f"`{key}`" for key in yaml.safe_load(text)])
    return f"Paste this in place of {sections} in the spec and run the same command again:"
