"""The sections of a spec that name a pool: the task, and each source of a mixture."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ray_robust.spec.section import Section


class PoolSection(Section):
    """A source or a task by name."""

    kind: str = Field(
        description="the registered source, where the name is your own; else the name says it",
        examples=["mine: {kind: species, images_per_class: 64}"],
        json_schema_extra={"default": "the name"},
    )
    options: Any = Field(json_schema_extra={"written": False})  # validated by its class


class TaskSection(PoolSection):
    """What models are fine-tuned and tested on. Its other keys are those of the task, listed below."""

    name: str = Field(
        description="a task of the README's table, or, with `kind`, a name of your own", examples=["name: camera-traps"]
    )
    kind: str = Field(
        description="the registered task, where the name is your own; else the name says it",
        examples=["name: cameras, kind: camera-traps"],
        json_schema_extra={"default": "the name"},
    )


class SourceSection(PoolSection):
    """One source of the mixture, `NAME: weight` or `NAME: {weight: ..., ...}`. Its other keys are those of the source,
    listed below."""

    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="its share of the images, relative to the other weights; 0 leaves the source out",
        examples=["species: {weight: 0.5}, fractals: 0.5"],
    )
