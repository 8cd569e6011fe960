"""A group has one colour in every report: whatever other levels its sweep has, and no two groups of a report alike."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import Request, report_on
from analysis.input.run_points import read_run
from analysis.report import palette
from analysis.report.palette import COLOURS, RAMP, colour_distance, group_styles, styles_of
from analysis.study import analyse_all
from ray_robust.spec.load import load_spec
from tests.fake_run import run_folder, sweep

ROOT = Path(__file__).parents[1]
# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB
COLOUR_VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TESTBED = ["robust_intv", "more_data", "lp_adv", "low_accuracy_cnn"]
SHIPPED = ["algorithm", "classes_vs_images", "diversity", "domain_mix", "granularity", "quantity", "quickstart",
           "semantics"]  # fmt: skip


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen_with(colour: str, vision: str) -> str:
    light = np.clip(np.array(COLOUR_VISION[vision]) @ linear(colour), 0, 1)
    rgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * v):02x}" for v in np.clip(rgb, 0, 1))


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""
    dark, light = sorted(0.05 + linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return light / dark


def colours(names: list[str], numbers=None) -> dict[str, str]:
    return {style.group: style.colour for style in styles_of(names, numbers)}


def quantity(*levels: int) -> list[str]:
    return [f"num_images={level}" for level in levels]


def test_colours_are_told_apart_with_every_colour_vision():
    for vision in COLOUR_VISION:
        shown = [seen_with(colour, vision) for colour in COLOURS]
        assert min(itertools.starmap(colour_distance, itertools.combinations(shown, 2))) > 7.5, vision
    assert min(itertools.starmap(colour_distance, itertools.combinations(COLOURS, 2))) > 13
    assert min(colour_distance(colour, palette.BASELINE_COLOUR) for colour in COLOURS) > 8
    for colour in (*COLOURS, *RAMP):  # the page's white and near-black
        assert contrast(colour, "#fdfcfa") > 1.95, colour
        assert contrast(colour, "#15181c") > 2.2, colour


@pytest.mark.parametrize("first", [100, 250, 1000, 4000])
@pytest.mark.parametrize("factor", [4, 10])
def test_a_level_more_or_less_leaves_the_others_as_they_are(first, factor):
    levels = quantity(*(first * factor**i for i in range(4)))
    whole = styles_of(levels)
    for left_out in levels:
        assert styles_of([name for name in levels if name != left_out]) == [s for s in whole if s.group != left_out]


def test_numbers_rise_along_the_ramp_in_whatever_order_they_are_listed():
    shown, ramp = colours(quantity(64000, 1000, 16000, 4000)), palette.ramp_colours(np.linspace(0, 1, 101))
    places = [
        int(np.argmin([colour_distance(shown[name], colour) for colour in ramp]))
        for name in quantity(1000, 4000, 16000, 64000)
    ]
    assert places == sorted(set(places))
    assert places[-1] - places[0] > 40


@pytest.mark.parametrize(
    "names",
    [
        quantity(1000, 1001, 1002, 1003),
        quantity(1, 2, 3),
        [f"lr={v}e-5" for v in (1, 2, 4)],
        quantity(*(2**i for i in range(13))),
    ],
)
def test_levels_that_lie_close_are_moved_apart(names):
    shown = styles_of(names)
    for one, other in itertools.combinations(shown, 2):
        assert colour_distance(one.colour, other.colour) > 3.5, (one, other)
    assert all(one.shape != other.shape for one, other in itertools.pairwise(shown))


@pytest.mark.parametrize("name", SHIPPED)
def test_groups_of_the_shipped_sweeps_keep_their_colours_without_any_one_level(name):
    labels = [pretrain.label for pretrain in load_spec(ROOT / f"sweeps/{name}.yaml").pretrains]
    whole = styles_of(labels)
    assert len({style.colour for style in whole}) == len(labels) > 1
    for left_out in labels:
        fewer = styles_of([other for other in labels if other != left_out])
        rest = [style for style in whole if style.group != left_out]
        assert [(style.group, style.colour) for style in fewer] == [(style.group, style.colour) for style in rest]
        moved = [one for one, other in zip(fewer, rest, strict=True) if one.shape != other.shape]
        assert len(moved) <= len(rest) / 2


@pytest.mark.parametrize(
    "names", [quantity(1000, 7000), quantity(*(7**i for i in range(1, 7))), [f"kind {i}" for i in range(7)]]
)
def test_no_two_groups_and_not_the_baseline_have_one_shape_while_there_are_enough(names):
    shapes = [style.shape for style in styles_of(names)]
    assert len({*shapes, palette.BASELINE_SHAPE}) == len(names) + 1


def test_groups_of_the_published_table_have_their_own_colours_in_any_order_and_choice():
    whole = colours(TESTBED)
    assert len(set(whole.values())) == 4
    for own in itertools.permutations(TESTBED, 3):
        assert colours([*own]) == {name: whole[name] for name in own}


def test_names_of_all_kinds_never_look_alike():
    rng = np.random.default_rng(0)
    for count in (2, 5, 10, 11, 30, 80):
        names = [f"kind {rng.integers(1 << 60):x}" for _ in range(count)]
        looks = {(style.colour, style.shape) for style in styles_of(names)}
        assert len(looks) == count
        assert len({colour for colour, _ in looks}) == min(count, len(COLOURS))
    mixed = styles_of(
        [*quantity(1000, 16000), *TESTBED, "method=clip, num_images=4000", "method=simclr, num_images=4000"]
    )
    for one, other in itertools.combinations(mixed, 2):
        assert colour_distance(one.colour, other.colour) > 4, (one, other)


def test_a_name_more_changes_few_others():
    """Where two names want the same colour one has to give way; with five names of ten colours that is seldom."""
    rng = np.random.default_rng(1)
    changed = 0
    for _ in range(200):
        names = [f"{rng.integers(1 << 60):x}" for _ in range(5)]
        before, after = colours(names[:4]), colours(names)
        changed += sum(before[name] != after[name] for name in before)
    assert changed < 0.1 * 4 * 200


def test_words_and_columns_give_numbers_too():
    assert colours(["num_images=all"], {"num_images=all": {"num_images": 4000.0}}) == dict.fromkeys(
        ["num_images=all"], colours(quantity(4000))["num_images=4000"]
    )
    column = {"small": {"num_images": 1000.0}, "large": {"num_images": 64000.0}}
    places = [styles_of(["small", "large"], column)[i].colour for i in (0, 1)]
    near = quantity(1000, 64000)
    assert all(colour_distance(a, b) < 3 for a, b in zip(places, colours(near).values(), strict=True))
    both = colours(["classes=all", "classes=under:a,b"])
    assert set(both.values()) <= set(COLOURS), "no amount: one choice of classes among others"


@pytest.mark.parametrize("name", ["", "=", "a=", "=1", "num_images=nan", "num_images=-4", "num_images=1e999",
                                  "x" * 9000, "a=1, a=2", "\ud800=3", "lr=0, lr=0"])  # fmt: skip
def test_any_name_has_a_style(name):
    (style,) = styles_of([name])
    assert re.fullmatch(r"#[0-9a-f]{6}", style.colour)
    assert style.shape in palette.SHAPES


@pytest.mark.slow
def test_reports_of_a_sweep_and_of_it_with_a_level_more_agree(tmp_path):
    """As a reader sees it: the colours of the page's own data."""
    seen = {}
    for run, levels in {"first": (1000, 16000), "second": (1000, 4000, 16000, 64000)}.items():
        folder = tmp_path / run
        run_folder(folder, sweep(dict.fromkeys(quantity(*levels), 2.0)))
        report_on(Request((str(folder),)), quiet=True)
        page = (folder / "report/index.html").read_text("utf-8")
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
        scales = [layer["encoding"]["color"]["scale"] for layer in data["charts"]["trend-0"]["spec"]["layer"]
                  if "scale" in layer["encoding"].get("color", {})]  # fmt: skip
        seen[run] = dict(zip(scales[0]["domain"], scales[0]["range"], strict=True))
        analyses = analyse_all(*read_run(str(folder)))
        assert seen[run] == {style.group: style.colour for style in group_styles(analyses[0])}
    assert seen["first"] == {group: seen["second"][group] for group in seen["first"]}
    assert len(set(seen["second"].values())) == 5
