"""Names that hold orders to terminals, XML, spreadsheets and the direction of text, all the way to a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from ray_robust.text.names import normalise, printable, visible
from ray_robust.text.safe_csv import frame_of, text_of
from tests.fake_run import run_folder, sweep
from tests.test_report import Page

pytestmark = pytest.mark.slow  # of one report or trial that takes seconds to make

SIGNS = [
    "\x1b[31m", "\x07", "\x1b]0;t\x07", "\x9b", "\u2028", "\u2029", "\ufffe", "\uffff", "\u202e", "\u200f", "\ufdd0",
    "\u2066", "\x7f", "\x00", "שלום", "=", "@", "-", "<b>", "&", "\\", "{", "%", "'", '"', "a", "b", "7", "\U0010ffff",
    "\U000e0041",
]  # fmt: skip
FIXED = ["=1+1\x1b[2J", "\u202eevil\ufffe", "\x1b[31mred\x1b[0m"]


def names(count: int, without: str = "") -> list[str]:
    """The fixed ones and random ones behind them."""
    random = np.random.default_rng(13)
    made = ["".join(random.choice([s for s in SIGNS if s not in without], 6)) + str(i) for i in range(count)]
    return [*FIXED, *made][:count]


def check(report: Path, shown: str, groups: list[str]) -> None:
    """Every file of the report can be shown as it is, has all figures, and keeps the names as they were."""
    assert "could not be drawn" not in shown
    assert printable(shown) == shown
    page = Page((report / "index.html").read_text("utf-8"))
    text = " ".join(page.text)
    data = json.loads(page.scripts["data"])
    assert printable(text) == text
    assert r"\x1b[31mred\x1b[0m" in text
    assert {printable(name) for name in groups} <= set(data["tasks"][0]["columns"]["group"]["levels"])
    for name in ("trend", "groups", "contrasts"):
        svg = (report / f"export/{name}.svg").read_text("utf-8")
        assert printable(svg) == svg
        assert (report / f"export/{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (report / f"export/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert r"\x1b[31mred\x1b[0m" in (report / "export/groups.svg").read_text("utf-8")
    for file in (*report.glob("*.csv"), *report.glob("export/*.tex")):
        text = file.read_text("utf-8")
        assert printable(text) == text, file.name
    assert r"\textbackslash{}x1b{[}31mred" in (report / "export/groups.tex").read_text("utf-8")
    assert "'=1+1" in (report / "groups.csv").read_text("utf-8")
    assert set(groups) == set(frame_of((report / "groups.csv").read_bytes())["group"]) - {"scratch"}
    assert set(groups) == set(json.loads((report / "verdict.json").read_text("utf-8"))["groups"]) - {"scratch"}


@pytest.mark.slow
def test_a_run(tmp_path, capsys):
    groups = names(5)
    points = sweep({name: float(i) for i, name in enumerate(groups)}, epochs=(3, 6))
    points["model"] = "net\x1b[31m\u202e"
    points["task"] = "cameras\x1b[31m\ufffe"
    points["sources"] = json.dumps({"web\x1b\u2028": 1.0})
    lost = points.loc[points["group"] == groups[1], "trial"].iloc[-1]
    run = run_folder(tmp_path / "run", points, failed={lost: "no file \x1b[31m'x\u202e'"})
    data = run.data()
    data["pools"][0] |= {"name": "web\x1b[31m", "notes": ["read from \x1b]0;t\x07"]}
    data["pools"][0]["broken"] = [{"key": "a\x1b[31m\u202e.jpg", "reason": "truncated\x07"}]
    run.storage.write_json("data.json", data)
    spec = run.spec() | {"question": "Is \x1b[31m\u202e\ufffe best?"}
    run.write("spec.yaml", json.dumps(spec))
    assert main([str(tmp_path / "run")]) == 0
    check(tmp_path / "run/report", capsys.readouterr().out, groups)
    assert set(run.plan()["group"]) == {"scratch", *groups}


@pytest.mark.slow
def test_a_table(tmp_path, capsys):
    groups = [normalise(name) for name in names(4, without="\x00'")]
    points = sweep({name: float(i) for i, name in enumerate(groups)}, epochs=(3,))
    table = points[["trial", "group", "id", "ood"]].rename(columns={"trial": "run\x1b[31m", "group": "kind\u202e"})
    table["mo\x07del"] = [f"m\x1b{i}" for i in range(len(table))]
    (tmp_path / "scores\x1b.csv").write_text(table.to_csv(index=False), "utf-8")
    asked = ["--id", "id", "--ood", "ood", "--group", "kind\u202e", "--cluster", "run\x1b[31m", "--baseline", "scratch"]
    assert main([str(tmp_path / "scores\x1b.csv"), *asked, "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", capsys.readouterr().out, groups)


def test_what_a_table_of_the_report_shows_is_read_back(tmp_path):
    frame = sweep({"=x\x1b": 1.0}, epochs=(3,))[["group", "id", "ood", "seed"]]
    assert frame_of(text_of(frame).encode())["group"].tolist() == frame["group"].tolist()


@pytest.mark.parametrize("name", FIXED)
def test_shown_names_differ_from_those_kept(name):
    assert visible(name) != name
