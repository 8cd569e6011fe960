"""A drawn subset as a file: source, row and label of every image, with a fingerprint of exactly these images.

Written in blocks, so that a hundred million rows need no memory of their own. The readable list of names is written by
the trial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_robust.data.mixtures.mixture import Subset
from ray_robust.data.pool import Catalog

BLOCK = 1 << 20


def fingerprint(subset: Subset, catalogs: Mapping[str, Catalog]) -> str:
    """Sixteen hex digits that change with any image, label or source, and with nothing else: no path, no row number."""
    digest = hashlib.blake2b("\x1f".join(subset.classes).encode(), digest_size=8)
    for share in subset.shares:
        digest.update(f"\x1e{share.source}\x1e{len(share.rows)}".encode())
        ids = catalogs[share.source].ids
        for start in range(0, len(share.rows), BLOCK):
            block = slice(start, start + BLOCK)
            digest.update(np.ascontiguousarray(ids[share.rows[block]], "<u8").data)
            digest.update(share.labels[block].astype("<i4").data)
    return digest.hexdigest()


def write_index(subset: Subset, catalogs: Mapping[str, Catalog], path: Path) -> str:
    """Write the subset as Parquet and return its fingerprint.

    Columns: source (a name), row (of that source's catalog, ascending), label (a number). The names of the labels, the
    sources' fingerprints and that of the subset are in the file's metadata. The file is whole or absent.
    """
    digest = fingerprint(subset, catalogs)
    metadata = {"fingerprint": digest, "labels": "\n".join(subset.classes)}
    metadata |= {f"source {share.source}": catalogs[share.source].fingerprint for share in subset.shares}
    sources = pa.array([share.source for share in subset.shares])
    schema = pa.schema(
        [("source", pa.dictionary(pa.int8(), pa.string())), ("row", pa.int64()), ("label", pa.int32())],
        metadata=metadata,
    )
    draft = path.with_name(f"{path.name}.tmp")
    with pq.ParquetWriter(
        draft,
        schema,
        compression="zstd",
        use_dictionary=["source"],
        column_encoding={"row": "DELTA_BINARY_PACKED", "label": "PLAIN"},
    ) as writer:
        for number, share in enumerate(subset.shares):
            for start in range(0, len(share.rows), BLOCK):
                rows, labels = share.rows[start : start + BLOCK], share.labels[start : start + BLOCK]
                source = pa.DictionaryArray.from_arrays(pa.array(np.full(len(rows), number, np.int8)), sources)
                columns = [source, pa.array(rows), pa.array(labels.astype(np.int32))]
                writer.write_batch(pa.record_batch(columns, schema=schema))
    draft.replace(path)
    return digest
