"""WordNet ids as names of classes, and what people call them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ray_robust.data.images.files import lines_of

WNID = re.compile(r"n\d{8}")
TIMM_NAMES = "imagenet_synset_to_lemma.txt"  # the 21,844 ids of the whole ImageNet


def is_wnid(name: str) -> bool:
    """Return whether a name is the id of a noun of WordNet 3.0, as ImageNet's folders are called: n01440764."""
    return WNID.fullmatch(name) is not None


def names_of(wnids: Iterable[str], words: Path | None = None) -> tuple[str, ...]:
    """Return the usual word of each id: by the file `words` (`id<TAB>word, word` a line) where that is one, else by the
    list that timm has of ImageNet's ids; the id itself where neither has it. Raises UserError for a file that is no
    text."""
    wnids = list(wnids)
    listed = _words(words) if words is not None and words.is_file() else {}
    if not all(wnid in listed for wnid in wnids):
        listed = {**timm_names(), **listed}
    return tuple(listed.get(wnid, wnid) for wnid in wnids)


def _words(file: Path) -> dict[str, str]:
    pairs = (line.partition("\t") for line in lines_of(file, "lines like 'n01440764<TAB>tench, Tinca tinca'"))
    return {wnid: words.split(",")[0].strip() for wnid, _, words in pairs if is_wnid(wnid) and words.strip()}


@lru_cache(maxsize=1)
def timm_names() -> dict[str, str]:
    """Return word by id from timm's list; empty without it."""
    file = _of_timm(TIMM_NAMES)
    return _words(file) if file is not None else {}


@lru_cache(maxsize=4)
def timm_list(name: str) -> frozenset[str]:
    """Return the ids of one of timm's lists of classes; none without it."""
    file = _of_timm(name)
    return frozenset(filter(is_wnid, lines_of(file, "an id a line"))) if file is not None else frozenset()


def _of_timm(name: str) -> Path | None:
    """Return one of the files that timm has of data sets, without importing it, which takes seconds."""
    spec = importlib.util.find_spec("timm")
    file = Path(spec.origin).parent / "data/_info" / name if spec and spec.origin else None
    return file if file is not None and file.is_file() else None
