"""Pages of the documentation site that are not files under docs/: those of files beside it, and the gallery.

The README and its like are written for a checkout, with links to its files; on the site these lead to the pages of
those files. A link that leads to neither stays as it is, and the build fails on it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

import gallery
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "manual.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
BARE = {"index.md", "gallery.md"}  # pages that are a tab of their own, with nothing beside them to navigate
MARKS = re.compile(r"^<!-- .* -->$", re.MULTILINE)  # around tables that programs write
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[`~]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the generated pages, and the files of every report."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    sweeps = gallery.shown(ROOT, Path(os.environ.get("RUNS") or ROOT / "runs"))
    files.append(File.generated(config, "gallery.md", content=gallery.page(sweeps)))
    for sweep in sweeps:
        for path in sorted(sweep.report.rglob("*")) if sweep.report else []:
            if path.is_file():
                name = f"gallery/{sweep.slug}/{path.relative_to(sweep.report).as_posix()}"
                files.append(File.generated(config, name, abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to files of the checkout to their pages, and names of pages in the prose too."""
    if page.file.src_uri in BARE:
        page.meta["hide"] = ["navigation"]
    base = "" if page.file.src_uri in PAGES.values() else "docs"
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [_linked(markdown[end : fence.start()], base), fence[0]]
        end = fence.end()
    return "".join([*parts, _linked(markdown[end:], base)])


def _linked(prose: str, base: str) -> str:
    prose = MARKS.sub("\n", prose)  # without a blank line between them a table would be text
    prose = re.sub(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)", lambda m: f"]({_target(m[1], base)}{m[2] or ''})", prose)
    return re.sub(r"(?<![\[`])`(docs/\w+\.md|[A-Z]+\.md)`(?!\])", _named, prose)


def _named(match: re.Match[str]) -> str:
    page = _target(match[1], "")
    exists = (ROOT / match[1]).is_file() and page != match[1]
    return f"[{match[0]}]({page})" if exists else match[0]


def _target(link: str, base: str) -> str:
    """Return the address on the site of a file of the checkout; a link that it does not know as it is."""
    path = posixpath.normpath(posixpath.join(base, link))
    if path in PAGES:
        return PAGES[path]
    if path.startswith("sweeps/") and path.endswith(".yaml"):
        return f"gallery.md#{path.removeprefix('sweeps/').removesuffix('.yaml').replace('/', '-')}"
    return path.removeprefix("docs/") if path.startswith("docs/") else link
