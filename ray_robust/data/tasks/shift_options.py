"""The keys `shifts` and `id_sets`, further labelled test sets of tasks of files, and `corruptions`, of id_test of any
task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from ray_robust.data.corruptions.kinds import KINDS, SEVERITIES
from ray_robust.data.pool import SPLITS, TaskOptions
from ray_robust.data.readers.folder import LocalPath
from ray_robust.errors import did_you_mean
from ray_robust.run.shifts import OWN, is_name
from ray_robust.spec.values import parse_number, short_repr

TAKEN = (OWN, "id", *SPLITS)
ESTIMABLE = "accuracy"  # the metric that agreement between models estimates
NOT_ESTIMABLE = f"agreement between models estimates accuracy alone; say `metric: {ESTIMABLE}`"


class TestSet(BaseModel):
    """One further test set, `NAME: PATH` or `NAME: {path: ..., ...}`."""

    __test__ = False  # no test of pytest's

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: LocalPath  # a folder (or zip) of class folders, or a CSV with the columns path, label
    images: LocalPath | None = None  # with a CSV: what its paths lie in
    label: str = "label"  # the CSV's column of the task's classes
    unseen: Literal["fail", "drop"] = "fail"  # images of classes that the task lacks

    @property
    def unlabelled(self) -> bool:
        """Whether its images have no labels."""
        return False


class Shift(TestSet):
    """A test set under shift."""

    classes: Literal["shared", "all"] = "shared"  # that predictions are chosen among
    labels: Literal["none"] | None = None  # its images have none: their accuracy is estimated

    @property
    def unlabelled(self) -> bool:
        """Whether its images have no labels."""
        return self.labels is not None


def _parse(raw: Any) -> Any:
    """Return the shifts by name, each checked. Raises PydanticCustomError with the first error."""
    return _test_sets(raw, Shift, "a shift", "{v2: ~/data/v2, sketch: ~/data/sketch}")


def _parse_id_sets(raw: Any) -> Any:
    """Return the ID sets by name, each checked. Raises PydanticCustomError with the first error."""
    return _test_sets(raw, TestSet, "an ID set", "{web: ~/data/web_test}")


def _test_sets(raw: Any, kind: type[TestSet], what: str, example: str) -> Any:
    if raw is None or (isinstance(raw, dict) and all(type(one) is kind for one in raw.values())):
        return raw
    if not isinstance(raw, dict) or not raw:
        raise _wrong(f"must map names to test sets, e.g. {example}")
    shifts: dict[str, TestSet] = {}
    for name, value in raw.items():
        if not isinstance(name, str) or not is_name(name):
            raise _wrong(f"{name!r} is no name of {what}: letters, digits and . _ + - (40 at most); quote a number")
        if name.lower() in TAKEN:
            raise _wrong(f"{name} is the name of the task's own {'OOD test' if name.lower() == OWN else 'part'}")
        if other := next((one for one in shifts if one.lower() == name.lower()), None):
            raise _wrong(f"{other} and {name} differ in case alone; give one another name")
        shifts[name] = _test_set(name, value, kind)
    return shifts


def _test_set(name: str, value: Any, kind: type[TestSet]) -> TestSet:
    if not isinstance(value, str | dict):
        raise _wrong(f"{name}: must be a path, or a mapping with the key path")
    try:
        return kind.model_validate({"path": value} if isinstance(value, str) else value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # what is missing may be misspelt
        key = ".".join(map(str, first["loc"]))
        unknown, missing = first["type"] == "extra_forbidden", first["type"] == "missing"
        what = f"unknown key{did_you_mean(key, kind.model_fields)}" if unknown else "missing" if missing else None
        raise _wrong(f"{name}.{key}: {what or first.get('ctx', {}).get('error') or first['msg']}") from None


def _wrong(what: str) -> PydanticCustomError:
    return PydanticCustomError("shifts", "{what}", {"what": what})


class Corruptions(BaseModel):
    """Corruptions of id_test: every kind in every severity is a shift, named `<kind>-<severity>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[str, ...] = tuple(KINDS)
    severities: tuple[int, ...] = (3,)
    images: int = 1000  # of id_test, at most

    @property
    def names(self) -> dict[str, tuple[str, int]]:
        """The kind and severity of every shift, by name."""
        return {f"{kind}-{severity}": (kind, severity) for kind in self.kinds for severity in self.severities}


def _parse_corruptions(raw: Any) -> Any:
    """Return the corruptions, checked. Raises PydanticCustomError with the first error."""
    if raw is None or isinstance(raw, Corruptions):
        return raw
    if not isinstance(raw, dict):
        raise _wrong("must be a mapping, e.g. {kinds: [gaussian_noise, jpeg], severities: [1, 3, 5]}")
    if unknown := next((key for key in raw if key not in Corruptions.model_fields), None):
        raise _wrong(f"{unknown}: unknown key{did_you_mean(str(unknown), Corruptions.model_fields)}")
    lists = {key: value for key, value in raw.items() if key != "images"}
    given = {key: tuple(value) if isinstance(value, list | tuple) else (value,) for key, value in lists.items()}
    if given.get("kinds") == ("all",):
        del given["kinds"]
    for key, offered in (("kinds", tuple(KINDS)), ("severities", SEVERITIES)):
        values = given.get(key, offered)
        if not values:
            raise _wrong(f"{key}: must hold at least one")
        for value in values:
            if isinstance(value, bool) or value not in offered:
                raise _wrong(f"{key}: must be of {', '.join(map(str, offered))}, not {short_repr(value)}")
        if len(set(values)) < len(values):
            raise _wrong(f"{key}: one is named twice")
    images = raw.get("images", Corruptions.model_fields["images"].default)
    images = parse_number(images) if isinstance(images, str) else images
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise _wrong(f"images: must be a whole number above 0, not {short_repr(raw['images'])}")
    return Corruptions(**given, images=images)


class CorruptedOptions(TaskOptions):
    """Options of every task whose images can be corrupted."""

    corruptions: Annotated[SerializeAsAny[Corruptions] | None, BeforeValidator(_parse_corruptions)] = Field(
        default=None,
        description=f"corruptions of `id_test` after ImageNet-C, each a shift `<kind>-<severity>`: `kinds` of "
        f"{', '.join(KINDS)}, or `all`; `severities` of 1 to 5 (default 3); `images` of id_test at most (default 1000)",
        examples=["corruptions: {kinds: [gaussian_noise, jpeg], severities: [1, 3, 5]}", "corruptions: {kinds: all}"],
        json_schema_extra={"shown": "mapping"},
    )


class ShiftedOptions(CorruptedOptions):
    """Options of tasks whose images are files."""

    shifts: Annotated[dict[str, SerializeAsAny[Shift]] | None, BeforeValidator(_parse)] = Field(
        default=None,
        description="further labelled test sets, by name, of the task's classes or of some of them: a path as in the "
        "task `folder` without splits, or a mapping with `path`, and for a CSV `images` and `label`; `unseen: drop` "
        "leaves out images of classes that the task lacks; `labels: none` for images without labels, whose accuracy is "
        "estimated; `classes: all` does not restrict predictions and ID scores "
        "to the classes of a shift that has only some",
        examples=["shifts: {v2: ~/data/v2}", "shifts: {objectnet: {path: ~/data/objectnet, unseen: drop}}"],
        json_schema_extra={"shown": "mapping of names to paths or mappings"},
    )
    id_sets: Annotated[dict[str, SerializeAsAny[TestSet]] | None, BeforeValidator(_parse_id_sets)] = Field(
        default=None,
        description="further labelled ID test sets, by name, each of all of the task's classes, written as in "
        "`shifts`: the baseline is then a plane over the scores on `id_test` and on these",
        examples=["id_sets: {web: ~/data/web_test}", "id_sets: {web: {path: ~/data/web_test, unseen: drop}}"],
        json_schema_extra={"shown": "mapping of names to paths or mappings"},
    )
