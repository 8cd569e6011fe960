"""Errors in a spec: each is one line with its place in the file, all at once, exit code 2, nothing written."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

from pathlib import Path

import pytest
from error_lines import GOOD, WHOLE, error_lines

from ray_robust.spec.load import Finetune
from ray_robust.spec.yaml_lines import MISPLACED, UNEXPECTED

SEEDS = "seeds: must be how many, at least 1, or a list of different whole numbers, not"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12))


def after(text: str) -> tuple[str, str]:
    """`text` behind the good spec."""
    return "finetune: {epochs: 2}\n", f"finetune: {{epochs: 2}}\n{text}\n"


# what is replaced in the good spec, by what, and everything that is then said; a line number means `x.yaml:<line>`
SPECS: dict[str, tuple[tuple[str, str], list[str]]] = {
    # text that is no YAML of ours
    "a tab": (("  num_images", "\tnum_images"), ["5: no valid YAML: a tab where only spaces are allowed; indent with spaces"]),
    "a list that does not end": (("{epochs: 2}", "{epochs: [1, 2}"), ["7: no valid YAML: a list that begins here with '[' does not go on with ',' or end with ']'"]),
    "a mapping that ends too late": (("{epochs: 2}", "{epochs: 2\nseeds: 3}"), ["7: no valid YAML: a mapping that begins here with '{' does not go on with ',' or end with '}' (seen in line 8)"]),
    "a quotation mark alone": (("{epochs: 2}", "'all\nseeds: 3"), ["7: no valid YAML: a quotation mark that opens here is never closed"]),
    "no colon": (after("seeds 3\nquestion: a"), ["8: no valid YAML: a line without ': '; wanted: `key: value`"]),
    "two colons": (("{epochs: 2}", "epochs: 2"), [f"7: no valid YAML: {MISPLACED['mapping values are not allowed']}"]),
    "another indentation": (("  num_images", "   num_images"), [f"5: no valid YAML: {UNEXPECTED['']}"]),
    "less of an indentation": (after("  question: a"), [f"8: no valid YAML: {UNEXPECTED['']}"]),
    "a bracket too many": (("{epochs: 2}", "{epochs: 2}}"), ["7: no valid YAML: a '}' that closes nothing"]),
    "behind a bracket": (("{epochs: 2}", "{epochs: 2} x"), [f"7: no valid YAML: {UNEXPECTED['']}"]),
    "an item among keys": (after("- x"), [f"8: no valid YAML: {UNEXPECTED['-']}"]),
    "two documents": (after("---\na: 1"), ["8: no valid YAML: expected a single document in the stream, but found another document"]),
    "an undefined alias": (("{epochs: 2}", "*nope"), ["7: no valid YAML: found undefined alias 'nope'"]),
    "an alias inside itself": (("{epochs: 2}", "&f {epochs: 2, x: *f}"), ["7: an alias (*name) lies inside the value that it names"]),
    "a list inside itself": (("{name: camera-traps}", "&a [*a]"), ["1: an alias (*name) lies inside the value that it names"]),
    "billions of aliases": (after(BOMB), ["x.yaml: holds more than 200,000 values once its aliases are written out"]),
    "brackets without end": (after("question: " + "[" * 3000 + "]" * 3000), ["x.yaml: is nested more than 30 levels deep"]),
    "deep nesting": (after("question: " + "[" * 40 + "]" * 40), ["8: is nested more than 30 levels deep"]),
    "a tag that runs code": (("{epochs: 2}", "!!python/object/apply:os.system [ls]"),
        ["7: no valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"]),
    "a key that is a list": (after("[a, b]: x"), ["8: a key must be plain text"]),
    "a key that is a number": (after("3: x"), ["8: the key 3 must be text; quote it"]),
    # keys
    "an unknown section": (after("pretrian: {}"), ["8: pretrian: unknown key; did you mean pretrain?"]),
    "an unknown key": (("num_images", "num_imagess"), ["5: pretrain.num_imagess: unknown key; did you mean num_images?"]),
    "a section twice": (after("finetune: {epochs: 3}"), ["8: finetune: is given twice, first in line 7"]),
    "a key twice": (("{epochs: 2}", "{epochs: 2, epochs: 3}"), ["7: finetune.epochs: is given twice, first in line 7"]),
    "no task": (("task: {name: camera-traps}\n", ""), ["x.yaml: task: missing; a sweep needs it"]),
    "a section that is text": (("{name: camera-traps}", "camera-traps"), ["1: task: must be a mapping (key: value), not 'camera-traps'"]),
    # values of the wrong type or size
    "text for a number": (("{epochs: 2}", "{epochs: many}"), ["7: finetune.epochs: must be a whole number, not 'many'"]),
    "true for a number": (("{epochs: 2}", "{epochs: true, lr: true}"),
        ["7: finetune.lr: must be a number, not 'true'", "7: finetune.epochs: must be a whole number, not 'true'"]),
    "nothing for a number": (("num_images: 1000", "num_images:"), [f"5: pretrain.num_images: {WHOLE} nothing"]),
    "half an epoch": (("{epochs: 2}", "{epochs: 2.5}"), ["7: finetune.epochs: must be a whole number, not 2.5"]),
    "a negative number": (("{epochs: 2}", "{epochs: -2, lr: -1}"),
        ["7: finetune.lr: must be above 0, not -1", "7: finetune.epochs: must be above 0, not -2"]),
    "an overflow": (("{epochs: 2}", "{lr: 1e400}"), ["7: finetune.lr: must be a finite number, not '1e400'"]),
    "nan": (("{epochs: 2}", "{lr: nan}"), ["7: finetune.lr: must be a finite number, not 'nan'"]),
    "5,000 digits": (("1000", "9" * 5000), ["5: a number of 5000 digits; at most 300 are possible"]),
    "300 digits": (("1000", "9" * 300), [f"5: pretrain.num_images: {WHOLE} {'9' * 57}..."]),
    "a word that is none of the words": (("{epochs: 2}", "{augment: crops}"),
        ["7: finetune.augment: must be one of none, flip, vflip, rotate90, crop, strong, randaugment, trivialaugment, or some joined as in rotate90+crop, not 'crops'"]),
    "a share above one": (after("analysis: {min_r2: 1.5}"), ["8: analysis.min_r2: must be at most 1, not 1.5"]),
    "no resources": (after("resources: {workers: 0, gpus_per_worker: -1, cpus_per_worker: x}"), [
        "8: resources.workers: must be above 0, not 0", "8: resources.gpus_per_worker: must be at least 0, not -1",
        "8: resources.cpus_per_worker: must be a whole number, not 'x'"]),
    "no seeds": (after("seeds: 0"), [f"8: {SEEDS} 0"]),
    "a seed twice": (after("seeds: [1, 2, 1]"), [f"8: {SEEDS} [1, 2, 1]"]),
    "too many seeds": (after("seeds: 1e9"), [f"8: {SEEDS} '1e9'"]),
    # names
    "an unknown model": (("test_resnet", "test_resnt"), ["2: model.name: timm has no model 'test_resnt'; did you mean test_resnet?"]),
    "a model of too few pixels": (("image_size: 32", "image_size: 4"), ["2: model.image_size: must be at least 8, not 4"]),
    "an unknown task": (("camera-traps", "camera-trap"), ["1: task.name: 'camera-trap' is no known task; did you mean camera-traps?"]),
    "a task without a name": (("name: camera-traps", "shift: 0"), ["1: task.name: missing; must name a task; known: camera-traps, domainnet, domains, folder, pacs, subpopulation, wilds"]),
    "a task's unknown key": (("camera-traps}", "camera-traps, shfit: 0}"), ["1: task.shfit: unknown key; did you mean shift?"]),
    "a task of too few images": (("camera-traps}", "camera-traps, train_images: 5}"), [
        "1: camera-traps: train_images: 5 images leave 12 of 16 species without one; ask for more images or fewer species"]),
    "an unknown source": (("species: 1.0", "specie: 1.0"), ["4: pretrain.sources.specie: 'specie' is no known source; did you mean species?"]),
    "an unknown kind of source": (("species: 1.0", "pets: {kind: foldr, path: x}"),
        ["4: pretrain.sources.pets.kind: 'foldr' is no known source; did you mean folder?"]),
    "a source's unknown key": (("species: 1.0", "species: {images: 3}"),
        ["4: pretrain.sources.species.images: unknown key; images belongs under search.budget; known here: images_per_class, seed, species"]),
    "an absent folder": (("species: 1.0", "pets: {kind: folder, path: /no/such}"), ["4: /no/such: no such file or folder"]),
    "a folder without a path": (("species: 1.0", "folder: 1"), ["4: pretrain.sources.folder.path: missing"]),
    "no sources": (("{species: 1.0}", "{}"), ["4: pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}"]),
    "a weight of nothing": (("species: 1.0", "species: 0"), ["4: pretrain.sources.species: the weight must be a number above 0, not 0"]),
    "a weight of text": (("species: 1.0", "species: much"), ["4: pretrain.sources.species: the weight must be a number above 0, not 'much'"]),
    "an unknown rank": (("num_images", "granularity: genus\n  num_images"),
        ["5: pretrain.granularity: source species has no rank 'genus': it has order, family, species [pretrained]"]),
    # what contradicts itself
    "two lengths": (("images_seen: 2000", "images_seen: 2000\n  epochs: 2"), ["3: pretrain: give images_seen or epochs, one of the two"]),
    "a least length of a length": (("images_seen: 2000", "images_seen: 2000\n  min_images_seen: 2000"),
        ["3: pretrain: min_images_seen belongs beside epochs; images_seen is the length"]),
    "a product that is none": (("1000", "1000\n  num_classes: 100\n  images_per_class: 9"),
        ["3: pretrain: num_classes x images_per_class is 900, num_images is 1000"]),
    "more classes than images": (("1000", "10\n  num_classes: 100"), ["3: pretrain: 10 images cannot fill 100 classes"]),
    # more than there is
    "more images than there are": (("1000", "100M"), [
        "5: pretrain.num_images: source species needs 100000000 images, supply is 124000 (in 200 classes, without the "
        "images held out for upstream accuracy) [pretrained]"]),
    "more classes than there are": (("1000", "1000\n  num_classes: 900"),
        ["6: pretrain.num_classes: source species needs 900 classes, supply is 200 (of 200 in all) [pretrained]"]),
    "more images per class than there are": (("num_images: 1000", "num_classes: 10\n  images_per_class: 5000"), [
        "5: pretrain.num_classes: source species needs 10 classes with at least 5000 images each, supply is 0 (of 200 "
        "in all) [pretrained]"]),
    "all of two sources": (("{species: 1.0}\n  num_images: 1000", "{species: 1, fractals: 1}\n  num_images: all"),
        ["5: pretrain.num_images: all is not defined for a mixture of sources; give a number of images [pretrained]"]),
    "a weight too small": (("{species: 1.0}", "{species: 1, fractals: 0.00001}"),
        ["4: pretrain.sources: the weight of fractals gives it no image of 1000 [pretrained]"]),
    # axes
    "an axis without values": (("1000", "{grid: []}"), ["5: pretrain.num_images.grid: must be a list with at least one value"]),
    "an axis with equal values": (("1000", "{grid: [1000, 1k]}"), ["5: pretrain.num_images.grid: '1k' is given twice"]),
    "an axis of which some are wrong": (("1000", "\n    grid:\n      - 1000\n      - -5\n      - x"),
        [f"8: pretrain.num_images: {WHOLE} -5", f"9: pretrain.num_images: {WHOLE} 'x'"]),
    "a word like grid": (("1000", "{gird: [1000]}"),
        ["5: pretrain.num_images: 'gird' is no way to vary a value; did you mean grid?"]),
    "an axis where nothing varies": (after("resources: {workers: {grid: [1, 2]}}"),
        ["8: resources.workers: cannot vary; {grid: ...} belongs to task, model, pretrain, finetune"]),
    "millions of combinations": (("1000", f"1000\n  lr: {{grid: {[*range(1, 2001)]}}}\n  weight_decay: {{grid: {[*range(2000)]}}}"),
        ["3: pretrain: its grids make 4,000,000 combinations; at most 1,000,000 are possible"]),
    "points that contradict": (("num_images: 1000", "points:\n  - num_images: 500\n  - num_images: 10\n    num_classes: 20\n"
        "  - {num_class: 3}\n  - {num_images: 500}"), [
        "10: pretrain.points: the same point is given twice", "7: pretrain: 10 images cannot fill 20 classes",
        "9: pretrain.num_class: unknown key; did you mean num_classes?"]),
    "points and a grid of one key": (("1000", "{grid: [1000, 2000]}\n  points: [{num_images: 500}]"),
        ["6: pretrain.points: num_images is also a grid; vary it in one place"]),
    "points that are none": (("num_images: 1000", "points: [3]"), ["5: pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}"]),
    # mixtures
    "a lattice that is none": (("{species: 1.0}", "{lattice: [species], steps: 0.5, opt: 1}"), [
        "4: pretrain.sources.lattice: must hold at least 2, not 1", "4: pretrain.sources.steps: must be a whole number, not 0.5",
        "4: pretrain.sources.opt: unknown key; did you mean options?"]),
    "a source twice": (("{species: 1.0}", "{lattice: [species, species], steps: 4}"), ["4: pretrain.sources: 'species' is given twice"]),
    "an endless lattice": (("{species: 1.0}", "{lattice: [a, b, c, d, e, f], steps: 100}"),
        ["4: pretrain.sources: makes 96,560,646 mixtures; at most 1,000,000 are possible"]),
    "a simplex without draws": (("{species: 1.0}", "{simplex: [species, fractals], concentration: 0}"), [
        "4: pretrain.sources.draws: missing", "4: pretrain.sources.concentration: must be at least 0.01, not 0"]),
    "options of nobody": (("{species: 1.0}", "{grid: [{species: 1}], options: {specie: {seed: 1}}}"),
        ["4: pretrain.sources.options.specie: no source of the grid; did you mean species?"]),
    "an unknown source in a lattice": (("{species: 1.0}", "{lattice: [species, fractal], steps: 1}"),
        ["4: pretrain.sources.fractal: 'fractal' is no known source; did you mean fractals?"]),
    # the baseline
    "nothing at all": (("pretrain:\n  sources: {species: 1.0}\n  num_images: 1000\n  images_seen: 2000\n", "pretrain: none\nbaseline: none\n"),
        ["3: pretrain: none leaves nothing to run with baseline: none"]),
    "an unknown baseline": (after("baseline: scrach"), ["8: baseline: 'scrach' is no group; did you mean scratch?"]),
    "a baseline's unknown key": (after("baseline:\n  seeds: 2\n  finetune:\n    epocs: 3"),
        ["11: baseline.finetune.epocs: unknown key; did you mean epochs?"]),
    "a mistake in both fine-tunings": (("{epochs: 2}\n", "{epochs: -2}\nbaseline: {finetune: {lr: 0}}\n"),
        ["7: finetune.epochs: must be above 0, not -2", "8: baseline.finetune.lr: must be above 0, not 0"]),
    "a baseline's fine-tuning that is a list": (after("baseline: {finetune: [1]}"),
        ["8: baseline.finetune: must be a mapping (key: value), not a list"]),
    "seeds of no baseline": (after("baseline: {name: none, seeds: 3}"),
        ["8: baseline: seeds and finetune belong to the scratch baseline only"]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SPECS)
def test_a_broken_spec_is_reported_line_by_line(name, capsys):
    (old, new), lines = SPECS[name]
    assert GOOD.count(old) == 1
    Path("x.yaml").write_text(GOOD.replace(old, new))
    wanted = [f"x.yaml:{line}" if line[0].isdigit() else line for line in lines]
    assert error_lines("x.yaml", "--plan", "--out", "out", capsys=capsys) == wanted


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "x.yaml: must be a mapping of task, model, pretrain, ... at the top"),
        (b"# nothing\n", "x.yaml: must be a mapping of task, model, pretrain, ... at the top"),
        (b"- a\n- b\n", "x.yaml: must be a mapping of task, model, pretrain, ... at the top"),
        (GOOD.encode() + b"question: \xff\n", "x.yaml:8: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        (GOOD.encode("utf-16"), "x.yaml:1: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        (GOOD.encode() + b"\x00", "x.yaml:8: no valid YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_spec_is_error_lines(data, line, capsys):
    Path("x.yaml").write_bytes(data)
    assert error_lines("x.yaml", "--plan", capsys=capsys) == [line]


def test_every_error_is_reported_at_once(capsys):
    Path("x.yaml").write_text("""\
task: {name: camera-trap, shift: 1}
model: {name: test_resnt, image_size: 2}
pretrain:
  sources: {specie: 1.0}
  num_imagess: 1000
  lr: fast
  epochs: 2
  images_seen: 3
finetune: {epochs: 0, lr: {grid: [0.1, -1]}, typo: 3}
seeds: 0
baseline: scrach
analysis: {scale: lin}
resource: {}
""")
    assert error_lines("x.yaml", capsys=capsys) == [
        "x.yaml:13: resource: unknown key; did you mean resources?",
        "x.yaml:1: task.name: 'camera-trap' is no known task; did you mean camera-traps?",
        "x.yaml:2: model.name: timm has no model 'test_resnt'; did you mean test_resnet?",
        "x.yaml:2: model.image_size: must be at least 8, not 2",
        "x.yaml:4: pretrain.sources.specie: 'specie' is no known source; did you mean species?",
        "x.yaml:6: pretrain.lr: must be a number, not 'fast'",
        "x.yaml:5: pretrain.num_imagess: unknown key; did you mean num_images?",
        "x.yaml:3: pretrain: give images_seen or epochs, one of the two",
        "x.yaml:9: finetune.epochs: must be above 0, not 0",
        f"x.yaml:9: finetune.typo: unknown key; known: {', '.join(sorted(Finetune.model_fields))}",
        "x.yaml:9: finetune.lr: must be above 0, not -1",
        "x.yaml:12: analysis.scale: must be one of probit, logit, linear, not 'lin'",
        "x.yaml:10: seeds: must be how many, at least 1, or a list of different whole numbers, not 0",
        "x.yaml:11: baseline: 'scrach' is no group; did you mean scratch?",
    ]
