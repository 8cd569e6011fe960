"""The example of docs/verdict.md: `python -m bench.verdict` runs the page's command on the page's table and writes the
lines that the page shows of what it prints. `tests/test_guides.py` holds the page to them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs/verdict.md"
MARK = "[▲▼●=?~!] "  # of a finding
SHOWN = (  # how the lines begin, in the order of the page
    f"{MARK}On the shifted test: ",
    r"At equal ID score \(effective robustness, ER\): ",
    r"num_images=1000 \d",
    f"{MARK}num_images=1000 against scratch: ",
    f"{MARK}(Not established: )?num_images=1000 against scratch: [+−]",
)


def block(page: str, language: str) -> str:
    """Return the one fenced block of a language. Raises ValueError where there are none or several."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(text)


def example(page: str) -> str:
    """Return the page with the lines that its command prints now. Raises ValueError where a line is not printed."""
    _, *arguments = shlex.split(block(page, "sh"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "scores.csv").write_text(block(page, "csv"), "utf-8")
        path = os.pathsep.join([str(DOCUMENT.parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    printed = [" ".join(line.split()) for line in done.stdout.splitlines()]
    lines = []
    for start in SHOWN:
        line = next((one for one in printed if re.match(start, one)), None)
        if line is None:
            raise ValueError(f"the command prints no line that begins with {start!r}")
        lines.append(line)
    return page.replace(f"```text\n{block(page, 'text')}```", "```text\n" + "\n".join(lines) + "\n```")


if __name__ == "__main__":
    DOCUMENT.write_text(example(DOCUMENT.read_text("utf-8")), "utf-8")
