"""The terminal that every command writes to: a rich Console whose texts hold no credential.

Owns the one class that may be made a Console of in this project, so that what is printed passes through `redact` in one
place, cells of tables too. What is made as `rich.text.Text` is the caller's own: times and counts, no names.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ray_robust.redact import redact


class Screen(Console):
    """A Console that redacts every string before it is rendered, hence before it is wrapped or cut."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string as rich does, with REDACTED in the place of every credential."""
        return super().render_str(redact(text), **options)
