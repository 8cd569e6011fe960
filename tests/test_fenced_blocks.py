"""Every fenced block of every page is checked: specs are planned, commands parsed, the rest is named with its test."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import make_images as make
import pytest
import shown_commands

from ray_robust import sweep
from ray_robust.errors import UserError
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# (page, language) of what is neither a spec nor commands -> the test that runs it, or why there is nothing to run
ELSEWHERE = {
    ("CONTRIBUTING.md", "python"): "tests/test_docs.py::contributed",
    ("docs/design.md", ""): "diagrams; tests/test_layers.py::test_the_arrows_of_the_design_are_imports",
    ("docs/own_photos.md", "text"): "tests/test_fenced_blocks.py::test_every_spec_is_planned",
    ("docs/papers_table.md", "csv"): "tests/test_guides.py::test_the_table_of_a_paper_is_analysed",
    ("docs/python.md", "python"): "tests/test_python.py::test_the_document_does_what_it_says",
    ("docs/prediction.md", ""): "the output of a run of sweeps/mixture_search.yaml, 6 minutes",
    ("README.md", "python"): "tests/test_python.py::test_the_document_does_what_it_says",
    ("README.md", ""): "a run folder; tests/test_end_to_end.py",
    ("docs/two_datasets.md", "csv"): "tests/test_guides.py::two",
    ("docs/two_datasets.md", "python"): "tests/test_guides.py::"
    "test_the_table_of_two_data_sets_has_twenty_lines_and_no_group_in_two_splits",
    ("docs/verdict.md", "csv"): "tests/test_guides.py::test_the_example_of_a_verdict_is_what_its_command_prints",
    ("docs/verdict.md", "text"): "tests/test_guides.py::test_the_example_of_a_verdict_is_what_its_command_prints",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, language ("" without one), first line's number and text."""

    page: str
    language: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str = "page.md") -> Iterator[Block]:
    """Yield the fenced blocks of Markdown, indented ones too. Raises ValueError for a fence that is not closed."""
    fence, start, lines = None, 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None:
            if fence := re.match(r"(\s*)(`{3,}|~{3,})\s*([^`\s]*)", line):
                start, lines = number, []
        elif re.fullmatch(rf"\s*{fence[2][0]}{{{len(fence[2])},}}\s*", line):
            yield Block(page, fence[3], start, "".join(f"{inner.removeprefix(fence[1])}\n" for inner in lines))
            fence = None
        else:
            lines.append(line)
    if fence is not None:
        raise ValueError(f"{page}:{start}: the fence is not closed")


BLOCKS = [block for page in PAGES for block in blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]
SPECS = [block for block in BLOCKS if block.language in ("yaml", "yml")]
SHELL = [block for block in BLOCKS if block.language in ("sh", "bash", "shell", "console")]


def test_fences_are_read_indented_of_any_kind_and_must_end():
    text = "a\n\n    ```sh\n    make\n    ```\n~~~~\n```\n~~~~\n``` yaml\nx: 1\n```\n"
    assert [(block.language, block.line, block.text) for block in blocks_of(text)] == [
        ("sh", 3, "make\n"), ("", 6, "```\n"), ("yaml", 9, "x: 1\n")
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"page.md:2: the fence is not closed"):
        list(blocks_of("a\n```sh\nmake\n"))


def test_every_block_is_checked_by_a_test():
    """A new block of another kind needs a test of its own and a line in ELSEWHERE."""
    others = {(block.page, block.language) for block in BLOCKS if block not in SPECS + SHELL}
    assert others == set(ELSEWHERE)
    assert {block.language for block in SPECS + SHELL} == {"yaml", "sh"}, "one name for each language"
    for where in ELSEWHERE.values():
        for file, _, name in re.findall(r"(tests/\w+\.py)(::)?(\w+)?", where):
            assert (ROOT / file).is_file(), file
            assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), where


@pytest.mark.parametrize("block", SPECS, ids=str)
def test_every_spec_states_a_question_and_is_valid(block, tmp_path):
    file = tmp_path / "shown.yaml"
    file.write_text(block.text)
    spec = load_spec(file)
    assert spec.question.endswith("?")
    assert len(spec.pretrains) > 1


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """A home, and in it a working folder `work`, with the images that the pages speak of: links to one file."""
    home = tmp_path_factory.mktemp("home")
    image = make.write(home / "image.jpg", make.encoded(make.picture()))
    names = [f"images/catalogue/bowl {i % 3}/{i:04}.jpg" for i in range(4100)]
    names += [f"work/photographs/kind{i % 2}/{i}.jpg" for i in range(20)]
    for block in BLOCKS:
        if (block.page, block.language) == ("docs/own_photos.md", "text"):
            names += [name.replace("apple", label) for name in block.text.splitlines() for label in ("apple", "pear")]
        if (block.page, block.language) == ("docs/two_datasets.md", "csv"):
            names += [f"work/{row.split(',')[0]}" for row in block.text.splitlines()[1:]]
            (home / "work").mkdir()
            (home / "work/two.csv").write_text(block.text)
    rows = [f"cups/{kind}{i % 5}-{i}.jpg,{kind}{i % 5},{kind}" for kind in ("cup", "bowl") for i in range(100)]
    names += [f"{folder}/{row.split(',')[0]}" for row in rows for folder in ("images", "work")]
    for name in dict.fromkeys(names):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).hardlink_to(image)
    (home / "images/shops.csv").write_text("\n".join(["path,label,kind", *rows]))
    scored = [f"{row.rpartition(',')[0]},{i / len(rows)}" for i, row in enumerate(rows)]
    (home / "work/photos.csv").write_text("\n".join(["path,label,clip_score", *scored]))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("block", SPECS, ids=str)
def test_every_spec_is_planned(block, album, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(album))
    monkeypatch.chdir(album / "work")
    file = album / "work/shown.yaml"
    file.write_text(block.text)
    assert sweep.main([str(file), "--plan"]) == 0
    assert re.search(r"\d+ trials|\d+ configurations", capsys.readouterr().out)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_shell_block_is_correct_syntax(block):
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def commands() -> list:
    """Every command of every page once; what imports Ray's program or a benchmark is slow."""
    shown = {tuple(words): block for block in SHELL for words in shown_commands.simple_commands(block.text)}
    slow = re.compile(r"ray |.*\b(bench\.|tests/)")
    return [pytest.param(list(words), id=f"{block}: {' '.join(words)}",
                         marks=[pytest.mark.slow] if slow.match(" ".join(words)) else [])
            for words, block in shown.items()]  # fmt: skip


@pytest.mark.parametrize("words", commands())
def test_every_command_exists_and_takes_its_options(words):
    shown_commands.check(words)


def test_a_command_that_is_wrong_is_noticed():
    for line in ("frobnicate now", "make nothing-such", "python -m ray_robust.sweep sweeps/quantity.yaml --plna",
                 "python -m ray_robust.none", "pip install -r requirements-none.txt",
                 "python -m ray_robust.sweep sweeps/quantity.yaml --set pretrain.epoch=3"):  # fmt: skip
        (words,) = shown_commands.simple_commands(line)
        with pytest.raises((AssertionError, UserError, subprocess.CalledProcessError, ModuleNotFoundError)):
            shown_commands.check(words)


def test_commands_are_read_as_a_shell_reads_them():
    block = "(umask 077; ray get --x > /dev/null)  # once\nA=1 B=2\nexport C=$D && python -m \\\n  m 'a b' | tail &\n"
    assert list(shown_commands.simple_commands(block)) == [
        ["umask", "077"], ["ray", "get", "--x"], ["export", "C=$D"], ["python", "-m", "m", "a b"], ["tail"],
    ]  # fmt: skip


INLINE = sorted({
    span
    for page in PAGES
    for span in re.findall(r"(?<!`)`(python -m [^`\n]+|make [^`\n]+)`(?!`)", page.read_text("utf-8"))
})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("span", INLINE)
def test_options_of_commands_in_the_text_exist(span):
    """In a sentence a command may lack its arguments; its options are those of the program."""
    words = span.split()
    if words[0] == "make":
        shown_commands.check(words)
        return
    name = words[2]
    options = {word.strip("[]").split("=")[0] for word in words[3:] if word.strip("[]").startswith("--")}
    assert options <= shown_commands.options_of(name, words[3:])


def test_the_header_of_every_sweep_has_the_command_that_runs_it():
    for file in sorted((ROOT / "sweeps").rglob("*.yaml")):
        command = rf"^# Run: +python -m ray_robust\.sweep {re.escape(file.relative_to(ROOT).as_posix())}(\s|$)"
        assert re.search(command, file.read_text("utf-8"), re.MULTILINE), file
