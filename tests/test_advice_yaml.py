"""The YAML of an advice, pasted into every shipped sweep: it is read, repeats nothing and costs what is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.advice.advice import Cost
from analysis.advice.remedies import for_refused
from analysis.advice.run_design import RunDesign, values
from analysis.options import Options
from analysis.study import analyse
from ray_robust.plan.plan import Plan, PoolFacts, WeightsFacts, make_plan
from ray_robust.prepare import baseline_spread
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
SPLITS = {"train": 4000, "id_val": 100, "id_test": 200, "ood_val": 300, "ood_test": 400}
LENGTHS = (  # baselines, by where their number of epochs is from
    "scratch", "{name: scratch, spread: auto, finetune: {num_images: all}}", "{name: scratch, finetune: {epochs: 7}}"
)  # fmt: skip
names = [str(file.relative_to(ROOT / "sweeps")) for file in SWEEPS]


class Facts(dict):
    """Facts of any pool or weights: what it is called means it."""

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.weights = weights

    def __missing__(self, key: str):
        return WeightsFacts(key) if self.weights else PoolFacts(key, 50_000, SPLITS)

    def get(self, key, default=None):
        return self[key] if key else default


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the sweeps' own CSVs are


def plan(file: Path) -> Plan:
    """The plan of a file; of a baseline that a pilot spreads without the rungs, which no YAML decides."""
    spec = load_spec(file)
    if baseline_spread.wanted(spec):
        levels = {level.section: level for level in baseline_spread.own_and_of_groups(spec)}
        spec = replace(spec, baseline_finetunes=tuple(levels.values()))
    return make_plan(spec, Facts(), Facts(), weights=Facts(weights=True))


def by_hand(file: Path, folder: Path, baseline: str = "{name: scratch, finetune: {epochs: 12}}") -> Path:
    """A copy of the file with this baseline, which can be spread by hand."""
    own = re.sub(r"(?m)^baseline:.*\n(?:[ \t#].*\n|\n)*", "", file.read_text("utf-8"))
    copy = folder / "before" / file.name
    copy.parent.mkdir()
    copy.write_text(f"{own.rstrip()}\nbaseline: {baseline}\n", "utf-8")
    return copy


def design(file: Path, points: pd.DataFrame | None = None, written: bool = True) -> RunDesign:
    """The design of the run that this file would make; of an earlier version where what was written is not known."""
    read, points = load_spec(file), pd.DataFrame() if points is None else points
    rows, tested, spec = plan(file).rows(), sum(SPLITS.values()) - SPLITS["train"], yaml.safe_load(read.resolved)
    return RunDesign("run", spec, rows, points, SPLITS["train"], tested, 16, written=read.written if written else {})


def pasted(file: Path, text: str, folder: Path) -> Path:
    """The file with the sections of `text` in place of its own, as its user would paste them."""
    own = file.read_text("utf-8")
    for key in yaml.safe_load(text):
        own = re.sub(rf"(?m)^{key}:.*\n(?:[ \t#].*\n|\n)*", "", own)
    made = folder / file.name
    made.write_text(f"{own.rstrip()}\n{text}", "utf-8")
    return made


def finetunings(of: Plan) -> set[tuple[str, str]]:
    return {(trial.key, finetuning.id) for trial in of for finetuning in trial.finetunings}


def images(of: Plan, only: set[tuple[str, str]]) -> float:
    return sum(f.images + 0.35 * f.evaluated for t in of for f in t.finetunings if (t.key, f.id) in only)


def check(file: Path, text: str, cost: Cost, folder: Path) -> Plan:
    """Nothing that was planned is lost, and what is new is what the cost says."""
    before, after = plan(file), plan(pasted(file, text, folder))
    assert finetunings(before) <= finetunings(after)
    assert {trial.key for trial in before} <= {trial.key for trial in after}
    new = finetunings(after) - finetunings(before)
    assert cost.finetunings == len(new)
    assert cost.pretrainings == after.pretrainings - before.pretrainings
    return after


@pytest.mark.parametrize("file", SWEEPS, ids=names)
@pytest.mark.parametrize("resolved", [False, True], ids=["own", "resolved"])
def test_a_wider_baseline_is_read_and_repeats_nothing(file, resolved, tmp_path):
    file = by_hand(file, tmp_path, "{name: scratch}")
    run = design(file, written=not resolved)
    if resolved:
        (tmp_path / "run").mkdir()
        file = tmp_path / "run" / file.name
        file.write_text(yaml.safe_dump(dict(run.spec), sort_keys=False, allow_unicode=True))
    text, cost = run.spread([250, 1000], [3 * run.longest()], run.baseline_seeds + 1)
    after = check(file, text, cost, tmp_path)
    before = plan(file)
    new = finetunings(after) - finetunings(before)
    assert cost.images == pytest.approx(images(after, new))
    own, sizes = (
        {f.settings.num_images for t in made if t.pretrain is None for f in t.finetunings} for made in (before, after)
    )
    assert sizes == own | {250, 1000}
    assert json.loads(json.dumps(yaml.safe_load(text)))["baseline"]["name"] == "scratch"


@pytest.mark.parametrize("file", SWEEPS, ids=names)
def test_more_seeds_are_read_and_repeat_nothing(file, tmp_path):
    run = design(file)
    if run.draws:
        return  # a search gets words
    text, cost = run.with_seeds(len(run.seeds) + 2)
    after = check(file, text, cost, tmp_path)
    new = finetunings(after) - finetunings(plan(file))
    trained = sum(t.pretrain_images for t in after) - sum(t.pretrain_images for t in plan(file))
    assert cost.images == pytest.approx(images(after, new) + trained, rel=0.01)


@pytest.mark.parametrize("name", ["quantity", "photos/quantity", "algorithm", "mixture_search", "baseline"])
@pytest.mark.parametrize("edit", LENGTHS)
def test_groups_as_long_as_the_baseline_are_read_and_repeat_nothing(name, edit, tmp_path):
    file = by_hand(ROOT / f"sweeps/{name}.yaml", tmp_path, edit)
    run, before = design(file), plan(file)
    text, cost = run.groups_for(97)
    if run.draws or all(trial.pretrain is None for trial in before):
        assert (text, cost) == (None, None)  # a search gets words; without groups there is nothing to compare
        return
    after = check(file, text, cost, tmp_path)
    new = finetunings(after) - finetunings(before)
    trials = {trial.key: trial for trial in after}
    assert {f.settings.epochs for t in after for f in t.finetunings if (t.key, f.id) in new} == {97}
    if not run.spread_by_pilot:  # which has the groups' fine-tunings too
        assert all(trials[key].pretrain is not None for key, _ in new)
    if all(f.settings.method == "full" for t in after for f in t.finetunings):
        assert cost.images == pytest.approx(images(after, new), rel=1e-6)
    assert design(pasted(file, text, tmp_path)).groups_for(97) == (None, None)


EDITS = {
    "seeds by name": ("seeds: 3", "seeds: [11, 12, 5]"),
    "a grid of sizes": ("finetune: {epochs: 12}}", "finetune: {epochs: 12, num_images: {grid: [1k, all]}}}"),
    "a grid of lengths": ("finetune: {epochs: 12}}", "finetune: {epochs: {grid: [6, 12]}}}"),
    "images of each class": ("finetune: {epochs: 12}}", "finetune: {per_class: 100}}"),
    "seeds of its own": ("finetune: {epochs: 12}}", "seeds: 5}"),
    "its name alone": ("baseline: {name: scratch, finetune: {epochs: 12}}", "baseline: scratch"),
}


def edited(edit: str, folder: Path) -> Path:
    file = by_hand(ROOT / "sweeps/quantity.yaml", folder)
    own = file.read_text("utf-8")
    assert EDITS[edit][0] in own
    file.write_text(own.replace(*EDITS[edit]), "utf-8")
    return file


@pytest.mark.parametrize("edit", EDITS)
def test_whatever_the_baseline_varies_already(edit, tmp_path):
    file = edited(edit, tmp_path)
    run = design(file)
    text, cost = run.spread([250, 500], [3 * run.longest()], 4)
    check(file, text, cost, tmp_path)
    text, cost = run.with_seeds(6)
    check(file, text, cost, tmp_path)


@pytest.mark.parametrize("edit", EDITS)
def test_baseline_seeds_that_are_pasted_give_as_many_trials(edit, tmp_path):
    file = edited(edit, tmp_path)
    run = design(file)
    more = run.baseline_seeds + 2
    text, cost = run.spread(seeds=more)
    assert yaml.safe_load(text)["baseline"]["seeds"] == more
    after = check(file, text, cost, tmp_path)
    assert sum(trial.pretrain is None for trial in after) == more
    assert design(pasted(file, text, tmp_path)).baseline_seeds == more


def test_a_run_without_a_baseline_gets_one(tmp_path):
    own = (ROOT / "sweeps/quantity.yaml").read_text("utf-8")
    file = tmp_path / "before" / "quantity.yaml"
    file.parent.mkdir()
    file.write_text(re.sub(r"(?m)^baseline:.*$", "baseline: none", own))
    check(file, *design(file).first_baseline(), tmp_path)


WHOLE = {
    "tasks": ("task", "task: {grid: [{name: camera-traps}, {name: camera-traps, shift: 0.5}]}"),
    "models": ("model", "model: {name: {grid: [test_resnet, test_byobnet]}, image_size: 32}"),
    "fine-tunings": (
        "finetune",
        "finetune: {grid: [{epochs: 3, evaluate_every: 1}, {epochs: 6, lr: 1e-4}]}",
    ),
}


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("baseline", ["none", "scratch"])
def test_a_grid_of_whole_sections_is_counted_too(what, baseline, tmp_path):
    key, text = WHOLE[what]
    own = (ROOT / "sweeps/quantity.yaml").read_text("utf-8")
    own = re.sub(rf"(?m)^{key}:.*\n(?:[ \t#].*\n|\n)*", f"{text}\n", own)
    file = tmp_path / "before" / "quantity.yaml"
    file.parent.mkdir()
    file.write_text(re.sub(r"(?m)^baseline:.*$", f"baseline: {baseline}", own))
    run = design(file)
    if baseline == "none":
        check(file, *run.first_baseline(), tmp_path)
    else:
        check(file, *run.with_seeds(6), tmp_path)
        if run.from_scratch:
            check(file, *run.spread([250], [30], 5), tmp_path)


def test_the_time_is_that_of_the_runs_own_baseline():
    file = ROOT / "sweeps/quantity.yaml"
    rows = [
        {"trial": "a", "finetune": f"lr{i}", "seconds_finetune": 10.0, "pretrain_method": "scratch"} for i in range(3)
    ]
    run = design(file, pd.DataFrame(rows * 6))  # a row for every epoch
    cost = run.spread(seeds=run.baseline_seeds + 1)[1]
    assert cost.finetunings == 3
    assert cost.seconds == pytest.approx(30.0)
    assert "3 new fine-tunings" in cost.text
    assert "30 s" in cost.text


def test_a_baseline_that_a_pilot_spreads_is_not_spread_by_hand(tmp_path):
    """The spec refuses sizes beside `spread: auto`, so that the advice has none to paste."""
    own = (ROOT / "sweeps/quantity.yaml").read_text("utf-8")
    file = tmp_path / "quantity.yaml"
    file.write_text(re.sub(r"(?m)^baseline:.*$", "baseline: {name: scratch, spread: auto}", own))
    assert not design(file).from_scratch
    points = pd.DataFrame({"trial": [*"abcdef"], "group": "scratch", "id": [0.5, 0.51, 0.52] * 2, "task": "task",
                           "ood": [0.3, 0.4, 0.31, 0.36, 0.31, 0.37]})  # fmt: skip
    advice = for_refused(analyse("task", points, Options("scratch")), design(file))
    assert all(one.yaml is None for one in advice)
    assert "baseline.seeds" in advice[0].action


def test_after_a_divergence_another_rate_is_advised():
    """The same command alone would end alike."""
    points = pd.DataFrame(
        {"trial": ["a", "b"], "group": "scratch", "id": [0.5, 0.6], "ood": [0.3, 0.4], "task": "task"}
    )
    reason = "2 of 3 fine-tunings failed: finetune: the loss became nan by step 3 of 6 (learning rate 1e+09); "
    reason += "probe: the loss became inf by step 4 of 6 (learning rate 1e+08); the scores of the others count"
    left_out = pd.DataFrame({"trial": ["a", "b", "b"], "group": "scratch", "task": "task", "reason": reason})
    run = design(ROOT / "sweeps/quickstart.yaml")
    (advice,) = for_refused(analyse("task", points, Options("scratch"), left_out=left_out), run)
    assert "2 trials of it failed" in advice.evidence
    assert advice.action.startswith(
        "Lower the rate at which the loss diverged (finetune.lr 1e+09 and finetune.probe_lr 1e+08)"
    )


def test_what_is_pasted_later_holds_what_was_pasted_before(tmp_path):
    """Advice is a list: each block of YAML has those above it, and costs what comes on top of them."""
    file = by_hand(ROOT / "sweeps/quickstart.yaml", tmp_path)
    run = design(file)
    longest, seeds = run.longest(), run.baseline_seeds
    first, cost = run.spread(epochs=[3 * longest])
    check(file, first, cost, tmp_path)
    once = tmp_path / file.name
    now = run.after([first, None])
    assert now.longest() == 3 * longest
    steps = tmp_path / "steps"
    for name, (second, more) in {"baseline": now.spread(seeds=seeds + 2), "seeds": now.with_seeds(seeds + 1)}.items():
        (steps / name).mkdir(parents=True)
        after = check(once, second, more, steps / name)
        assert finetunings(plan(once)) < finetunings(after)
    assert yaml.safe_load(now.spread(seeds=seeds + 2)[0])["baseline"]["finetune"]["epochs"] == {
        "grid": [longest, 3 * longest]
    }
    assert now.as_run.spec == run.spec


def test_the_rates_of_the_groups_are_given_to_the_baseline(tmp_path):
    file = by_hand(ROOT / "sweeps/quickstart.yaml", tmp_path, "{name: scratch, finetune: {epochs: 12, lr: 5e-4}}")
    run = design(file)
    rates = run.unmatched("lr")
    assert len(rates) == len(values(run.spec["finetune"]["lr"]))
    text, cost = run.spread(rates=rates)
    check(file, text, cost, tmp_path)
    assert run.after([text]).unmatched("lr") == []
