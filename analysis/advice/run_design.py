"""What a run's spec plans for its baseline, and the same with more: the YAML to paste, and what it adds.

Owns `RunDesign`, read from a run folder's spec.yaml, plan and results. What it writes replaces whole sections of the
spec and keeps every value that was there, so that everything trained already keeps its identity; a test
compares the counts with those of the plan.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, prod
from typing import Any

import pandas as pd
import yaml

from analysis.advice.advice import Cost
from analysis.input.table import Table
from ray_robust.run import throughput
from ray_robust.run.analysis_settings import BASELINE

EPOCHS, EVERY = 12, 3  # defaults of the spec, where a run's does not name them
LONGER = 3  # times as many epochs, where the range has to reach higher
ALL = "all"
SIZES, PER_CLASS = "num_images", "per_class"
LENGTHS = ("images_seen", "epochs", "min_images_seen")  # of a pre-training
DECODED = (None, "auto", "raw", {"codec": "raw"})  # values of model.store; rates of others have other names
TIMES = {"k": 1_000, "M": 1_000_000}


@dataclass(frozen=True, eq=False)
class RunDesign:
    """What one run was asked for, as far as advice changes it.

    name    of the run
    spec    spec.yaml
    plan    rows of plan.csv
    points  the run's points of one task, for the time that its trainings took
    train, tested   images of the task: to train on, and of all four test splits; 0 where unknown
    classes         of the task; 0 where unknown
    trained         the spec that was run, where `spec` has more (see `after`)
    written         its sections as the user wrote them: what is pasted repeats no default, and `$DATA/x` stays so. Of a
                    run of an earlier version none is known, and what is pasted has every key
    """

    name: str
    spec: Mapping[str, Any]
    plan: Sequence[Mapping[str, Any]]
    points: pd.DataFrame
    train: int = 0
    tested: int = 0
    classes: int = 0
    trained: Mapping[str, Any] | None = None
    written: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, points: pd.DataFrame) -> RunDesign | None:
        """Return the design of a table's run, of several joined the first; None where it is a plain table, or the
        spec is not there."""
        if table.run is None or not (spec := table.run.spec()):
            return None
        pools = [pool for pool in table.run.data().get("pools", ()) if pool.get("kind") == "task"]
        task = str(points["task"].iloc[0]) if len(points) else ""
        pool = next((pool for pool in pools if task.partition("[")[0] == pool.get("name")), pools[0] if pools else {})
        splits = {name: int(count) for name, count in (pool.get("splits") or {}).items()}
        tested = sum(splits.get(name, 0) for name in ("id_val", "id_test", "ood_val", "ood_test"))
        name = table.run.storage.shown.rstrip("/").rpartition("/")[2]
        plan, classes = table.run.plan().to_dict("records"), int(pool.get("classes") or 0)
        made = spec.get("provenance")
        written = made.get("written") if isinstance(made, Mapping) else None
        own = written if isinstance(written, Mapping) else {}
        return cls(name, spec, plan, points, splits.get("train", 0), tested, classes, written=own)

    def after(self, pasted: Sequence[str | None]) -> RunDesign:
        """Return the design once these sections are pasted: its YAML holds them, and its costs come on top of them."""
        added = {key: value for text in pasted if text for key, value in yaml.safe_load(text).items()}
        if not added:
            return self
        spec, own = {**self.spec, **added}, {**self.written, **added} if self.written else {}
        return replace(self, spec=spec, written=own, trained=self.as_run.spec)

    @property
    def as_run(self) -> RunDesign:
        """The design without anything pasted."""
        return self if self.trained is None else replace(self, spec=self.trained, trained=None)

    @property
    def baseline(self) -> dict[str, Any]:
        """The section `baseline`, in its long form."""
        raw = self.spec.get("baseline", BASELINE)
        return dict(raw) if isinstance(raw, Mapping) else {"name": "none" if raw is None else raw}

    @property
    def from_scratch(self) -> bool:
        """Whether the baseline is fine-tuned from scratch with keys that can be varied one by one."""
        own = self.baseline.get("name", BASELINE) == BASELINE
        return own and not self.spread_by_pilot and "grid" not in self.finetune

    @property
    def spread_by_pilot(self) -> bool:
        """Whether a pilot chooses the baseline's sizes and lengths, which the spec then may not."""
        return self.baseline.get("spread") is not None

    @property
    def draws(self) -> bool:
        """Whether the run searches: its mixtures are drawn."""
        return (self.spec.get("search") or {}).get("method", "grid") != "grid"

    @cached_property
    def finetune(self) -> dict[str, Any]:
        """The keys of the baseline's fine-tuning: those of `finetune` with its own in their place."""
        return {**(self.spec.get("finetune") or {}), **(self.baseline.get("finetune") or {})}

    @property
    def seeds(self) -> list[int]:
        """The sweep's seeds."""
        raw = self.spec.get("seeds", 1)
        if isinstance(raw, Mapping):  # of two stages as many as some group has
            counts = [row.get("seed") for row in self.plan]
            return sorted({int(seed) for seed in counts if seed == seed and seed is not None})
        return list(raw) if isinstance(raw, list) else list(range(1, int(raw) + 1))

    @property
    def in_stages(self) -> bool:
        """Whether further seeds come by what the first ones show."""
        return isinstance(self.spec.get("seeds"), Mapping)

    @property
    def baseline_seeds(self) -> int:
        """How many seeds the baseline has."""
        return int(self.baseline.get("seeds") or len(self.seeds))

    @property
    def sized_by(self) -> str:
        """The key that sets how much is fine-tuned on."""
        return PER_CLASS if self.finetune.get(PER_CLASS) is not None else SIZES

    @property
    def smallest(self) -> int:
        """The fewest images that the baseline is fine-tuned on; 0 where unknown."""
        return min((self._images(one) for one in self._levels(self.finetune)), default=0)

    def longest(self) -> int:
        """Return the most epochs that the baseline is fine-tuned for."""
        return max((_whole(one.get("epochs"), EPOCHS) for one in self._levels(self.finetune)), default=EPOCHS)

    def longer(self) -> int:
        """Return how many epochs reach further up than the baseline does now."""
        return LONGER * self.longest()

    def unmatched(self, key: str) -> list[Any]:
        """Return the values of a key of `finetune` (`epochs`, `lr`) that groups have and the baseline does not."""
        present = [_plain(one) for one in values(self.finetune.get(key))]
        return [one for one in values((self.spec.get("finetune") or {}).get(key)) if _plain(one) not in present]

    def spread(
        self, sizes: Sequence[int] = (), epochs: Sequence[int] = (), seeds: int = 0, rates: Sequence[Any] = ()
    ) -> tuple[str, Cost]:
        """Return the section `baseline` with further fine-tuning-set sizes, lengths and learning rates, and at least so
        many seeds, and what is new in it. `sizes` are in images of the whole set."""
        section, own = self.baseline, dict(self.baseline.get("finetune") or {})
        if sizes:
            key, added = self.sized_by, list(sizes)
            if key == PER_CLASS and self.train:
                present = max(map(_whole, values(self.finetune[PER_CLASS])), default=1)
                added = sorted({max(1, round(present * size / self.train)) for size in sizes})
            own[key] = _grid(added, values(self.finetune.get(key), ALL))
        if epochs:
            own["epochs"] = _grid(epochs, values(self.finetune.get("epochs"), EPOCHS))
        if rates:
            own["lr"] = _grid(rates, values(self.finetune.get("lr")))
        section = {"name": BASELINE, **self._kept("baseline", section), "finetune": own}
        if seeds > self.baseline_seeds:
            section["seeds"] = seeds
        if not own:
            del section["finetune"]
        more = max(seeds, self.baseline_seeds)
        return written({"baseline": section}), self._cost({**self.finetune, **own}, more)

    def first_baseline(self) -> tuple[str, Cost]:
        """Return a section `baseline` for a run that has none, and its cost."""
        finetune = self.spec.get("finetune") or {}
        levels = self._levels(finetune)
        each = sum(self._images_of(level) for level in levels)
        return written({"baseline": BASELINE}), self._priced(len(levels), each, len(self.seeds))

    def with_seeds(self, seeds: int) -> tuple[str, Cost]:
        """Return the key `seeds`, with further ones, and what is new."""
        own, now = self.seeds, len(self.seeds)
        more = itertools.islice((one for one in itertools.count(max(own) + 1) if one not in own), seeds - now)
        counted = own == list(range(1, now + 1))
        text = written({"seeds": seeds if counted else [*own, *more]})
        fixed = self.baseline.get("seeds") is not None
        if fixed:
            raised = {**self.baseline, "seeds": max(int(self.baseline["seeds"]), seeds)}
            text += written({"baseline": raised})
        trials = finetunings = pretrainings = images = 0.0
        for row in self.plan:
            scratch = _is_scratch(row)
            present, rows = (
                (self.baseline_seeds, self.as_run.baseline_seeds) if scratch else (now, len(self.as_run.seeds))
            )
            share = (max(present, seeds) - present) / rows
            further, further_images = self._more(scratch)
            trials += share
            finetunings += share * (len(json.loads(row["finetunes"])) + further)
            pretrainings += 0 if scratch else share
            images += share * (float(row.get("cost_images") or 0) + further_images)
        return text, Cost(round(finetunings), round(pretrainings), round(images), self._seconds(images))

    def groups_for(self, epochs: int) -> tuple[str | None, Cost | None]:
        """Return the section `finetune` with fine-tunings of so many epochs besides its own, a baseline that had its
        lengths from there with these, and what is new; None without groups, and where lengths are drawn or vary with
        whole sections."""
        section, baseline = dict(self.spec.get("finetune") or {}), self.baseline
        own, present = dict(baseline.get("finetune") or {}), values(section.get("epochs"), EPOCHS)
        rows = [row for row in self.plan if not _is_scratch(row)]
        whole = "grid" in section or "grid" in own
        if self.draws or whole or not rows or epochs in map(_plain, present):
            return None, None
        text = written({"finetune": self._kept("finetune", section) | {"epochs": _grid([epochs], present)}})
        if baseline.get("name", BASELINE) == BASELINE and "epochs" not in own:
            own = {"finetune": own | {"epochs": present[0] if len(present) == 1 else {"grid": present}}}
            text += written({"baseline": {"name": BASELINE, **self._kept("baseline", baseline), **own}})
        finetunings = sum(len(json.loads(row["finetunes"])) for row in rows) // len(present)
        levels = self._levels(section | {"epochs": epochs})
        if self.spread_by_pilot:  # such a baseline has the groups' fine-tunings too
            finetunings += len(levels) * self.baseline_seeds * self._copies
        images = finetunings * sum(map(self._images_of, levels)) / len(levels)
        return text, Cost(finetunings, 0, round(images), self._seconds(images))

    @property
    def pretraining_rate(self) -> float:
        """The learning rate of the pre-trainings; 0 where it varies or is not named."""
        section = self.spec.get("pretrain")
        rate = _plain(section.get("lr")) if isinstance(section, Mapping) else None
        return rate if isinstance(rate, float) else 0.0

    def pretrained(self, times: int = 1, lr: float | None = None) -> tuple[str | None, Cost | None]:
        """Return the section `pretrain` of so many times the length, at a rate, and what is new; None where the spec
        has no such section, or a length that is drawn."""
        section = self.spec.get("pretrain")
        if not isinstance(section, Mapping) or set(section) == {"grid"} or self.draws:
            return None, None
        own = self._kept("pretrain", section)
        if times > 1:
            lengths = [one for one in LENGTHS if section.get(one) is not None]
            for key in lengths:
                present = [_plain(one) for one in values(section[key])]
                if not all(isinstance(one, float) for one in present):
                    return None, None
                longer = [int(times * one) for one in present if isinstance(one, float)]
                own[key] = longer[0] if len(longer) == 1 else {"grid": longer}
            if not lengths:
                return None, None
        if lr is not None:
            own["lr"] = lr
        rows = [row for row in self.plan if not _is_scratch(row)]
        images = sum(float(row.get("cost_images") or 0) for row in rows)
        images += (times - 1) * sum(float(row.get("pretrain_images_seen") or 0) for row in rows)
        finetunings = sum(len(json.loads(row["finetunes"])) for row in rows)
        return written({"pretrain": own}), Cost(finetunings, len(rows), round(images), self._seconds(images))

    def _kept(self, key: str, section: Mapping[str, Any]) -> dict[str, Any]:
        """Return a section that keys are added to: as it was written, where that is known."""
        raw = self.written.get(key) if self.written else section
        return dict(raw) if isinstance(raw, Mapping) else {}

    def _more(self, scratch: bool) -> tuple[int, float]:
        """How many fine-tunings, of how many images, a trial has beyond those of the plan."""
        now, run = ((one.finetune if scratch else one.spec.get("finetune") or {}) for one in (self, self.as_run))
        after, before = self._levels(now), self._levels(run)
        return len(after) - len(before), sum(map(self._images_of, after)) - sum(map(self._images_of, before))

    def _cost(self, finetune: Mapping[str, Any], seeds: int) -> Cost:
        """What a baseline of these keys and seeds adds to the run's own."""
        before, after = self._levels(self.finetune), self._levels(finetune)
        new, own = [level for level in after if level not in before], [level for level in after if level in before]
        further = seeds - self.baseline_seeds
        images = sum(map(self._images_of, new)) * seeds + sum(map(self._images_of, own)) * further
        return self._priced(len(new) * seeds + len(own) * further, images, 1)

    def _priced(self, finetunings: int, images: float, seeds: int) -> Cost:
        times = seeds * self._copies
        return Cost(finetunings * times, 0, round(images * times), self._seconds(images * times))

    @property
    def _copies(self) -> int:
        """How many models and tasks each fine-tuning is run for."""
        return prod(len(one) for key in ("model", "task") for _, one in axes({key: self.spec.get(key)}))

    def _levels(self, finetune: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every combination of the keys' values, each once: those of a model from scratch, whose method is `full`."""
        if isinstance(alternatives := finetune.get("grid"), list):  # of whole sections
            rest = {key: value for key, value in finetune.items() if key != "grid"}
            whole = [level for one in alternatives for level in self._levels({**one, **rest})]
            return [level for i, level in enumerate(whole) if level not in whole[:i]]
        plain = {key: value for key, value in finetune.items() if key not in ("method", "probe_epochs", "probe_lr")}
        varied = dict(axes(plain))
        levels: list[dict[str, Any]] = []
        for chosen in itertools.product(*varied.values()):
            level = {**plain, **dict(zip(varied, chosen, strict=True))}
            level = {key: _plain(value) for key, value in level.items() if _plain(value) is not None}
            if level not in levels:
                levels.append(level)
        return levels

    def _images(self, level: Mapping[str, Any]) -> int:
        """How many training images a fine-tuning sees once."""
        if level.get(PER_CLASS) is not None:
            return min(_whole(level[PER_CLASS]) * max(self.classes, 1), self.train)
        size = level.get(SIZES)
        return self.train if size in (None, ALL) else min(_whole(size), self.train or _whole(size))

    def _images_of(self, level: Mapping[str, Any]) -> float:
        epochs, every = _whole(level.get("epochs"), EPOCHS), _whole(level.get("evaluate_every"), EVERY)
        return epochs * self._images(level) + throughput.EVALUATION_COST * ceil(epochs / every) * self.tested

    def _seconds(self, images: float) -> float | None:
        """Seconds of one worker for so many images: at the rate of this run's own baseline, else of this machine."""
        rate = self._own_rate() or self._machine_rate()
        return images / rate if rate and images else None

    def _own_rate(self) -> float | None:
        columns = {"trial", "finetune", "seconds_finetune", "pretrain_method"}
        if not columns <= set(self.points):
            return None
        own = self.points.loc[self.points["pretrain_method"] == BASELINE].drop_duplicates(["trial", "finetune"])
        seconds = pd.to_numeric(own["seconds_finetune"], errors="coerce").dropna()
        levels = self._levels(self.as_run.finetune)
        each = sum(map(self._images_of, levels)) / max(len(levels), 1)
        return each * len(seconds) / float(seconds.sum()) if len(seconds) and seconds.sum() > 0 and each else None

    def _machine_rate(self) -> float | None:
        model, resources = self.spec.get("model") or {}, self.spec.get("resources") or {}
        size, gpus = model.get("image_size", 0), resources.get("gpus_per_worker", 0)
        if not isinstance(model.get("name"), str) or not isinstance(size, int) or model.get("store") not in DECODED:
            return None
        return throughput.measured_rate(throughput.key_of(model["name"], size, float(gpus or 0)))


def written(section: Mapping[str, Any]) -> str:
    """Return a section as YAML, lists in one line."""
    return yaml.dump(dict(section), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes lists in one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def values(raw: Any, default: Any = None) -> list[Any]:
    """Return the values that a key takes: those of its grid, or its one."""
    if isinstance(raw, Mapping) and set(raw) == {"grid"}:
        return [default if one is None else one for one in raw["grid"]]
    return [default if raw is None else raw]


def axes(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield every key of a section whose value is a grid, and its values."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            if set(value) == {"grid"}:
                yield f"{path}{key}", list(value["grid"])
            else:
                yield from axes(value, f"{path}{key}.")


def _grid(added: Sequence[Any], present: Sequence[Any]) -> dict[str, list[Any]]:
    """Values that are there and new ones, ascending, `all` last; each as it was written."""
    own = list(present) + [one for one in added if _plain(one) not in [_plain(other) for other in present]]
    return {"grid": sorted(own, key=lambda one: float("inf") if one == ALL else float(_plain(one)))}


def _plain(value: Any) -> Any:
    """A number whichever way it is written: `16k`, `3e-4`; `all`, which is the same as no value, as None."""
    if isinstance(value, str):
        text = value.strip().replace("_", "")
        scale = TIMES.get(text[-1:], 1)
        try:
            return float(text if scale == 1 else text[:-1]) * scale
        except ValueError:
            return None if value == ALL else value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _whole(value: Any, default: int = 0) -> int:
    number = _plain(value)
    return int(number) if isinstance(number, float) else default


def _is_scratch(row: Mapping[str, Any]) -> bool:
    return row.get("pretrain_method") == BASELINE or row.get("group") == BASELINE
