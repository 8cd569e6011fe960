"""The points of a trial as JSON: the lines of rows.jsonl, and the rows in a fine-tuning's file."""

from __future__ import annotations

import json
from typing import Any

from ray_robust.files.storage import Storage, describe_damage
from ray_robust.redact import redacted

RERUN = "the same command again runs what is missing of this trial"


def text_of(rows: list[dict[str, Any]]) -> bytes:
    """rows.jsonl: a line of JSON per point, without credentials."""
    return "".join(json.dumps(redacted(row)) + "\n" for row in rows).encode()


def parsed(storage: Storage, data: bytes | None = None) -> list[dict[str, Any]]:
    """Return the rows in rows.jsonl (`data`, where it was read). Raises Damaged where it holds none."""
    data = storage.read("rows.jsonl") if data is None else data
    if data is None:
        raise storage.damaged("rows.jsonl", "is missing", RERUN)
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError):
        rows = None
    if not rows or not is_sound(rows):
        raise storage.damaged("rows.jsonl", describe_damage(data, "a table of points"), RERUN)
    return rows


def is_sound(rows: Any) -> bool:
    """Return whether these are points: of a fine-tuning, at an epoch."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("finetune"), str) and is_number(row.get("epoch")) for row in rows
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)
