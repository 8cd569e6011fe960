"""What the benches share: tables in documents with the command that made them; how profiles are counted."""

from __future__ import annotations

import re

import pytest

from bench import command_of, table_in, write_table
from bench.overhead import makespan
from bench.profile import REST, counted, part_of


def test_a_table_says_which_command_made_it_when_and_where(tmp_path):
    file = tmp_path / "performance.md"
    file.write_text("before\n<!-- step -->\nold\n<!-- /step -->\nafter\n")
    command = command_of("bench.step", ["--rounds", "3", "--write", str(file), "--models", "a b"])
    assert command == "bench.step --rounds 3 --models 'a b'"
    write_table(file, "step", [("way", "images/s"), ("store", "100")], command)
    text = file.read_text()
    assert "| way | images/s |\n| --- | --- |\n| store | 100 |\n\n`python -m bench.step" in text
    assert re.search(r"--models 'a b'`, \d{4}-\d\d-\d\d: .+, \d+ cores, torch \S+, timm \S+, ray \S+\n<!-- /step", text)
    assert table_in(file, "step") == [["way", "images/s"], ["store", "100"]]
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_makespan_is_that_of_processes_that_take_the_next_trial():
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1], 2) == 2


@pytest.mark.parametrize(
    ("calls", "part"),
    [
        (["run_trial (/a/ray_robust/trial/run_trial.py:50)", "manual_seed (/x/torch/random.py:3)"], "seeding of steps"),
        (["optimise (/a/ray_robust/train/loop.py:3)", "_step (/a/ray_robust/train/loop.py:9)", "f (/x/torch/nn.py:1)"],
         "forward and backward passes"),
        (["ForwardBackward.run (/a/ray_robust/train/interleave.py:9)", "conv2d (/x/torch/nn.py:1)"],
         "forward and backward passes"),
        (["main (/a/ray_robust/sweep.py:9)", "_find_and_load (<frozen importlib._bootstrap>:1)"], "imports"),
        (["run_trial (/a/ray_robust/trial/run_trial.py:50)", "draw (/a/b.py:3)"], "the rest of a trial"),
        (["main (/x/json/decoder.py:9)"], REST),
    ],
)  # fmt: skip
def test_a_sample_counts_for_what_was_being_done(calls, part):
    assert part_of(";".join(calls)) == part
    assert counted([";".join(calls) + " 3", ";".join(calls) + " 4"]) == {part: 7}
