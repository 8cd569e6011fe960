"""Users' mistakes: in the YAML, on the command line and in the data. One clear line each, exit code 2, nothing written."""
# ruff: noqa: E501 - what is said stands whole here, as people read it

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import make_images as make
import numpy as np
import pytest
from deadlines import HANG
from PIL import Image

from ray_robust import sweep
from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError, command
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare import open_sweep, subsets
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Finetune, load_spec

GOOD = """\
task: {name: camera-traps}
model: {name: test_resnet, image_size: 32}
pretrain:
  sources: {species: 1.0}
  num_images: 1000
  images_seen: 2000
finetune: {epochs: 2}
"""
WHOLE = "must be a whole number above 0 or all, not"
VARIES = "a mapping; a value that varies is written {grid: [...]}"
SEEDS = "seeds: must be how many, at least 1, or a list of different whole numbers, not"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12))


def after(text: str) -> tuple[str, str]:
    """`text` behind the good spec."""
    return "finetune: {epochs: 2}\n", f"finetune: {{epochs: 2}}\n{text}\n"


# what is replaced in the good spec, by what, and everything that is then said; a line number means `x.yaml:<line>`
SPECS: dict[str, tuple[tuple[str, str], list[str]]] = {
    # text that is no YAML of ours
    "a tab": (("  num_images", "\tnum_images"), ["5: no valid YAML: a tab stands where only spaces may; indent with spaces"]),
    "two documents": (after("---\na: 1"), ["8: no valid YAML: expected a single document in the stream, but found another document"]),
    "an undefined alias": (("{epochs: 2}", "*nope"), ["7: no valid YAML: found undefined alias 'nope'"]),
    "an alias inside itself": (("{epochs: 2}", "&f {epochs: 2, x: *f}"), ["7: an alias (*name) stands inside the value that it names"]),
    "a list inside itself": (("{name: camera-traps}", "&a [*a]"), ["1: an alias (*name) stands inside the value that it names"]),
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
    "a section twice": (after("finetune: {epochs: 3}"), ["8: finetune: stands twice, first in line 7"]),
    "a key twice": (("{epochs: 2}", "{epochs: 2, epochs: 3}"), ["7: finetune.epochs: stands twice, first in line 7"]),
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
    "5,000 digits": (("1000", "9" * 5000), [f"5: pretrain.num_images: {WHOLE} '{'9' * 56}..."]),
    "300 digits": (("1000", "9" * 300), [f"5: pretrain.num_images: {WHOLE} {'9' * 57}..."]),
    "a word that is none of the words": (("{epochs: 2}", "{augment: crops}"),
        ["7: finetune.augment: must be one of none, flip, crop, strong, not 'crops'"]),
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
    "a task without a name": (("name: camera-traps", "shift: 0"), ["1: task.name: missing; must name a task; known: camera-traps, domainnet, domains, folder, pacs, wilds"]),
    "a task's unknown key": (("camera-traps}", "camera-traps, shfit: 0}"), ["1: task.shfit: unknown key; did you mean shift?"]),
    "a task of too few images": (("camera-traps}", "camera-traps, train_images: 5}"), [
        "1: camera-traps: train_images: 5 images leave 12 of 16 species without one; ask for more images or fewer species"]),
    "an unknown source": (("species: 1.0", "specie: 1.0"), ["4: pretrain.sources.specie: 'specie' is no known source; did you mean species?"]),
    "an unknown kind of source": (("species: 1.0", "pets: {kind: foldr, path: x}"),
        ["4: pretrain.sources.pets.kind: 'foldr' is no known source; did you mean folder?"]),
    "a source's unknown key": (("species: 1.0", "species: {images: 3}"),
        ["4: pretrain.sources.species.images: unknown key; known: images_per_class, seed, species"]),
    "an absent folder": (("species: 1.0", "pets: {kind: folder, path: /no/such}"), ["4: /no/such: no such file or folder"]),
    "a folder without a path": (("species: 1.0", "folder: 1"), ["4: pretrain.sources.folder.path: missing"]),
    "no sources": (("{species: 1.0}", "{}"), ["4: pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}"]),
    "a weight of nothing": (("species: 1.0", "species: 0"), ["4: pretrain.sources.species: the weight must be a number above 0, not 0"]),
    "a weight of text": (("species: 1.0", "species: much"), ["4: pretrain.sources.species: the weight must be a number above 0, not 'much'"]),
    "an unknown rank": (("num_images", "granularity: genus\n  num_images"),
        ["5: pretrain.granularity: source species has no rank 'genus': it has order, family, species [pretrained]"]),
    # what contradicts itself
    "two lengths": (("images_seen: 2000", "images_seen: 2000\n  epochs: 2"), ["3: pretrain: give images_seen or epochs, one of the two"]),
    "no length": (("  images_seen: 2000\n", ""), ["3: pretrain: give images_seen or epochs, one of the two"]),
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
        ["5: pretrain.num_images: all says nothing about a mix; give a number of images [pretrained]"]),
    "a weight too small": (("{species: 1.0}", "{species: 1, fractals: 0.00001}"),
        ["4: pretrain.sources: the weight of fractals gives it no image of 1000 [pretrained]"]),
    # axes
    "an axis without values": (("1000", "{grid: []}"), ["5: pretrain.num_images.grid: must be a list with at least one value"]),
    "an axis with equal values": (("1000", "{grid: [1000, 1k]}"), ["5: pretrain.num_images.grid: '1k' stands there twice"]),
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
        "10: pretrain.points: the same point stands there twice", "7: pretrain: 10 images cannot fill 20 classes",
        "9: pretrain.num_class: unknown key; did you mean num_classes?"]),
    "points and a grid of one key": (("1000", "{grid: [1000, 2000]}\n  points: [{num_images: 500}]"),
        ["6: pretrain.points: num_images is also a grid; vary it in one place"]),
    "points that are none": (("num_images: 1000", "points: [3]"), ["5: pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}"]),
    # mixtures
    "a lattice that is none": (("{species: 1.0}", "{lattice: [species], steps: 0.5, opt: 1}"), [
        "4: pretrain.sources.lattice: must hold at least 2, not 1", "4: pretrain.sources.steps: must be a whole number, not 0.5",
        "4: pretrain.sources.opt: unknown key; did you mean options?"]),
    "a source twice": (("{species: 1.0}", "{lattice: [species, species], steps: 4}"), ["4: pretrain.sources: 'species' stands there twice"]),
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


def said(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error of a command that must end with exit code 2 and leave no run folder."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(lambda _: sweep.main(list(arguments)))
    assert ended.value.code == 2
    assert not Path("out").exists()
    assert not Path("runs").exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


@pytest.mark.parametrize("name", SPECS)
def test_a_broken_spec_is_said_line_by_line(name, capsys):
    (old, new), lines = SPECS[name]
    assert GOOD.count(old) == 1
    Path("x.yaml").write_text(GOOD.replace(old, new))
    wanted = [f"x.yaml:{line}" if line[0].isdigit() else line for line in lines]
    assert said("x.yaml", "--plan", "--out", "out", capsys=capsys) == wanted


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
def test_a_file_that_is_no_spec_is_said(data, line, capsys):
    Path("x.yaml").write_bytes(data)
    assert said("x.yaml", "--plan", capsys=capsys) == [line]


def test_every_mistake_is_said_at_once(capsys):
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
    assert said("x.yaml", capsys=capsys) == [
        "x.yaml:13: resource: unknown key; did you mean resources?",
        "x.yaml:1: task.name: 'camera-trap' is no known task; did you mean camera-traps?",
        "x.yaml:2: model.name: timm has no model 'test_resnt'; did you mean test_resnet?",
        "x.yaml:2: model.image_size: must be at least 8, not 2",
        "x.yaml:4: pretrain.sources.specie: 'specie' is no known source; did you mean species?",
        "x.yaml:6: pretrain.lr: must be a number, not 'fast'",
        "x.yaml:5: pretrain.num_imagess: unknown key; did you mean num_images?",
        "x.yaml:9: finetune.epochs: must be above 0, not 0",
        f"x.yaml:9: finetune.typo: unknown key; known: {', '.join(sorted(Finetune.model_fields))}",
        "x.yaml:9: finetune.lr: must be above 0, not -1",
        "x.yaml:12: analysis.scale: must be one of probit, logit, linear, not 'lin'",
        "x.yaml:10: seeds: must be how many, at least 1, or a list of different whole numbers, not 0",
        "x.yaml:11: baseline: 'scrach' is no group; did you mean scratch?",
    ]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["nope.yaml"], ["nope.yaml: no such file"]),
        (["."], [".: is a folder; give a sweep's YAML file"]),
        (["x.yaml/y"], ["x.yaml/y: cannot be read: Not a directory"]),
        (["x.yaml", "--limit", "0"], ["--limit: must be at least 1, not 0"]),
        (["x.yaml", "--limit", "few"], ["argument --limit: invalid int value: 'few'; --help shows what there is"]),
        (["x.yaml", "--plam"], ["unrecognized arguments: --plam; --help shows what there is"]),
        ([], ["the following arguments are required: SPEC.yaml; --help shows what there is"]),
        (["x.yaml", "--plan", "--out", "x.yaml"], ["--out x.yaml: is a file; give a folder"]),
        (["x.yaml", "--out", "x.yaml/sub"], ["--out x.yaml/sub: cannot be written: x.yaml is a file, where a folder belongs"]),
        (["x.yaml", "--plan", "--out", "ftp://host/x"],
            ["ftp://host/x: cannot be opened: Unrecognized filesystem type in URI: ftp://host/x"]),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_said(arguments, lines, capsys):
    Path("x.yaml").write_text(GOOD)
    assert said(*arguments, capsys=capsys) == lines


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        (["foo", "=3", "finetune.epocs=2"], [
            "--set foo: must be KEY=VALUE, e.g. pretrain.epochs=2", "--set =3: must be KEY=VALUE, e.g. pretrain.epochs=2"]),
        (["finetune.epocs=2"], ["--set finetune.epocs=2: finetune.epocs: unknown key; did you mean epochs?"]),
        (["finetune.epochs=3", "finetune.epochs=-3"],
            ["--set finetune.epochs=-3: finetune.epochs: must be above 0, not -3"]),
        (["pretrain.epochs=2"],
            ["x.yaml:3 with --set pretrain.epochs=2: pretrain: give images_seen or epochs, one of the two"]),
        (["pretrain.num_images={grid: [1000, -5]}"],
            [f"--set pretrain.num_images={{grid: [1000, -5]}}: pretrain.num_images: {WHOLE} -5"]),
        (["finetune={lr: 1, lr: 2}"], ["--set finetune={lr: 1, lr: 2}: lr: stands twice, first in line 1"]),
        (["finetune.lr=[1"], ["--set finetune.lr=[1: no valid YAML: expected ',' or ']', but got '<stream end>'"]),
        (["question=" + "[" * 3000], [f"--set question={'[' * 68}...: is nested more than 30 levels deep"]),
        (["baseline.finetune.epocs=3"],
            ["--set baseline.finetune.epocs=3: baseline.finetune.epocs: unknown key; did you mean epochs?"]),
        (["pretrain.sources.specie=1"], [
            "--set pretrain.sources.specie=1: pretrain.sources.specie: 'specie' is no known source; did you mean species?"]),
        (["pretrain.num_images=100M"], [
            "--set pretrain.num_images=100M: pretrain.num_images: source species needs 100000000 images, supply is 124000 "
            "(in 200 classes, without the images held out for upstream accuracy) [pretrained]"]),
    ],
)  # fmt: skip
def test_a_mistake_in_set_names_the_set(values, lines, capsys):
    Path("x.yaml").write_text(GOOD)
    assert said("x.yaml", "--plan", *(word for value in values for word in ("--set", value)), capsys=capsys) == lines


ONE = "one image at a time cannot pass the batch normalisation of test_byobnet at 32 px; give at least 2"
ON_EACH = ONE.replace("time cannot", "time on each of 2 workers cannot")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (["finetune.batch_size=1"], [f"--set finetune.batch_size=1: finetune.batch_size: {ONE}"]),
        (["finetune.batch_size={grid: [1, 8]}"], [f"--set finetune.batch_size={{grid: [1, 8]}}: finetune.batch_size: {ONE}"]),
        (["finetune.method=lp-ft", "finetune.batch_size=1"], [f"--set finetune.batch_size=1: finetune.batch_size: {ONE}"]),
        (["finetune.num_images=1"], [f"--set finetune.num_images=1: finetune.num_images: {ONE}"]),
        (["baseline.finetune.batch_size=1"],
            [f"--set baseline.finetune.batch_size=1: baseline.finetune.batch_size: {ONE}"]),
        (["pretrain.batch_size=1"], [f"--set pretrain.batch_size=1: pretrain.batch_size: {ONE}"]),
        (["pretrain.batch_size=3", "resources.workers=2"],
            [f"--set pretrain.batch_size=3: pretrain.batch_size: {ON_EACH}"]),
        (["pretrain.batch_size=3", "resources.workers=4"], [
            "--set pretrain.batch_size=3: pretrain.batch_size: 3 images cannot be shared out among 4 workers"]),
        (["pretrain.batch_size=1", "pretrain.method=simclr"], [
            "x.yaml:3 with --set pretrain.batch_size=1, --set pretrain.method=simclr: pretrain: method simclr compares the "
            "images of a batch; give batch_size at least 2"]),
    ],
)  # fmt: skip
def test_batches_of_one_that_cannot_be_normalised_are_refused_before_anything_runs(changes, lines, capsys):
    Path("x.yaml").write_text(GOOD.replace("test_resnet", "test_byobnet"))
    assert said("x.yaml", *(word for change in changes for word in ("--set", change)), capsys=capsys) == lines


@pytest.mark.parametrize(
    "changes",
    [
        ["model.name=test_vit", "finetune.batch_size=1", "pretrain.batch_size=1"],  # layer normalisation
        ["model.image_size=64", "finetune.batch_size=1"],  # maps of four pixels
        [
            "finetune.method=linear",
            "finetune.batch_size=1",
            "baseline.finetune.batch_size=8",
        ],  # the body is not trained
        ["pretrain.batch_size=4", "resources.workers=2"],
    ],
)
def test_batches_of_one_that_can_be_trained_on_are_planned(changes, capsys):
    Path("x.yaml").write_text(GOOD.replace("test_resnet", "test_byobnet"))
    assert sweep.main(["x.yaml", "--plan", *(word for change in changes for word in ("--set", change))]) == 0


@pytest.mark.slow
def test_the_program_itself_says_mistakes_without_a_traceback(tmp_path):
    Path("x.yaml").write_text(GOOD.replace("1000", "100M"))  # known only once the sources are opened
    Path("y.yaml").write_text(GOOD.replace("epochs: 2", "epocs: 2").replace("1000", "-1"))
    for name, words in (("x.yaml", ["supply is 124000"]), ("y.yaml", [WHOLE + " -1", "did you mean epochs?"])):
        asked = [sys.executable, "-m", "ray_robust.sweep", name, "--out", "out"]
        ended = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=HANG)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == len(words)
        assert all(word in line for word, line in zip(words, ended.stderr.splitlines(), strict=True))
        assert not Path("out").exists()


# --- data


def task_rows(splits: tuple[str, ...] = SPLITS, count: int = 1) -> list[dict[str, str]]:
    return [
        {"path": f"{split}/{label}{i}.png", "label": label, "split": split}
        for split in splits
        for label in ("cat", "dog")
        for i in range(count)
    ]


def a_task(more: list[dict[str, str]] | None = None, splits: tuple[str, ...] = SPLITS, count: int = 1) -> None:
    make.table(Path("task/index.csv"), [*task_rows(splits, count), *(more or [])])


def a_source(counts: dict[str, int] | None = None) -> None:
    make.tree(Path("pets"), counts or {"cat": 8, "dog": 8})


def a_spec(source: str = "path: pets", task: str = "path: task/index.csv", num_images: int | str = "all") -> None:
    Path("x.yaml").write_text(f"""\
task: {{name: folder, {task}}}
model: {{name: test_resnet, image_size: 16}}
pretrain:
  sources: {{pets: {{kind: folder, {source}}}}}
  num_images: {num_images}
  images_seen: 64
  holdout: 0
finetune: {{epochs: 1}}
""")


def only(name: str, data: bytes) -> None:
    Path("pets").mkdir()
    Path("pets", name).write_bytes(data)


# what stands on the disk (besides a good task, a good source and the spec), and everything that is said of it
LISTED: dict[str, tuple[Callable[[], object], list[str]]] = {
    "no file": (lambda: a_spec("path: nowhere"), ["4: {here}/nowhere: no such file or folder"]),
    "an address": (lambda: a_spec("path: s3://me:hunter2@b/x"), ["4: pretrain.sources.pets.path: must be a path on every node, "
        "not the address s3://REDACTED@b/x; mount it, or see the sources webdataset and parquet, which read addresses"]),
    "both absent": (lambda: a_spec("path: nowhere", "path: none"),
        ["4: {here}/nowhere: no such file or folder", "1: {here}/none: no such file or folder"]),
    "an empty table": (lambda: (only("i.csv", b""), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv: is empty; wanted: a header and a line for each image"]),
    "a table without rows": (lambda: (only("i.csv", b"path,label\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv: lists no images"]),
    "a table without labels": (lambda: (only("i.csv", b"path,lable\na.jpg,cat\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv:1: has no column 'label'; did you mean lable?"]),
    "images that are not there": (lambda: (only("i.csv", b"path,label\na.jpg,cat\nb.jpg,dog\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv:2: a.jpg is no file in {here}/pets", "4: {here}/pets/i.csv:3: b.jpg is no file in {here}/pets"]),
    "a path that leaves": (lambda: (a_source(), Path("pets/i.csv").write_text("path,label\ncat/000.jpg,cat\ndog/000.jpg,dog\n../x.jpg,cat\n"),
        a_spec("path: pets/i.csv")), ["4: {here}/pets/i.csv:4: path '../x.jpg' leaves {here}/pets; wanted: a path inside it"]),
    "an empty class": (lambda: a_source({"cat": 2, "dog": 2, "emu": 0}), ["4: {here}/pets/emu: this class folder holds no images; put some there or remove it"]),
    "a single class": (lambda: a_source({"cat": 2}), ["4: {here}/pets: has a single class, 'cat': at least two are needed"]),
    "no classes": (lambda: only("a.jpg", make.encoded(make.picture())), ["4: {here}/pets: a.jpg lies in no class folder; wanted: <class>/*.jpg"]),
    "no images": (lambda: only("read.me", b""), ["4: {here}/pets: holds no images; wanted: <class>/*.jpg"]),
    "a zip that is none": (lambda: (only("a.zip", b"no zip"), a_spec("path: pets/a.zip")),
        ["4: {here}/pets/a.zip: is no zip, or an incomplete one (File is not a zip file)"]),
    "no OOD split": (lambda: a_task(splits=SPLITS[:3]),
        ["1: {here}/task/index.csv: has no OOD split: a task needs images in ood_val and ood_test"]),
    "no training split": (lambda: a_task(splits=SPLITS[1:]),
        ["1: {here}/task/index.csv: has no images in split train: a task needs train, id_val, id_test, ood_val, ood_test"]),
    "a label only in the OOD split": (lambda: a_task([{"path": "e.png", "label": "emu", "split": "ood_test"}]),
        ["1: {here}/task/index.csv: label 'emu' is only in ood_test (1 images), so it cannot be learned; give it images in "
         "train, or leave such labels out with `unseen: drop`"]),
    "an unknown split": (lambda: a_task([{"path": "e.png", "label": "cat", "split": "ood_tset"}]),
        ["1: {here}/task/index.csv:12: unknown split 'ood_tset' (1 images); did you mean ood_test?"]),
    "more images than there are": (lambda: a_spec(num_images=17), [
        "5: pretrain.num_images: source pets needs 17 images, supply is 16 (in 2 classes, without the images held out for "
        "upstream accuracy) [pretrained]"]),
}  # fmt: skip


def prepare(change: Callable[[], object]) -> None:
    """What `change` makes, and of the spec, the source and the task whatever it does not make."""
    change()
    if not Path("pets").exists():
        a_source()
    if not Path("task").exists():
        a_task()
    if not Path("x.yaml").exists():
        a_spec()


@pytest.mark.parametrize("name", LISTED)
def test_broken_data_are_said_before_anything_runs(name, capsys):
    change, lines = LISTED[name]
    prepare(change)
    wanted = [f"x.yaml:{line.format(here=Path.cwd())}" for line in lines]
    assert said("x.yaml", "--plan", "--out", "out", capsys=capsys) == wanted


JPEG = make.encoded(make.picture())
BROKEN = {
    "text": (
        b"<html>not found</html>",
        "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image; it begins as a web page or XML does",
    ),
    "nothing": (b"", "is empty (0 bytes)"),
    "truncated": (JPEG[:-100], "cannot be decoded: image file is truncated"),
    "only a header": (JPEG[:30], "cannot be decoded: Truncated File Read"),
}
ODD = {  # odd, but images
    "CMYK": lambda: make.encoded(make.picture().convert("CMYK")),
    "16 bits": lambda: make.encoded(Image.fromarray(np.full((40, 40), 30_000, np.uint16)), "PNG"),
    "grey": lambda: make.encoded(make.picture().convert("L")),
    "a palette with a transparent colour": lambda: make.encoded(make.picture().convert("P"), "PNG", transparency=3),
    "one pixel": lambda: make.encoded(make.picture(1, 1), "PNG"),
    "a long strip": lambda: make.encoded(make.picture(3000, 2), "PNG"),
}


def ingested() -> tuple[open_sweep.Sweep, dict]:
    """As a run does before its first trial: open, decode, draw again without what is broken."""
    opened = open_sweep.open_sweep(load_spec("x.yaml"))
    jobs = subsets.decode_jobs(opened, opened.plan, subsets.draw_all(opened, {}))
    stores = ingest([(pool, size, rows) for _, pool, size, rows in jobs], Path("store"))
    by_key = {key: store for (key, *_), store in zip(jobs, stores, strict=True)}
    return opened, subsets.draw_all(opened, by_key)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named_or_left_out(name):
    data, reason = BROKEN[name]
    prepare(lambda: (a_source(), Path("pets/cat/003.jpg").write_bytes(data)))
    with pytest.raises(UserError) as caught:
        ingested()
    first, last = str(caught.value).splitlines()
    assert first.startswith(f"{Path.cwd()}/pets/cat/003.jpg: {reason}")
    assert last == f"{Path.cwd()}/pets: 1 of 16 images are broken; mend or remove them, or say `broken: drop`"
    a_spec("path: pets, broken: drop")
    _, subsets = ingested()
    assert {subset.images for subset in subsets.values()} == {15}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_is_an_image(name):
    prepare(lambda: (a_source(), Path("pets/cat/003.jpg").write_bytes(ODD[name]())))
    _, subsets = ingested()
    assert {subset.images for subset in subsets.values()} == {16}


def test_a_class_with_one_image_is_a_class():
    prepare(lambda: a_source({"cat": 8, "dog": 1}))
    opened, subsets = ingested()
    assert {subset.classes for subset in subsets.values()} == {("cat", "dog")}
    (pool,) = opened.sources.values()
    assert pool.catalog.notes == ("1 classes have a single image: dog.",)


def test_a_total_that_only_the_broken_images_would_fill_is_said():
    prepare(
        lambda: (
            a_source(),
            Path("pets/cat/003.jpg").write_bytes(b""),
            a_spec("path: pets, broken: drop", num_images=16),
        )
    )
    with pytest.raises(UserError) as caught:
        ingested()
    assert str(caught.value) == (
        "x.yaml:5: pretrain.num_images: source pets needs 16 images, supply is 15 (in 2 classes, without the images held "
        "out for upstream accuracy) [pretrained]"
    )


def run_sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "ray_robust.sweep", "x.yaml", "--out", "out", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=HANG, env={**os.environ})


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_sweep_refuses_broken_images_or_leaves_them_out_and_lists_them():
    prepare(lambda: (a_source({"cat": 12, "dog": 12}), a_task(count=4)))
    Path("pets/cat/003.jpg").write_bytes(b"no image")
    Path("task/train/cat1.png").write_bytes(b"")
    ended = run_sweep()
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines() == [
        f"{Path.cwd()}/pets/cat/003.jpg: is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image",
        f"{Path.cwd()}/pets: 1 of 24 images are broken; mend or remove them, or say `broken: drop`",
        f"{Path.cwd()}/task/train/cat1.png: is empty (0 bytes)",
        f"{Path.cwd()}/task: 1 of 40 images are broken; mend or remove them, or say `broken: drop`",
    ]
    assert not Path("out").exists()

    a_spec("path: pets, broken: drop", "path: task/index.csv, broken: drop")
    ended = run_sweep()
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    run = RunFolder("out")
    broken = {pool["kind"]: pool["broken"] for pool in run.data()["pools"]}
    assert broken == {
        "source": [
            {"key": "cat/003.jpg", "reason": "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image"}
        ],
        "task": [{"key": "train/cat1.png", "reason": "is empty (0 bytes)"}],
    }
    assert set(run.states().values()) == {"done"}
    table = run.results()
    assert table["num_images"].tolist() == [0, 23]
    assert table["finetune_images"].tolist() == [7, 7]
    assert "cat/003.jpg" in Path("out/report/index.html").read_text()
