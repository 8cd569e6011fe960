"""What the benches share: tables in documents with the command that made them; how profiles are counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import command_of, table_in, write_rows, write_table
from bench.overhead.bare import makespan
from bench.profile import REST, counted, part_of
from ray_robust.train.context import computes_in_bf16


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


def test_rows_of_a_simulation_take_the_places_of_those_before(tmp_path):
    file = tmp_path / "statistics.md"
    file.write_text("<!-- worlds -->\n<!-- /worlds -->\n")
    order, head = ["first", "second", "third"], ("world", "claimed")
    write_rows(file, "worlds", head, [("second", "5 %"), ("first", "4 %")], order)
    write_rows(file, "worlds", head, [("third", "6 %"), ("second", "7 %")], order)
    assert table_in(file, "worlds") == [list(head), ["first", "4 %"], ["second", "7 %"], ["third", "6 %"]]
    write_rows(file, "worlds", head, [], order[1:])
    assert table_in(file, "worlds") == [list(head), ["second", "7 %"], ["third", "6 %"]], (
        "a world that there is no more"
    )
    write_rows(file, "worlds", ("world", "claimed", "slope"), [("first", "4 %", "0.2")], order)
    assert table_in(file, "worlds") == [["world", "claimed", "slope"], ["first", "4 %", "0.2"]], "other columns"


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


HIDDEN = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}  # a processor without AVX-512, on any that has it


def test_on_a_processor_without_bf16_every_rival_computes_as_the_sweep_does():
    code = """
import types, torch, bench
from bench.overhead.images import precise
from ray_robust.train.context import computes_in_bf16
trial = types.SimpleNamespace(model=types.SimpleNamespace(precision="auto"))
with precise(trial):
    product = torch.ones(2, 2) @ torch.ones(2, 2)
print(computes_in_bf16(torch.device("cpu")), product.dtype, bench.instruction_sets().endswith(", float32"))"""
    root = Path(__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **HIDDEN}, cwd=root, capture_output=True,
                           text=True, check=True)  # fmt: skip
    assert ended.stdout.split() == ["False", "torch.float32", "True"]


def test_no_bench_has_a_precision_written_into_its_steps():
    """It is that of `Context.autocast`, which the sweep's own trainings have."""
    for file in sorted((Path(__file__).parents[1] / "bench").rglob("*.py")):
        assert "torch.autocast(" not in file.read_text("utf-8"), file.name


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [("", True), ("DEFAULT", True), ("avx512_core_bf16", True), ("AVX512_CORE_AMX", True), ("AVX512_CORE", False),
     ("AVX2", False), ("SSE41", False)],
)  # fmt: skip
def test_kernels_that_may_not_use_bf16_are_not_asked_to(limit, allowed, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert computes_in_bf16(torch.device("cpu")) == allowed
