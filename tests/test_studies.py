"""docs/studies.md and the headers of sweeps come from run folders alone, by way of docs/studies.json; each sentence on
the paper follows from intervals by the rule."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from fake_run import run_folder, sweep

import analysis.__main__ as analysis_command
from bench import filled
from bench.studies import __main__ as command
from bench.studies import claims, costs, headers, record
from bench.studies.claims import AGREES, DISAGREES, OPEN, STUDIES, judge
from bench.studies.document import columns, section, study_of
from bench.studies.groups import group_label
from ray_robust.errors import UserError
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/studies.md").read_text("utf-8")
ENTRIES = record.read_entries(ROOT / "docs/studies.json")
RISING = {"num_images=1000": 0.0, "num_images=4000": 3.0, "num_images=16000": 6.0}


def entry(factors=(), contrasts=(), groups=("a", "b"), **more) -> dict:
    """An entry whose rows are (name, effect, low, high) with, as options of a row, what else differs."""
    rest = {"p_adjusted": 0.001, "margin": 2.0, "equivalent": False, "not_robust_to": ""}
    group = {
        "classes": 10,
        "labels": 10,
        "sources": {},
        "images": 100,
        "hardly_learned": False,
        "upstream_accuracy": None,
    }
    return {
        "refused": False, "margin": 2.0, "scale": "probit", "min_r2": 0.8, "set": [], "task": "t", "image_size": 32,
        "line": {"group": "scratch", "slope": 0.5, "slope_low": 0.4, "slope_high": 0.6, "r2": 0.9, "id_min": 0.1,
                 "id_max": 0.9},
        "factors": [{"factor": f, "label": f, "per": "tenfold", "straight_p": 0.5, "slope": e, "low": low, "high": high,
                     **rest, **(own[0] if own else {})} for f, e, low, high, *own in factors],
        "contrasts": [{"a": pair.split(" - ")[0], "b": pair.split(" - ")[1], "delta_er": e, "low": low, "high": high,
                       **rest, **(own[0] if own else {})} for pair, e, low, high, *own in contrasts],
        "levels": [], "slopes": [], "sources": {}, "failed_checks": [],
        "groups": {name: dict(group) for name in ("scratch", *groups)},
        "cost": {"minutes": 5.2, "trials": 9, "finetunings": 18, "points": 54, "cores": 2, "processor": "x", "gpus": 0},
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `quantity` with its report."""
    made = run_folder(tmp_path_factory.mktemp("runs") / "quantity", sweep(RISING, noise_sd=0.004, trial_sd=0.004))
    assert analysis_command.main([made.storage.address]) == 0
    return made


# --- the rule


@pytest.mark.parametrize(
    ("row", "rises", "none"),
    [
        ((1.3, 0.1, 2.5), AGREES, DISAGREES),
        ((-1.3, -2.5, -0.1), DISAGREES, DISAGREES),
        ((1.3, -0.1, 2.7), OPEN, OPEN),
        ((1.3, 0.1, 2.5, {"p_adjusted": 0.2}), OPEN, OPEN),
        ((1.3, 0.1, 2.5, {"not_robust_to": "any one trial"}), OPEN, OPEN),
        ((0.1, -0.5, 0.7, {"equivalent": True, "p_adjusted": 0.7}), OPEN, AGREES),
        ((0.5, 0.2, 0.8, {"equivalent": True}), AGREES, AGREES),  # established, and smaller than the margin
    ],
)
def test_a_slope_agrees_disagrees_or_cannot_tell(row, rises, none):
    quantity = judge(STUDIES["quantity"], entry([("num_images", *row)]), True)
    assert quantity.verdict == rises
    assert judge(STUDIES["classes_vs_images"], entry([("num_classes", *row)]), True).verdict == none
    assert f"({row[1]:.1f} to {row[2]:.1f})".replace("-", "−") in quantity.text


def test_a_slope_that_is_not_straight_is_judged_by_its_levels():
    bent = ("num_images", 5.0, 3.0, 7.0, {"straight_p": 0.01})
    step = {"factor": "num_images", "a": "num_images=2", "b": "num_images=1", "p_adjusted": 0.01, "margin": 2.0,
            "equivalent": False, "not_robust_to": ""}  # fmt: skip
    up, flat = ({**step, "delta_er": 2.0, "low": low, "high": 4.0} for low in (1.0, -1.0))
    for levels, verdict in (([up, up], AGREES), ([up, flat], OPEN), ([], OPEN)):
        one = entry([bent], levels=levels)
        assert judge(STUDIES["quantity"], one, True).verdict == verdict
        cells = "| num_images, per tenfold | rises | +5.0 (3.0 to 7.0), not straight | not run |"
        assert cells in list(section(STUDIES["quantity"], {"photos/quantity": one}))


def test_every_pair_must_be_equal_and_one_that_differs_disagrees():
    equal = {"equivalent": True, "p_adjusted": 0.9}
    pairs = [("b - a", 0.1, -0.5, 0.7, equal), ("c - a", 0.2, -0.5, 0.9, equal), ("c - b", 0.1, -0.9, 0.9, equal)]
    groups = ("a", "b", "c")
    assert judge(STUDIES["semantics"], entry(contrasts=pairs, groups=groups), True).verdict == AGREES
    wide = [*pairs[:2], ("c - b", 0.1, -9.0, 9.0, {"p_adjusted": 0.9})]
    assert judge(STUDIES["semantics"], entry(contrasts=wide, groups=groups), True).verdict == OPEN
    apart = [*pairs[:2], ("c - b", 6.0, 3.0, 9.0)]
    assert judge(STUDIES["semantics"], entry(contrasts=apart, groups=groups), True).verdict == DISAGREES


def test_a_pair_of_unequal_numbers_of_classes_is_no_comparison_of_choices():
    one = entry(contrasts=[("b - a", 6.0, 3.0, 9.0)])
    one["groups"]["b"]["classes"] = 20
    assert judge(STUDIES["semantics"], one, True).verdict == OPEN


def test_a_method_that_hardly_learned_is_not_judged():
    one = entry(contrasts=[("b - a", 6.0, 3.0, 9.0)])
    one["groups"]["b"]["hardly_learned"] = True
    assert judge(STUDIES["algorithm"], one, True).verdict == OPEN


def test_finer_labels_are_told_by_their_number_and_a_random_control_is_none():
    names = ("granularity=order", "granularity=class", "granularity=random:500")
    pairs = [(f"{names[1]} - {names[0]}", 1.0, 0.5, 1.5), (f"{names[0]} - scratch", 2.0, 1.0, 3.0)]
    one = entry(contrasts=pairs, groups=names)
    for name, labels in zip(names, (8, 200, 500), strict=True):
        one["groups"][name]["labels"] = labels
    judged = judge(STUDIES["granularity"], one, True)
    assert judged.verdict == AGREES
    assert judged.text.startswith("Class labels against order labels: +1.0 points of ER (0.5 to 1.5); order labels")


def test_sources_have_roles_and_pairs_either_way_round():
    names = ("sources=tiny:1", "sources=species:1", "sources=fractals:1", "sources=tiny:0.5+fractals:0.5")
    pairs = [(f"{names[2]} - {names[0]}", -3.0, -4.0, -2.0), (f"{names[2]} - scratch", 1.0, 0.5, 1.5),
             (f"{names[1]} - {names[0]}", 0.1, -0.5, 0.7, {"equivalent": True, "p_adjusted": 0.9})]  # fmt: skip
    one = entry(contrasts=pairs, groups=names, sources={"tiny": "tiny-imagenet", "species": "species"})
    for name, sources in zip(names, (["tiny"], ["species"], ["fractals"], ["tiny", "fractals"]), strict=True):
        one["groups"][name]["sources"] = dict.fromkeys(sources, 1.0)
    judged = judge(STUDIES["domain_mix"], one, True)
    assert judged.verdict == AGREES
    assert "Tiny alone against fractals alone: +3.0 points of ER (2.0 to 4.0)" in judged.text
    order = next(line for line in section(STUDIES["domain_mix"], {"photos/domain_mix": one}) if "order at" in line)
    assert order == (
        "- The paper's order at 100 images, photographs: tiny > rendered animals > fractals > scratch. "
        "Established: tiny > fractals: +3.0 (2.0 to 4.0); fractals > scratch: +1.0 (0.5 to 1.5). "
        "Not established: tiny > rendered animals: −0.1 (−0.7 to 0.5), no effect within 2 points."
    )


def test_a_refused_line_cannot_tell():
    one = entry([("num_images", 5.0, 3.0, 7.0)], refused=True)
    one["line"]["r2"] = 0.5
    judged = judge(STUDIES["quantity"], one, True)
    assert judged.verdict == OPEN
    assert "R² 0.50, below 0.8" in judged.text
    lines = list(section(STUDIES["quantity"], {"quantity": one}))
    assert "| num_images, per tenfold | rises | not run | refused |" in lines
    assert headers.result_line("quantity", {"quantity": one}) == (
        "From-scratch line R² 0.50 (probit). No ER: the line is refused (floor 0.8)."
    )


def test_the_baseline_is_one_line_unless_a_check_fails():
    assert judge(STUDIES["baseline"], entry(), False).verdict == AGREES
    assert judge(STUDIES["baseline"], entry(failed_checks=["curvature"]), False).verdict == OPEN


# --- entries and what is written from them


@pytest.mark.slow
def test_an_entry_is_the_runs_own_report(run):
    name, one = record.entry_of(run.storage.address)
    assert name == "quantity"
    verdict = json.loads(run.read_bytes("report/verdict.json"))
    assert {key: one["cost"][key] for key in ("trials", "finetunings", "points")} == {
        "trials": 12, "finetunings": 36, "points": 144,
    }  # fmt: skip
    assert one["factors"][0]["slope"] == pytest.approx(verdict["factors"]["num_images"]["slope"], rel=1e-5)
    assert one["groups"]["num_images=4000"]["er"] == pytest.approx(3, abs=1)
    assert json.loads(json.dumps(one, allow_nan=False)) == one


@pytest.mark.slow
def test_the_command_writes_document_header_and_figure(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("docs", "sweeps/photos"):
        Path(path).mkdir(parents=True)
    Path("docs/studies.md").write_text("before\n<!-- quantity -->\nold\n<!-- /quantity -->\nafter\n")
    text = "# Question: Is it?\n# Run:      a\n# Cost:     stale\n# Result:   stale\n#           stale\ntask: t # x\n"
    for path in ("sweeps/quantity.yaml", "sweeps/photos/quantity.yaml"):
        Path(path).write_text(text)
    address = run.storage.address
    argv = [address, f"photos/quantity={address}", "--write", "docs/studies.md", "--headers", "--figure", address]
    assert command.main(argv) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["headers"] == ["photos/quantity", "quantity"]
    assert said["figures"] == ["docs/figure_rendered.png"]
    assert Path("docs/figure_rendered.png").read_bytes() == run.read_bytes("report/trend.png")
    written = Path("docs/studies.md").read_text()
    assert written.startswith("before\n<!-- quantity -->\n| | paper | photographs | rendered world |")
    assert "**Photographs: agrees with the paper.** Pre-training images: +" in written
    header = Path("sweeps/quantity.yaml").read_text()
    assert header.startswith("# Question: Is it?\n# Run:      a\n# Cost:     7 min, 12 trials, 36 fine-tunings, ")
    assert header.endswith("task: t # x\n")
    assert "stale" not in header
    assert all(len(line) <= 120 for line in header.splitlines())
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert command.main(["--write", "docs/studies.md", "--headers"]) == 0  # again, without the run
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_run_of_another_version_of_its_sweep_is_reported(tmp_path):
    file = ROOT / "sweeps/quantity.yaml"
    made = run_folder(tmp_path / "quantity", sweep({}, trials=1))
    made.write("spec.yaml", load_spec(file).resolved)
    assert record.changed_since(made.storage.address, file) == []
    made.write("spec.yaml", load_spec(file, ("finetune.epochs=9", "seeds=2")).resolved)
    assert record.changed_since(made.storage.address, file) == ["finetune.epochs", "seeds"]
    command_noted = "provenance: {command: sweep sweeps/quantity.yaml --set finetune.epochs=9 --set seeds=2}\n"
    made.write("spec.yaml", load_spec(file, ("finetune.epochs=9", "seeds=2")).resolved + command_noted)
    assert record.changed_since(made.storage.address, file) == []


def test_no_paths_of_a_machine_are_kept():
    assert record.without_folders("weights=/home/me/w/lite0, model.name=a") == "weights=lite0, model.name=a"
    assert record.without_folders("weights=$DATA/w/lite0") == "weights=lite0"
    for name in ("weights=ViT-B-32/openai", "weights=hf-hub:timm/x", "num_images=1000", "scratch"):
        assert record.without_folders(name) == name


def test_mistakes_are_one_line_each(tmp_path, monkeypatch):
    bare = run_folder(tmp_path / "bare", sweep({}, trials=1))
    with pytest.raises(UserError, match="has no report; run python -m analysis on it"):
        record.entry_of(bare.storage.address)
    with pytest.raises(UserError, match="no lines '# Cost:' and '# Result:'"):
        headers.with_header("# Question: x\ntask: y\n", "quantity", {"quantity": entry()})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no such sweep; name the run"):
        headers.write_headers(Path(), {"other": entry()})
    with pytest.raises(UserError, match="no place for other"):
        filled(DOCUMENT, {"other": "x"})


def test_entries_belong_to_studies_and_variants_follow_their_study():
    names = {"quantity": "quantity", "photos/quantity_64px": "quantity", "classes_vs_images": "classes_vs_images",
             "quantity --set task.shift=0": "quantity"}  # fmt: skip
    assert {name: study.name for name in names if (study := study_of(name))} == names
    assert study_of("quickstart") is study_of("mixture_search --confirm") is None
    large, other = entry(image_size=64), entry(task="pacs")
    entries = {"photos/quantity": entry(), "photos/quantity_64px": large, "photos/quantity_pacs": other,
               "quantity": entry(), "quantity --set task.shift=0": entry(set=["task.shift=0"])}  # fmt: skip
    assert [column.title for column in columns(STUDIES["quantity"], entries)] == [
        "photographs", "photographs, 64 px", "photographs, pacs", "rendered world", "rendered world, `task.shift=0`",
    ]  # fmt: skip
    lines = list(section(STUDIES["quantity"], {"quantity": entry([("num_images", 15.4, 10.7, 20.1)])}))
    assert "| num_images, per tenfold | rises | not run | **+15.4 (10.7 to 20.1)** |" in lines
    assert "| cost | - | not run | 5 min, 9 trials, 18 fine-tunings, 2 cores |" in lines
    assert "- **Photographs: not run.**" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_groups_without_a_common_range_are_not_compared():
    made = entry(contrasts=[("a - b", None, None, None, {"p_adjusted": None})])
    judged = judge(STUDIES["semantics"], made, True)
    assert judged.verdict == OPEN
    assert judged.text == "B against a: not compared, their ID scores have no range in common"


def test_methods_show_what_each_learned():
    made = entry(groups=("method=clip", "method=supervised"))
    made["groups"]["method=supervised"]["upstream_accuracy"] = 22.34
    lines = list(section(STUDIES["algorithm"], {"photos/algorithm": made}))
    assert "| upstream accuracy | - | supervised 22.3 % | not run |" in lines


def test_random_labels_stand_beside_the_cut_of_about_as_many():
    names = {"granularity=class": 200, "granularity=depth:6": 40, "granularity=random:41": 41}
    made = entry(groups=names, contrasts=[("granularity=depth:6 - granularity=random:41", 2.1, 1.0, 3.2)])
    for name, labels in names.items():
        made["groups"][name]["labels"] = labels
    lines = list(section(STUDIES["granularity"], {"photos/granularity": made}))
    assert "| 41 random labels against depth:6 labels | - | **−2.1 (−3.2 to −1.0)** | not run |" in lines


@pytest.mark.parametrize(
    ("group", "label"),
    [
        ("num_images=16000", "16,000 images"),
        ("num_classes=25, images_per_class=600", "25 classes of 600"),
        ("sources=species:0.25+fractals:0.75", "25 % rendered animals + 75 % fractals"),
        ("subclasses_per_label=1", "1 subclass a label"),
        ("granularity=random:40", "40 random labels"),
        ("classes=under:a,b,c", "classes under a and 2 more"),
        ("classes=under:animal", "classes under animal"),
        ("classes=all", "all classes"),
        ("weights=data/weights/lite0", "lite0"),
        ("scratch", "scratch"),
        ("my, group", "my, group"),
    ],
)
def test_groups_are_named_in_words(group, label):
    assert group_label(group) == label


def test_a_prediction_and_a_search_have_forms_of_their_own():
    er = {"error": 2.04, "error_of_mean": 4.4, "skill": 0.79, "p": 0.005}
    prediction = {"targets": {"er": er}, "refused": None, "best": {"mixture": "87 % animals", "er": [13.1, 7.1, 19.1]},
                  "confirmation": {"spearman": [0.81, 0.12, 0.97], "compositions": 8, "regret": 0.6}}  # fmt: skip
    entries = {"m": entry(prediction=prediction), "m --confirm": entry()}
    assert headers.result_line("m", entries) == (
        "ER of mixtures left out is predicted with an error of 2.0 points, the mean's is 4.4 (79 % explained, p = "
        "0.005). Predicted best: 87 % animals, ER +13.1 (7.1 to 19.1). The order of eight compositions holds at 100 "
        "images: Spearman 0.81 (0.12 to 0.97); the one predicted best is 0.6 points behind the best there."
    )
    assert "; the confirming run 5 min, " in headers.cost_line("m", entries)
    refused = copy.deepcopy(entries)
    refused["m"]["prediction"] |= {"refused": "too few mixtures", "best": None, "confirmation": {"refused": "so"}}
    assert "No best mixture: too few mixtures. Not established: whether the order holds, because so." in (
        headers.result_line("m", refused)
    )
    best = [{"group": f"num_images={n}", "value": 4.5 - n} for n in range(1, 4)]
    line = headers.result_line("s", {"s": entry(search={"objective": "effective_robustness", "best": best})})
    assert line.startswith("On validation best: 1 image, ER +3.5. Next: 2 images +2.5 and 3 images +1.5.")


@pytest.mark.slow
def test_costs_are_hours_of_a_card(monkeypatch):
    monkeypatch.chdir(ROOT)
    header, _, row, _, source = costs.costs([ROOT / "sweeps/paper/diversity.yaml"])
    assert header.count("|") == row.count("|")
    assert "| 12 | 49 M | 252 M | 47 M | " in row
    assert "H100-hours |" in header
    assert "at 50 % of them, which is assumed" in source


# --- what lies in the repository


def test_the_document_has_a_place_for_every_study_and_for_the_costs():
    pieces = {name: f"what {name} came to" for name in (*claims.STUDIES, "costs")}
    text = filled(DOCUMENT, pieces)
    assert all(piece in text for piece in pieces.values())
    assert filled(text, pieces) == text, "writing again changes nothing"


def test_the_document_is_what_the_entries_give():
    assert filled(DOCUMENT, command.sections(ENTRIES)) == DOCUMENT


@pytest.mark.parametrize("name", sorted(name for name in ENTRIES if " " not in name))
def test_a_header_is_what_its_entry_gives(name):
    text = (ROOT / f"sweeps/{name}.yaml").read_text("utf-8")
    assert headers.with_header(text, name, ENTRIES) == text
