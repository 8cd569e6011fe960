"""Which images of the chosen classes to pre-train on, and which labels are made wrong: the keys `select`, `dedupe` and
`label_noise` of a spec.

Owns what may be written, and its text in tables. `data.mixtures` and `data.duplicates` apply it; no files are read
here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from ray_robust.spec.class_selection import absolute
from ray_robust.spec.section import Contradiction, Section
from ray_robust.spec.values import parse_number, short_repr

SELECT = "must be all, or a mapping such as {column: clip_score, top: 0.3}"
DEDUPE = "must be none, or a mapping of within and against, such as {within: true, against: task}"
NOISE = "must be a share at least 0 and below 1, or a mapping such as {share: 0.2, among: siblings}"
TABLES = (".csv", ".parquet")


def _share(raw: Any) -> Any:
    """Return a share as a number. Raise ValueError for one in per cent, with the share that it stands for."""
    text = raw.strip() if isinstance(raw, str) else ""
    value = parse_number(text.removesuffix("%")) if text else raw
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a share such as 0.3, not {short_repr(raw)}")
    if (1 < value <= 100) or text.endswith("%"):
        raise ValueError(f"must be a share of 1, not {short_repr(raw)}; {value:g} % is written {value / 100:g}")
    return float(value)


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]


class ImageSelection(Section):
    """Which images of each source, by a column of what is known of them; every other key says which values."""

    column: str = Field(
        min_length=1,
        description="a column of the source's CSV or Parquet files; of a webdataset an extension, or `json.KEY`, which "
        "reaches into the .json; or a column of `table`",
        examples=["select: {column: clip_score, top: 0.3}", "select: {column: json.caption, matches: dog}"],
    )
    table: str | None = Field(
        default=None,
        description="a .csv or .parquet file with the column, and the column `path` with the name of each image in the "
        "source, as in the run's subset.parquet; not given: the source's own columns",
        examples=["select: {column: clip_score, table: scores.csv, top: 0.3}"],
    )
    top: Share | None = Field(
        default=None,
        description="the share with the highest values of all that the chosen `classes` have to train on, rounded up",
        examples=["select: {column: clip_score, top: {grid: [0.1, 0.3, 1]}}"],
        json_schema_extra={"shown": "number above 0 and at most 1"},
    )
    bottom: Share | None = Field(
        default=None,
        description="likewise, the share with the lowest values",
        examples=["select: {column: nsfw_score, bottom: 0.5}"],
        json_schema_extra={"shown": "number above 0 and at most 1"},
    )
    at_least: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="values of at least this",
        examples=["select: {column: width, at_least: 200}"],
    )
    at_most: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="values of at most this, alone or beside `at_least`",
        examples=["select: {column: width, at_least: 200, at_most: 800}"],
    )
    matches: str | None = Field(
        default=None,
        min_length=1,
        description="texts that this regular expression of Python's finds something in; `(?i)` before it ignores case",
        examples=["select: {column: caption, matches: '(?i)dog|wolf'}"],
    )
    per_class: bool = Field(
        default=False,
        description="`top` and `bottom`: whether the share is of every class, not of all images together",
        examples=["select: {column: clip_score, top: 0.3, per_class: true}"],
    )
    random: bool | Literal["per_class"] = Field(
        default=False,
        description="`true`: as many images, drawn at random by each seed in their place: the control (with the "
        "source's shares of classes; of every class as many where `per_class` is true); `per_class`: as many of every "
        "class whatever the selection is",
        examples=["select: {column: clip_score, top: 0.3, random: {grid: [false, true]}}"],
    )
    missing: Literal["fail", "drop"] = Field(
        default="fail",
        description="an image without a value ends the sweep, or is left out, of the control too",
        examples=["select: {column: clip_score, top: 0.3, missing: drop}"],
    )
    source: tuple[str, ...] = Field(
        default=(),
        description="the sources that it applies to; not given: all, and each must have the column",
        examples=["select: {column: clip_score, top: 0.3, source: photos}"],
    )

    @field_validator("table", mode="before")
    @classmethod
    def _is_a_table(cls, raw: Any) -> Any:
        if isinstance(raw, str) and not raw.endswith(TABLES):
            raise ValueError(f"must be a .csv or .parquet file, not {raw!r}")
        return absolute(raw) if isinstance(raw, str) else raw

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_several(cls, raw: Any) -> Any:
        names = [raw] if isinstance(raw, str) else raw
        return sorted(set(names)) if isinstance(names, list) and all(isinstance(n, str) for n in names) else names

    @field_validator("matches")
    @classmethod
    def _is_an_expression(cls, text: str | None) -> str | None:
        try:
            re.compile(text or "")
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
        return text

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what in this section contradicts something else in it."""
        limits = [key for key in ("at_least", "at_most") if getattr(self, key) is not None]
        ways = [key for key in ("top", "bottom", "matches") if getattr(self, key) is not None]
        if len(ways) + bool(limits) != 1:
            both = f", not {' and '.join([*ways, *limits])}" if ways or limits else ""
            yield ("column",), f"give one of top, bottom, at_least (and at_most) or matches{both}"
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            yield limits, f"no value is at least {self.at_least:g} and at most {self.at_most:g}"
        if self.per_class and self.top is None and self.bottom is None:
            what = "per_class belongs to top and bottom: a limit is the same in every class; a control with as many "
            yield ("per_class",), f"{what}images of every class is random: per_class"

    @property
    def numeric(self) -> bool:
        """Whether the column must be of numbers."""
        return self.matches is None

    @property
    def share(self) -> float | None:
        """The share of images that is selected, None where a limit or an expression decides."""
        return self.top if self.top is not None else self.bottom

    @property
    def control_by_class(self) -> bool:
        """Whether the random control has as many images of every class as what it is the control of."""
        return self.random == "per_class" or self.per_class

    @property
    def condition(self) -> str:
        """What is selected, in words: `clip_score top 0.3 per class`, `width at least 200`."""
        limits = (("at least", self.at_least), ("at most", self.at_most))
        if self.matches is not None:
            values = f"matches {self.matches}"
        elif self.share is not None:
            each = " per class" if self.per_class else ""
            values = f"{'top' if self.top is not None else 'bottom'} {self.share:.12g}{each}"
        else:
            values = ", ".join(f"{words} {limit:.12g}" for words, limit in limits if limit is not None)
        return f"{self.column} {values}"

    @property
    def text(self) -> str:
        """Its text in a table; that of the control begins with `random in place of`."""
        control = f"random {'per class ' if self.random == 'per_class' else ''}in place of " if self.random else ""
        file = f" ({os.path.basename(self.table)})" if self.table else ""
        missing = ", missing dropped" if self.missing == "drop" else ""
        return control + self.condition + file + missing + (f" in {', '.join(self.source)}" if self.source else "")

    def applies_to(self, source: str) -> bool:
        """Return whether images of this source are selected."""
        return not self.source or source in self.source


class Deduplication(Section):
    """Which images are left out since they are there more than once: identical ones, and near-identical ones by a
    perceptual hash and a comparison of thumbnails, as in the report's section on duplicates."""

    within: bool = Field(
        default=False,
        description="of images that a source has more than once only the first by name is left",
        examples=["dedupe: {within: true}"],
    )
    against: Literal["task"] | None = Field(
        default=None,
        description="`task`: no image is left that any split of the sweep's tasks has as well",
        examples=["dedupe: {within: true, against: task}"],
        json_schema_extra={"words": ["none"]},
    )

    @property
    def text(self) -> str:
        """Its text in a table: `within and against task`."""
        return " and ".join([*(["within"] if self.within else []), *(["against task"] if self.against else [])])


class LabelNoise(Section):
    """Which training labels are made wrong. Held-out images, and every split of a task, keep theirs."""

    share: Annotated[float, BeforeValidator(_share), Field(gt=0, lt=1)] = Field(
        description="the share of every label's training images that get another label, exact up to rounding; larger "
        "shares keep the wrong labels of smaller ones; the number alone is short for `{share: ...}`",
        examples=["label_noise: 0.2", "label_noise: {share: {grid: [0.1, 0.2]}, among: siblings}"],
        json_schema_extra={"shown": "number at least 0 and below 1"},
    )
    among: Literal["labels", "siblings"] = Field(
        default="labels",
        description="what the wrong one is drawn from, uniformly: all other labels of the source, or those with the "
        "same parent in its hierarchy",
        examples=["label_noise: {share: 0.2, among: siblings}"],
    )

    @property
    def text(self) -> str:
        """Its text in a table: `0.2`, `0.2 among siblings`."""
        return f"{self.share:.12g}" + (" among siblings" if self.among == "siblings" else "")


MODELS: dict[str, type[ImageSelection] | type[Deduplication] | type[LabelNoise]] = {
    "select": ImageSelection, "dedupe": Deduplication, "label_noise": LabelNoise,
}  # fmt: skip


def text_of(key: str, value: Any) -> str | None:
    """Return a level's text in a table where it is a mapping that one of these keys takes, else None."""
    if key not in MODELS or not isinstance(value, dict):
        return None
    try:
        return MODELS[key].model_validate(value).text or None
    except ValidationError:  # reported where the section is read
        return None


def parse_select(raw: Any) -> Any:
    """Return `pretrain.select`; None for all. Raise ValueError with what would be right."""
    if raw is None or raw == "all":
        return None
    if not isinstance(raw, dict | ImageSelection):
        raise ValueError(f"{SELECT}, not {short_repr(raw)}")
    return raw


def parse_dedupe(raw: Any) -> Any:
    """Return `pretrain.dedupe`; None where nothing is left out, so that it is the same trial as without the key."""
    if raw is None or raw == "none":
        return None
    if not isinstance(raw, dict | Deduplication):
        raise ValueError(f"{DEDUPE}, not {short_repr(raw)}")
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if not (key == "against" and value == "none")}
        if not any(value is not None and value is not False for value in raw.values()):
            return None
    return raw


def parse_label_noise(raw: Any) -> Any:
    """Return `pretrain.label_noise` in its long form; None for a share of 0, which is the same trial as without it."""
    if raw is None or isinstance(raw, LabelNoise):
        return raw
    if isinstance(raw, dict):
        share = raw.get("share")
        share = parse_number(share) if isinstance(share, str) else share
        none = share == 0 and not isinstance(share, bool) and set(raw) <= set(LabelNoise.model_fields)
        return None if none else raw
    if isinstance(raw, str) and raw.strip().endswith("%"):
        _share(raw)  # says what it is as a share
    value = parse_number(raw) if isinstance(raw, str) else raw
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{NOISE}, not {short_repr(raw)}")
    if value > 1:
        _share(value)
    if not 0 <= value < 1:
        raise ValueError(f"{NOISE}, not {short_repr(raw)}")
    return {"share": float(value)} if value else None
