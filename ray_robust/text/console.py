"""The terminal that every command writes to: a rich Console whose texts hold no credential and give no orders.

Owns the one class that may be made a Console of in this project, so that what is printed passes through `redact` and
`printable` in one place, cells of tables too. What is made as `rich.text.Text` is the caller's own: times and counts,
no names.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from ray_robust.redact import redact
from ray_robust.text.names import printable


class Screen(Console):
    """A Console that redacts every string before it is rendered, hence before it is wrapped or cut; what cannot be
    printed is shown as its escape, and `:smile:` in a name is no picture. In a notebook it writes text, as in a log."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, "force_jupyter": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string as rich does, with REDACTED in the place of every credential, cleaned."""
        return super().render_str(printable(redact(text)), **options)


def console(quiet: bool = False) -> Console:
    """Return the console of a sweep: standard output, without colours and cursor movement where it is no terminal; a
    quiet one prints nothing."""
    wide = None if sys.stdout.isatty() else 1000  # a log or a pipe has no width: nothing is wrapped or cut
    return Screen(file=sys.stdout, highlight=False, width=wide, quiet=quiet)
