"""Published hierarchies as graphs: WordNet's nouns from its own database files, or any list of parent-child pairs.

The database is parsed here in a few lines: nltk's reader refuses folders that are not its own and needs files that
Debian's copy lacks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ray_robust.data.images.files import absolute, lines_of
from ray_robust.errors import Problem, UserError

FOLDERS = ("/usr/share/wordnet", "/usr/share/wordnet/dict", "/usr/local/WordNet-3.0/dict", "/opt/WordNet-3.0/dict")
OBTAIN = (
    "install Debian's package wordnet-base, or unpack WordNet-3.0.tar.gz from wordnet.princeton.edu and name its dict "
    "folder in the variable WNSEARCHDIR or as `hierarchy: PATH`"
)

# an option of a pool: relative to the current directory where it is read, not where a trial runs
HierarchyOption = Annotated[str, AfterValidator(lambda value: value if value == "wordnet" else str(absolute(value)))]


@dataclass(frozen=True, eq=False)
class IsA:
    """What is a kind of what: every node's parents (several where it is no tree) and its words, the usual one first.

    WordNet's nodes are ids like n02084071; a list of pairs without words has the names themselves for nodes.
    """

    where: str
    parents: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]


def read_hierarchy(option: str) -> IsA:
    """Return what `hierarchy:` names: `wordnet`, a folder with WordNet's data.noun, or a file with `parent child` in
    each line, beside which a words.txt (`node<TAB>word, word`) may give the nodes words. Raises UserError."""
    if option == "wordnet":
        named = os.environ.get("WNSEARCHDIR")
        folders = [folder for folder in ([named] if named else FOLDERS) if Path(folder, "data.noun").is_file()]
        if not folders:
            raise UserError(f"hierarchy: wordnet: there is no data.noun in {named or FOLDERS[0]}; {OBTAIN}")
        return _wordnet(folders[0])
    path = absolute(option)
    if path.is_dir():
        if not (path / "data.noun").is_file():
            raise UserError(Problem(str(path), f"has no data.noun, so it is no folder of WordNet; {OBTAIN}"))
        return _wordnet(str(path))
    if not path.is_file():
        raise UserError(Problem(str(path), "no such hierarchy: wordnet, WordNet's dict folder, or a file of pairs"))
    return _pairs(str(path))


@lru_cache(maxsize=2)
def _wordnet(folder: str) -> IsA:
    """WordNet's nouns. Source of the format: wndb(5WN). `@` is a hypernym, `@i` that of an instance."""
    parents, words = {}, {}
    with open(Path(folder, "data.noun"), encoding="utf-8") as file:
        for line in file:
            if line.startswith(" "):  # the licence
                continue
            cells = line.partition(" | ")[0].split()
            node, count = f"n{cells[0]}", int(cells[3], 16)
            words[node] = tuple(word.replace("_", " ") for word in cells[4 : 4 + 2 * count : 2])
            pointers = cells[5 + 2 * count :]
            relations = zip(pointers[::4], pointers[1::4], strict=False)
            parents[node] = tuple(f"n{offset}" for symbol, offset in relations if symbol in ("@", "@i"))
    return IsA(folder, parents, words)


@lru_cache(maxsize=2)
def _pairs(file: str) -> IsA:
    parents: dict[str, list[str]] = {}
    problems = []
    for number, line in enumerate(lines_of(Path(file), "lines of parent and child"), 1):
        pair = [cell.strip() for cell in line.split("\t" if "\t" in line else None)]
        if not line.strip():
            continue
        if len(pair) != 2:
            problems.append(Problem(f"{file}:{number}", "wanted: parent and child, a tab or blank between them"))
            continue
        parents.setdefault(pair[0], [])
        parents.setdefault(pair[1], []).append(pair[0])
    if problems:
        raise UserError(*problems[:5])
    words = {}
    if (beside := Path(file).with_name("words.txt")).is_file():
        for line in lines_of(beside, "lines of id and words, a tab between them"):
            node, _, names = line.partition("\t")
            words[node] = tuple(word.strip() for word in names.split(","))
    return IsA(file, {n: tuple(p) for n, p in parents.items()}, {n: words.get(n, (n,)) for n in parents})
