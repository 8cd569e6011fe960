"""What documents show for a shell: its simple commands, each with a check that its program, options and files exist.

A Python program is asked itself: it runs until it has parsed the arguments, and not further. `EXPLAINED` lists the
programs of other projects, each with the reason why nothing is checked of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ray_robust import registry
from ray_robust.data.downloads.catalog import DOWNLOADS
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
OPERATORS = frozenset("();<>|&")
EXPLAINED = {
    "cd": "changes the folder",
    "export": "sets variables",
    "umask": "protects the file of a token",
    "source": "enters an environment",
    "[": "asks the shell",
    "hostname": "asks the machine",
    "prometheus": "another project's, run by tests/on_prem.py",
    "sbatch": "Slurm's; what stands behind its script is checked as the sweep's, with %a a number",
    "scancel": "Slurm's",
    "squeue": "Slurm's",
    "qsub": "PBS's",
    "pbsdsh": "PBS's",
}


class Parsed(Exception):
    """A program has parsed its arguments, and is stopped before it does anything."""

    def __init__(self, parser: argparse.ArgumentParser, values: Any) -> None:
        super().__init__()
        self.parser, self.values = parser, values


def simple_commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each simple command, without variables in front, redirections and comments."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        target = False
        for token in [*lexer, ";"]:
            if OPERATORS.issuperset(token):
                target = token.startswith((">", "<"))
                if not target:
                    while words and re.match(r"\w+=", words[0]):
                        words.pop(0)
                    if words:
                        yield words
                    words = []
            elif target:
                target = False
            else:
                words.append(token)


def check(words: list[str]) -> None:
    """Raise an error where a command does not exist or refuses these arguments."""
    program, *rest = words
    if program == "make":
        subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program in ("python", "python3", ".venv/bin/python"):
        check_python(rest)
    elif program == "ray-robust":
        from ray_robust.__main__ import COMMANDS

        check_python(["-m", COMMANDS[rest[0]][0].removesuffix(".__main__"), *rest[1:]])
    elif program == "ray":
        check_ray(rest)
    elif program == "pip":
        assert rest[0] == "install"
        files = [word for flag, word in itertools.pairwise(rest) if flag == "-r"]
        assert all((ROOT / file).is_file() for file in files), files
    else:
        assert program in EXPLAINED, f"{program}: no check, and no reason in EXPLAINED"
        if program == "sbatch":
            script = next(i for i, word in enumerate(rest) if not word.startswith("-"))
            assert (ROOT / rest[script]).is_file()
            check_python(["-m", "ray_robust.sweep", *(word.replace("%a", "4") for word in rest[script + 1 :])])


def check_python(rest: list[str]) -> None:
    """`python -m MODULE ...` or `python FILE ...`; a spec of the project must be one, with what `--set` says, and a
    source must be one."""
    if rest[0] == "-m":
        name, arguments = rest[1], rest[2:]
    else:
        file = ROOT / rest[0]
        assert file.is_file(), rest[0]
        name, arguments = ".".join(Path(rest[0]).with_suffix("").parts), rest[1:]
    package = importlib.util.find_spec(name)
    assert package is not None, name
    if package.submodule_search_locations is not None:
        name += ".__main__"
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        assert not arguments, f"{name} takes none"
        return
    values = parse(module.main, arguments).values
    if name == "ray_robust.sweep" and (values.spec.startswith("sweeps/") or "." not in values.spec):
        load_spec(values.spec if "." not in values.spec else ROOT / values.spec, tuple(values.set))
    elif name == "ray_robust.ingest" and values.download:
        assert values.source in DOWNLOADS
    elif name == "ray_robust.ingest":
        pools = registry.TASKS if values.task or ":" in values.source else registry.SOURCES
        assert values.source.partition(":")[0] in pools


def parse(main: Any, arguments: list[str]) -> Parsed:
    """Return what a program's main function parsed. Raises what it raises for arguments that it does not take."""
    own = argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", own):  # parsers of subcommands go on
            values, more = own(parser, args, namespace)
        if more:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        raise Parsed(parser, values)

    return stopped(main, arguments, stop)


def options_of(name: str, arguments: list[str]) -> set[str]:
    """Return the options of `python -m NAME`, of the subcommand that the arguments begin with where it has some."""
    package = importlib.util.find_spec(name)
    assert package is not None, name
    module = importlib.import_module(f"{name}.__main__" if package.submodule_search_locations is not None else name)
    if not hasattr(module, "main"):
        return set()

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Parsed(parser, None)

    return set(stopped(module.main, arguments, stop).parser._option_string_actions)


def stopped(main: Any, arguments: list[str], stop: Any) -> Parsed:
    """Run a main function until it parses its arguments, where `stop` raises Parsed. It must do so before all else:
    nothing that it starts would end with the test."""
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        mock.patch.object(subprocess, "Popen", side_effect=AssertionError("it starts a process")),
        mock.patch.object(sys, "argv", ["program", *arguments]),
    ):
        try:
            main(*[arguments][: main.__code__.co_argcount])
        except Parsed as parsed:
            return parsed
    raise AssertionError("it parses no arguments")


def check_ray(rest: list[str]) -> None:
    """Ray's own commands, by Ray's own parsers; behind `--` of a job stands a command again."""
    from ray.scripts.scripts import cli

    command, name = cli, "ray"
    job = rest[rest.index("--") + 1 :] if "--" in rest else []
    while True:
        # a group has the subcommand left to parse; a command raises for what it does not take
        context = command.make_context(name, list(rest), resilient_parsing=False)
        if not hasattr(command, "resolve_command"):
            break
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    if job:
        check(job)
