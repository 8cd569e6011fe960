"""The process that draws: reads Vega-Lite specifications, a line of JSON each, and answers with the files made of each.

`figures` starts it as a script, and it imports nothing of the project: the library that draws may end the whole process
(a panic of its Rust code aborts), which then costs one figure and not the report.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Answer until standard input ends: a line {"svg": bytes, ...} and the files behind it, or {"error": why} alone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may stand between the answers
    _leave_no_core()
    import vl_convert

    for line in sys.stdin.buffer:
        try:
            svg = vl_convert.vegalite_to_svg(json.loads(line))
            files = {
                "svg": svg.encode(),
                "pdf": vl_convert.svg_to_pdf(svg),
                "png": vl_convert.svg_to_png(svg, scale=2),
            }
            head: dict[str, object] = {ending: len(content) for ending, content in files.items()}
        except Exception as error:
            files, head = {}, {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        answers.write(json.dumps(head).encode() + b"\n" + b"".join(files.values()))
        answers.flush()


def _leave_no_core() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # Windows has none
        pass


if __name__ == "__main__":
    main()
