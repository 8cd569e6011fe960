"""What the documents show is true: files and modules exist, the examples of CONTRIBUTING.md run, the dependencies
listed are those installed. Specs and commands are checked by test_fenced_blocks.py."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import make_images as make
import numpy as np
import pytest
import test_search as searches
import yaml
from make_pools import open_pool

from ray_robust import registry, sweep
from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.mixture import draw
from ray_robust.data.pool import SPLITS
from ray_robust.plan.plan import pool_key
from ray_robust.prepare import open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.spec.run_sections import Analysis
from ray_robust.spec.search_section import Search

ROOT = Path(__file__).parents[1]
# files that the documents show how to write
EXAMPLES = {
    "sweeps/labels.yaml",
    "sweeps/classes.yaml",
    "ray_robust/data/sources/stripes.py",
    "ray_robust/data/tasks/shops.py",
    "ray_robust/launch/search/climb_sampler.py",
}
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/design.md",
    "docs/cluster.md",
    "docs/security.md",
    "docs/search.md",
    "docs/results.md",
    "docs/keys.md",
    "docs/python.md",
    "docs/two_datasets.md",
    "docs/verdict.md",
    "cluster.yaml",
)


def blocks(document: str, language: str) -> list[str]:
    """The fenced code of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"\b(?:ray_robust|analysis|tests|sweeps|docs|bench)/[\w/.-]*\w\.(?:py|yaml|md|png)\b", text))
    missing = {name for name in named if not (ROOT / name).exists() and "/NAME." not in name}
    assert missing <= EXAMPLES


MODULES = {  # by every way to name one: `launch.search.asha`, `search.asha`, `asha`
    ".".join(parts[first:]): file
    for folder in ("ray_robust", "analysis", "bench", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
    for parts in [file.relative_to(ROOT).with_suffix("").parts]
    for parts in [parts[:-1] if parts[-1] == "__init__" else parts]
    for first in range(len(parts))
}
FOLDERS = {file.parent.name for file in MODULES.values()}
# keys of a spec's sections, and fields of one that is loaded
NO_MODULES = {*(f"search.{key}" for key in Search.model_fields), *(f"analysis.{key}" for key in Analysis.model_fields),
              "sources.NAME", "spec.search", "spec.space"}  # fmt: skip


def named_in_vain(text: str) -> list[str]:
    """The dotted names in backticks that begin with a folder and lead to no module, and to no name in one."""
    missing = []
    for name in re.findall(r"`(\w+(?:\.\w+)+)(?:\(\))?`", text):
        head, _, last = name.rpartition(".")
        known = name in MODULES or (head in MODULES and re.search(rf"\b{last}\b", MODULES[head].read_text("utf-8")))
        is_file = last in ("json", "jsonl", "yaml", "csv", "parquet", "zip", "md", "py")
        if name.split(".")[0] in FOLDERS and not known and not is_file and name not in NO_MODULES:
            missing.append(name)
    return missing


@pytest.mark.parametrize("folder", ["ray_robust", "analysis", "bench", "tests", "docs", ""])
def test_modules_that_are_named_exist(folder):
    """In docstrings, comments and documents, where nothing else notices that a module has moved."""
    files = (ROOT / folder).rglob("*.*") if folder else ROOT.glob("*.md")
    texts = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files if file.suffix in (".py", ".md")}
    assert {name: missing for name, text in texts.items() if (missing := named_in_vain(text))} == {}


def test_a_module_that_is_gone_would_be_seen():
    gone = "see `launch" + ".faults`, `search.asha`, `train.loop.optimise()`, `train.loop" + ".optimize`"
    assert named_in_vain(gone) == ["launch" + ".faults", "train.loop" + ".optimize"]


def test_specs_of_the_built_in_world_can_be_planned(tmp_path, capsys):
    texts = [
        text for text in (*blocks("README.md", "yaml"), *blocks("CONTRIBUTING.md", "yaml")) if "camera-traps" in text
    ]
    assert len(texts) == 2
    for text in texts:
        file = tmp_path / "shown.yaml"
        file.write_text(text)
        assert sweep.main([str(file), "--plan"]) == 0
        assert "12 trials, 9 unique pre-trainings" in capsys.readouterr().out


@pytest.fixture
def contributed(monkeypatch):
    """The modules and registry lines of CONTRIBUTING.md, in force for one test."""
    for block in blocks("CONTRIBUTING.md", "python"):
        head, _, code = block.partition("\n")
        place = head.removeprefix("# ")
        if place.startswith("ray_robust/metrics.py"):  # see test_metrics.py
            continue
        if place.startswith("ray_robust/registry.py"):
            table = getattr(registry, place.split()[-1])
            for name, entry in eval("{" + code + "}", vars(registry)).items():
                monkeypatch.setitem(table, name, entry)
            continue
        module = types.ModuleType(place.removesuffix(".py").replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, place, "exec"), module.__dict__)


@pytest.mark.usefixtures("contributed")
def test_the_source_of_contributing_works(tmp_path):
    pool = open_pool("source", "stripes", {"classes": 4, "images_per_class": 30})
    store = ImageStore.open(tmp_path, pool, 16)
    rows = np.arange(0, 120, 7)
    store.fill(rows)
    images = store.take(rows)
    assert images.shape == (len(rows), 16, 16, 3)
    assert set(np.unique(images)) == {0, 255}
    assert len(set(pool.catalog.ids.tolist())) == len(pool.catalog) == len(set(pool.keys(np.arange(120))))
    more = open_pool("source", "stripes", {"classes": 4, "images_per_class": 60})
    assert set(pool.catalog.ids) < set(more.catalog.ids), "a pool that grows keeps its images"


@pytest.mark.usefixtures("contributed")
def test_the_task_of_contributing_works_in_a_sweep_with_that_source(tmp_path, monkeypatch):
    shops = {f"{shop}/{kind}": 40 for shop in ("north", "south", "harbour") for kind in ("apple", "pear")}
    root = make.tree(tmp_path / "shops", shops)
    file = tmp_path / "both.yaml"
    file.write_text(f"task: {{name: shops, root: {root}, unseen: [harbour]}}\n"
                    "pretrain: {sources: {stripes: 1.0}, num_images: {grid: [100, 200]}, epochs: 1}\n")  # fmt: skip
    opened = open_sweep.open_sweep(load_spec(file))
    (task,) = opened.tasks.values()
    catalog = task.catalog
    assert all(len(catalog.rows(split)) for split in SPLITS)
    groups = {split: {catalog.groups[g] for g in catalog.group[catalog.rows(split)]} for split in SPLITS}
    assert groups == {split: {"harbour"} if split.startswith("ood") else {"north", "south"} for split in SPLITS}
    assert not task.read(catalog.rows("train")[:5], 16).broken
    trained = [trial for trial in opened.plan if trial.pretrain is not None]
    assert len(trained) == 2
    for trial in trained:
        catalogs = {name: opened.sources[pool_key(name, s)].catalog for name, s in trial.pretrain.sources.items()}
        assert len(draw(trial.pretrain, catalogs, {"stripes": None}, trial.subset_seed)) == trial.pretrain.num_images


@pytest.mark.usefixtures("contributed")
def test_the_search_method_of_contributing_works(tmp_path, capsys):
    method = ("search={method: climb, trials: 24, startup: 4, where: num_images >= 20 * num_classes}",)
    search = searches.make(tmp_path, *method)
    drawn = searches.mixtures(searches.drain(search, 9))
    search = searches.make(tmp_path, *method)  # after a crash
    drawn += searches.mixtures(searches.drain(search))
    assert len(drawn) == len(set(drawn)) == 24
    values = [outcome.value for outcome in search.outcomes]
    assert max(values[4:]) > max(values[:4])
    assert searches.make(tmp_path, *method).complete
    (tmp_path / "plan.yaml").write_text(searches.SPEC)
    assert sweep.main([str(tmp_path / "plan.yaml"), "--plan", "--set", *method]) == 0
    assert "climb  24 configurations, the first 4 drawn at random, then the best so far" in capsys.readouterr().out


def test_a_search_method_takes_two_files():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a search method")[2].partition("\n## ")[0]
    assert len(re.findall(r"^```python\n# ([\w/.]+)", section, re.MULTILINE)) == 2


def test_where_a_thing_goes_is_where_such_things_are():
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Where does it go?")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| a ")]
    subjects = {subject.strip().removeprefix("a ").split(" for ")[0] for subject, _, _ in rows}
    assert subjects >= {"source", "task", "metric", "pre-training method", "fine-tuning method", "search method"}
    assert subjects >= {"loss", "log", "chart", "finding", "failure class", "cluster file"}
    for subject, edit, test in rows:
        paths = [name for name in re.findall(r"`([\w./-]+)`", edit) if "/" in name]
        tests = re.findall(r"`(tests/test_\w+\.py)`", test)
        assert paths, subject
        assert tests, subject
        for path in (*paths, *tests):
            new = ROOT / path
            assert (new.parent if new.stem == "NAME" else new).exists(), f"{subject}: {path}"


def test_no_figure_is_left_to_be_measured():
    gaps = [
        gap for document in DOCUMENTS for gap in re.findall(r"\{\{.*?\}\}", (ROOT / document).read_text(), re.DOTALL)
    ]
    assert gaps == []


def test_every_dependency_has_its_reason_in_the_design():
    required = [re.split(r"[\[<>=~!]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()
                if line and not line.startswith("#")]  # fmt: skip
    reasons = re.findall(r"^\| `([\w-]+)` \| \S", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert reasons == required


def test_the_readme_names_the_options_that_exist():
    from ray_robust.spec.load import Finetune, Pretrain

    paragraph = (
        (ROOT / "README.md").read_text().partition("Further keys of `pretrain`:")[2].partition("What each means")[0]
    )
    own, _, shared = paragraph.partition("and with `finetune` alike")
    assert set(re.findall(r"`(\w+)`", own)) <= set(Pretrain.model_fields)
    assert set(re.findall(r"`(\w+)`", shared)) <= set(Pretrain.model_fields) & set(Finetune.model_fields)


def test_the_citation_and_the_changelog_are_of_this_version():
    import ray_robust

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == ray_robust.__version__
    assert all(reference.get("url") and reference["authors"] for reference in citation["references"])
    assert re.search(r"^## \[Unreleased\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_the_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    commands = [re.sub(r"\$\(BIN\)/", "", line).split() for line in lint.splitlines()[1:]]
    assert [hook["entry"].replace(".venv/bin/", "").replace(" --force-exclude", "").split() for hook in hooks] == [
        [word for word in words if word != "."] for words in commands
    ]
