"""The report of a run made again, and compared with the one that lies there.

Tables and verdict.json follow from the trials: their numbers may differ by what another machine's arithmetic makes of
them, their texts not at all. How long an advice takes follows from the machine's rates, and is not compared. Pages and
figures depend on fonts and versions too, and are compared with the checksums that the report's own `provenance.json`
keeps.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.advice.advice import untimed
from analysis.report.output import PROVENANCE
from ray_robust.files.storage import Storage
from ray_robust.run.checksums import checksum, unseal
from ray_robust.run.integrity import ALTERED, DAMAGED, MISSING

SAME = 1e-6  # relative difference of numbers that are the same
VERDICT, SCHEMA = "verdict.json", Path(__file__).parents[1] / "verdict.schema.json"
COST = re.compile(r"(^|\.)advice\[\d+\]\.cost$")  # the places of a verdict that tell of time
LACKING = object()  # in place of a value that an earlier version did not write


def provenance(folder: Storage) -> tuple[dict[str, Any], str]:
    """Return what a report says of how it was made, {} where it says nothing, and what is wrong with that file."""
    data = folder.recall(PROVENANCE)
    if data is None:
        return {}, ""
    value, sealed = unseal(data)
    return (value, "") if sealed and value is not None else ({}, DAMAGED)


def altered(folder: Storage, kept: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the files of a report that are not as it was written: a name and what is wrong."""
    for name, digest in (kept.get("files") or {}).items():
        data = folder.recall(name)
        if data is None or checksum(data) != digest:
            yield name, MISSING if data is None else ALTERED


def differences(folder: Storage, made: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield what tables and verdict of a report do not have from the trials: a name and what is wrong. `made` are the
    files as they are made now."""
    for name, content in made.items():
        data = folder.recall(name)
        if data is None or data == content:
            continue
        if name.endswith(".csv"):
            what = in_table(data, content)
        elif name == VERDICT:
            what = _in_verdict(data, content)
        else:
            continue
        if what:
            yield name, what


def lacking(name: str, data: bytes, content: bytes) -> list[str]:
    """Return the columns of a table, or the fields of the verdict, that a file lacks and that are made now: an earlier
    version did not write them. What else they say is compared."""
    if name.endswith(".csv"):
        with suppress(ValueError):  # `differences` says so
            there, wanted = (_table(text) for text in (data, content))
            return [column for column in wanted if column not in there]
        return []
    with suppress(ValueError, RecursionError):  # likewise
        return [place for place, one, _ in _unlike(json.loads(data), json.loads(content), "") if one is LACKING]
    return []


def in_table(data: bytes, content: bytes) -> str:
    """Return the first difference of two CSV files, "" where there is none but of arithmetic, and of columns that the
    first one lacks."""
    try:
        there = _table(data)
    except ValueError:
        return "is no CSV table"
    wanted = _table(content)
    common = [column for column in wanted if column in there]
    if list(there) != common:
        return "has other columns than the trials give"
    if len(there) != len(wanted):
        return f"has {len(there)} rows; the trials give {len(wanted)}"
    for column in common:
        for line, (one, other) in enumerate(zip(there[column], wanted[column], strict=True), 2):
            if not _same(_number(one), _number(other)):
                return f"line {line}: {column} is {one}; the trials give {other}"
    return ""


def _table(text: bytes) -> pd.DataFrame:
    """The cells of a CSV as text. Raises ValueError where a row has more or fewer of them than the header: pandas would
    take surplus ones for an index, or drop them."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text.decode(), newline=""), strict=True) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("not a table")
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=str)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _in_verdict(data: bytes, content: bytes) -> str:
    """Return the first difference of two verdicts, likewise."""
    try:
        there = json.loads(data)
    except (ValueError, RecursionError):
        return "is no JSON"
    for place, one, other in _unlike(there, json.loads(content), ""):
        if one is LACKING:
            continue
        return f"{place} is {_short(one)}; the trials give {_short(other)}"
    return ""


def _unlike(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the places where two values of JSON differ, and both; LACKING for a field that the first has not."""
    if isinstance(one, dict) and isinstance(other, dict):
        if COST.search(place):  # another machine, or one that has measured since, has other rates
            one, other = untimed(one), untimed(other)
        for key in (*other, *(key for key in one if key not in other)):
            if key not in one and key in _fields():
                yield f"{place}.{key}".lstrip("."), LACKING, other[key]
                continue
            yield from _unlike(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _unlike(a, b, f"{place}[{i}]")
    else:
        a, b = (float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in (one, other))
        if not _same(a, b):
            yield place, one, other


@cache
def _fields() -> frozenset[str]:
    """The names of all fields of a verdict by its schema; other keys are names of groups, factors, shifts."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value.get("properties", ())
            value = list(value.values())
        for one in value if isinstance(value, list) else ():
            yield from names(one)

    return frozenset(names(json.loads(SCHEMA.read_text("utf-8"))))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
