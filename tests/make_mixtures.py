"""A pool of animals and tools in two families each, and mixtures of it, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ray_robust.data.pool import Catalog, Options, mix_bits, seed_of
from ray_robust.spec.sections import Pretrain, SourceSection

# class: (kingdom, family); so many images
ANIMALS = {"cat": 9, "lion": 8, "wolf": 7, "fox": 6, "owl": 5}
TOOLS = {"saw": 30, "axe": 20, "pen": 10}
FAMILY = {"cat": "cats", "lion": "cats", "wolf": "dogs", "fox": "dogs", "owl": "birds", "saw": "cutters",
          "axe": "cutters", "pen": "writers"}  # fmt: skip


def pool(counts: dict[str, int] | None = None, plain: bool = False) -> Catalog:
    counts = counts or {**ANIMALS, **TOOLS}
    classes = tuple(sorted(counts))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [counts[name] for name in classes])
    ranks = pd.DataFrame(
        {
            "kingdom": ["animal" if name in ANIMALS else "tool" for name in classes],
            "family": [FAMILY[name] for name in classes],
            "class": classes,
        },
        index=list(classes),
    )
    ids = mix_bits(np.arange(len(labels), dtype=np.uint64), seed_of("test"))
    return Catalog(labels, classes, ids, "x", "none", None if plain else ranks)


def asked(sources: dict[str, Any] | None = None, **keys: Any) -> Pretrain:
    named = {n: SourceSection(kind="t", options=Options(), weight=w) for n, w in (sources or {"a": 1.0}).items()}
    return Pretrain(sources=named, epochs=1, holdout=0.0, **keys)
