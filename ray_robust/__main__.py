"""The program `ray-robust COMMAND ...`, also `python -m ray_robust`: the commands under one name.

Each command is the `main` of a module, which is imported when it is asked for: `ray-robust --help` loads none.
"""

from __future__ import annotations

import importlib

import ray_robust
from ray_robust.errors import DONE, Arguments, UserError, command, did_you_mean, install_hint

PROGRAM = "ray-robust"
QUESTION = (ray_robust.__doc__ or "").partition("\n")[0]
COMMANDS = {  # name: module, what it does
    "sweep": ("ray_robust.sweep", "plan and run a sweep, from a YAML file or a built-in one by name"),
    "analyse": ("analysis.__main__", "report on a run, on several, or on any table of ID and OOD scores"),
    "status": ("ray_robust.status.__main__", "how far a run is, from its folder"),
    "ingest": ("ray_robust.ingest", "decode a source's images into the store, or obtain a published data set"),
}
COMPLETION = "completion"
SHELLS = ("bash", "zsh")
FILES = ("spec", "run", "source", "root", "archive", "out", "confirm")  # arguments that name a file or a folder


def main(argv: list[str]) -> int:
    """Run the command that `argv` begins with; return its exit code. Raises UserError."""
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        print(_help())
        return DONE
    if name == "--version":
        print(f"{PROGRAM} {ray_robust.__version__}")
        return DONE
    if name == COMPLETION:
        return _print_completion(rest)
    if name not in COMMANDS:
        raise UserError(f"{name!r} is no command of {PROGRAM}{did_you_mean(name, (*COMMANDS, COMPLETION))}")
    module = COMMANDS[name][0]
    Arguments.called = f"python -m {module.removesuffix('.__main__')}", f"{PROGRAM} {name}"
    try:
        return int(importlib.import_module(module).main(rest))
    finally:
        Arguments.called = "", ""


def run() -> None:
    """The program itself: runs `main` and exits with its code."""
    command(main)


def _help() -> str:
    lines = [f"usage: {PROGRAM} COMMAND ...", "", QUESTION, ""]
    lines += [f"  {name:<11} {what}" for name, (_, what) in COMMANDS.items()]
    lines += [f"  {COMPLETION:<11} print completions for a shell: {', '.join(SHELLS)}", ""]
    lines += [f"{PROGRAM} COMMAND --help shows what a command takes; {PROGRAM} --version the version."]
    return "\n".join(lines)


def _print_completion(argv: list[str]) -> int:
    parser = Arguments(f"{PROGRAM} {COMPLETION}", description="Print a script that completes commands and options.")
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        raise UserError(f"{COMPLETION} needs the package shtab; {install_hint(COMPLETION)}") from None
    whole = Arguments(PROGRAM, description=QUESTION)
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command")
    for name, (module, what) in COMMANDS.items():
        own = importlib.import_module(module).parser(add_help=False)
        parser = commands.add_parser(name, parents=[own], help=what, description=what)
        for action in parser._actions:
            if action.dest in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    shells = commands.add_parser(COMPLETION, help="print completions for a shell")
    shells.add_argument("shell", choices=SHELLS)
    print(shtab.complete(whole, shell))
    return DONE


if __name__ == "__main__":
    run()
