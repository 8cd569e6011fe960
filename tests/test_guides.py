"""The guides work as printed: two data sets are planned and swept, the example of a verdict is what is printed."""

from __future__ import annotations

import csv
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import make_images as make
import pandas as pd
import pytest
from test_docs import blocks

import analysis.__main__ as analysis_command
from bench import verdict as example_of_verdict
from ray_robust import ingest, sweep
from ray_robust.errors import UserError

TWO, PAPER = "docs/two_datasets.md", "docs/papers_table.md"


@pytest.fixture
def two(tmp_path, monkeypatch) -> Path:
    """The spec of the page in the working directory, beside its CSV, its images and a source."""
    monkeypatch.chdir(tmp_path)
    (text,), (spec,) = blocks(TWO, "csv"), blocks(TWO, "yaml")
    for i, row in enumerate(csv.DictReader(io.StringIO(text))):
        make.write(tmp_path / row["path"], make.encoded(make.photo(48, 48, seed=i)))
    for i in range(20):
        make.write(tmp_path / f"photographs/kind{i % 2}/{i}.jpg", make.encoded(make.photo(48, 48, seed=100 + i)))
    (tmp_path / "two.csv").write_text(text)
    (tmp_path / "two.yaml").write_text(spec)
    return tmp_path / "two.yaml"


def test_the_table_of_two_data_sets_has_twenty_lines_and_no_group_in_two_splits():
    (text,) = blocks(TWO, "csv")
    frame = pd.read_csv(io.StringIO(text))
    assert len(text.splitlines()) == 20
    (check,) = blocks(TWO, "python")
    assert eval(check, {"frame": frame})
    assert not eval(check, {"frame": frame.assign(group="one")})
    assert set(frame["split"]) == {"train", "id_val", "id_test", "ood_val", "ood_test"}
    first = frame["path"].str.startswith("aid/")
    assert (frame.loc[~first, "split"].str.startswith("ood_")).all()
    assert not frame.loc[first, "split"].str.startswith("ood_").any()


def test_the_sweep_of_two_data_sets_is_planned(two, capsys):
    assert sweep.main([str(two), "--plan"]) == 0
    assert "6 trials, 4 unique pre-trainings" in capsys.readouterr().out


def test_a_class_that_only_a_test_has_is_an_error_unless_it_is_dropped(two):
    table = two.with_name("two.csv")
    table.write_text(table.read_text().replace("40.jpg,field", "40.jpg,lake"))
    with pytest.raises(UserError, match="label 'lake' is only in ood_test"):
        sweep.main([str(two), "--plan"])
    assert sweep.main([str(two), "--plan", "--set", "task.unseen=drop"]) == 0


def test_the_files_of_two_data_sets_are_checked_by_the_command_of_the_page(two, monkeypatch):
    (command,) = blocks(TWO, "sh")
    _, _, module, *arguments = shlex.split(command, comments=True)
    assert module == "ray_robust.ingest"
    monkeypatch.setenv("RAY_ROBUST_STORE", str(two.parent / "store"))
    assert ingest.main([str(two.parent / "two.csv") if "two.csv" in word else word for word in arguments]) == 0


@pytest.mark.slow
@pytest.mark.ray
def test_the_sweep_of_two_data_sets_runs(two):
    folder = two.parent
    environment = {**os.environ, "RAY_ROBUST_STORE": str(folder / "store"), "RAY_ROBUST_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "ray_robust.sweep", str(two), "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = pd.read_csv(folder / "run/results.csv")
    assert set(results["group"]) == {"scratch", "num_images=8", "num_images=16"}
    assert results[["id", "ood"]].notna().all(axis=None)
    assert (folder / "run/report/index.html").is_file()


@pytest.mark.slow
def test_the_example_of_a_verdict_is_what_its_command_prints():
    """`python -m bench.verdict` writes it anew."""
    page = example_of_verdict.DOCUMENT.read_text("utf-8")
    shown = example_of_verdict.block(page, "text")
    assert len(shown.splitlines()) == len(example_of_verdict.SHOWN)
    altered = page.replace(shown, "by hand\n")
    assert altered != page
    assert example_of_verdict.example(altered) == page


def test_a_line_that_is_no_longer_printed_is_an_error(monkeypatch):
    page = example_of_verdict.DOCUMENT.read_text("utf-8")
    done = subprocess.CompletedProcess([], 0, stdout="On the shifted test: nothing", stderr="")
    monkeypatch.setattr(example_of_verdict.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ValueError, match="prints no line that begins with"):
        example_of_verdict.example(page)


@pytest.mark.slow
def test_the_table_of_a_paper_is_analysed(tmp_path, monkeypatch, capsys):
    (text,), (command, _) = blocks(PAPER, "csv"), blocks(PAPER, "sh")
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text(text)
    _, _, module, *arguments = shlex.split(command)
    assert module == "analysis"
    assert analysis_command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "web against standard" in printed
    assert Path("table-analysis/index.html").is_file()
    assert Path("table-analysis/export/trend.pdf").is_file() or Path("table-analysis/trend.pdf").is_file()
    assert list(Path("table-analysis/export").glob("*.tex"))
