"""Mixtures that differ in which classes they have get equal numbers of classes and images; a plan reports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_robust import sweep
from ray_robust.data.mixtures.matching import match
from ray_robust.data.mixtures.mixture import draw
from ray_robust.data.pool import Catalog
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import Pretrain
from tests.make_mixtures import asked, pool

# --- matched numbers


def of_one(catalog: Catalog) -> Callable[[Pretrain], dict[str, Catalog]]:
    return lambda mixture: dict.fromkeys(mixture.sources, catalog)


def test_numbers_are_those_of_the_poorest():
    mixtures = [asked(classes=choice) for choice in ("all", {"under": "animal"}, {"under": "tool"})]
    matched, lines = match(mixtures, of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(3, 18)] * 3  # animals: at least 5 + 6 + 7
    assert lines == [
        "matched: 3 classes in every mixture; `under tool` has 3",
        "matched: 18 images in every mixture, which `all` is sure to hold",
        "match: false under pretrain leaves every mixture all that it has",
        "not matched: the images of single classes (balance: uniform evens them out)",
    ]
    for mixture in matched:
        for seed in range(20):
            subset = draw(mixture, {"a": pool()}, {"a": None}, seed)
            assert (len(subset), subset.leaf_classes) == (18, 3)


def test_what_is_given_is_not_matched():
    choices = [{"classes": {"under": name}} for name in ("animal", "tool")]
    matched, lines = match([asked(**c, num_images=12) for c in choices], of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(3, 12)] * 2
    matched, _ = match([asked(**c, num_images=2) for c in choices], of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(2, 2)] * 2
    matched, _ = match([asked(**c, images_per_class=8) for c in choices], of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(2, "all")] * 2  # two animals have that many
    given = [asked(**c, num_classes=k) for c, k in zip(choices, (2, 3), strict=True)]
    matched, lines = match(given, of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(2, 11), (3, 11)]
    assert "not matched: num_classes, which is given (2 to 3); the images of single" in lines[-1]
    unmatched = [asked(**c, match=False) for c in choices]
    assert match(unmatched, of_one(pool())) == (unmatched, [])
    assert match(given[:1], of_one(pool())) == (given[:1], [])


def test_every_source_gives_its_share_of_what_is_matched():
    mixtures = [asked({"a": 2.0, "b": 1.0}, classes=choice) for choice in ("all", {"under": "tool"})]
    matched, _ = match(mixtures, of_one(pool()))
    assert [(m.num_classes, m.num_images) for m in matched] == [(5, 27)] * 2  # 3 and 2 classes, 18 and 9 images
    for mixture in matched:
        assert len(draw(mixture, {"a": pool(), "b": pool()}, {"a": None, "b": None}, 1)) == 27


def test_with_a_cut_the_labels_are_each_choices_own():
    mixtures = [asked(classes=c, granularity="family") for c in ("all", {"under": "tool"})]
    assert "the number of labels, which is each choice's own" in match(mixtures, of_one(pool()))[1][-1]


# --- from the file


SPEC = """\
# Question: does semantics matter?
task: {name: camera-traps, train_images: 400}
pretrain:
  sources: {species: {weight: 1.0, species: 40, images_per_class: 30}}
  classes: {grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}
  granularity: class
  epochs: 1
"""


def plan_of(text: str, folder: Path) -> dict[str, dict[str, Any]]:
    (folder / "x.yaml").write_text(text)
    return {row["group"]: row for row in open_sweep(load_spec(folder / "x.yaml")).plan.rows()}


def test_a_plan_says_what_was_matched(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = plan_of(SPEC, tmp_path)
    names = ["classes=all", "classes=nearest:10+to:Cervanta", "classes=under:Cervanta"]
    assert sorted(rows) == [*names, "scratch"]
    assert [rows[name]["semantics"] for name in names] == ["all", "nearest 10 to Cervanta", "under Cervanta"]
    numbers = {(rows[name]["num_classes"], rows[name]["num_images"]) for name in names}
    assert len(numbers) == 1
    ((classes, images),) = numbers
    assert images == classes * 29 == rows[names[0]]["pretrain_images_seen"]
    assert sweep.main(["x.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert f"matched: {classes} classes in every mixture; `under Cervanta` has {classes}\n" in said
    free = {row["num_classes"] for row in plan_of(SPEC.replace("epochs", "match: false\n  epochs"), tmp_path).values()}
    assert free == {None, 0}


def test_what_does_not_differ_in_meaning_does_not_differ_in_identity(tmp_path):
    one = SPEC.replace("{grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}", "{under: Cervanta}")
    other = SPEC.replace("{grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}", "{under: [Cervanta]}")
    plain = SPEC.replace("classes: {grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}", "classes: all")
    bare = SPEC.replace("classes: {grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}", "match: false")
    keys = [plan_of(text, tmp_path)["pretrained"]["trial"] for text in (one, other, plain, bare)]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_a_table_counts_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = SPEC.replace("classes: {grid: [all, {under: Cervanta}, {nearest: 10, to: Cervanta}]}", "classes: few.csv")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        open_sweep(load_spec("x.yaml"))
    assert str(caught.value) == f"x.yaml:5: pretrain.classes: {tmp_path}/few.csv: no such file"
    species = open_sweep(load_spec("x.yaml", ("pretrain.classes=all",))).sources.popitem()[1].catalog.classes

    def key(classes: list[str], name: str = "few.csv") -> str:
        (tmp_path / name).write_text("class\n" + "\n".join(classes) + "\n")
        return plan_of(text.replace("few.csv", name), tmp_path)["pretrained"]["trial"]

    first = key([species[0], species[1]])
    assert key([species[1], species[0]], "other.csv") == first
    assert key([species[0], species[2]]) != first


def test_an_impossible_choice_is_said_at_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SPEC.replace("{under: Cervanta}", "{under: Cervantes}"))
    with pytest.raises(UserError) as caught:
        open_sweep(load_spec("x.yaml"))
    assert str(caught.value) == (
        "x.yaml:5: pretrain.classes: source species has no class or ancestor 'Cervantes'; did you mean Cervanta?"
    )
