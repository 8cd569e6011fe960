"""The command `python -m ray_robust.sweep SPEC.yaml`: load, plan, print, run what is missing, report.

`ray_robust.sweep(...)` does the same from Python: this module can be called. It reads arguments and calls
`interface.carry_out`, which is imported once there is something to do: `--help` loads none of it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_robust.errors import Arguments, UserError, check_run_folder, command

if TYPE_CHECKING:
    from ray_robust.interface.run import Run
    from ray_robust.spec.load import Spec


def main(argv: list[str]) -> int:
    """Run the command; return its exit code. Raises UserError."""
    args = _arguments(argv)
    from ray_robust.interface.carry_out import Asked, carry_out
    from ray_robust.prepare.devices import device_named
    from ray_robust.prepare.provenance import command as shell_command
    from ray_robust.spec.load import load_spec
    from ray_robust.text.console import console

    device = None if args.on is None else device_named(args.on)
    spec = load_spec(args.spec, tuple(args.set))
    asked = Asked(args.out, args.address, args.limit, args.plan, shell_command(argv), on=device)
    return carry_out(spec, asked, console())[0]


def sweep(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Spec,
    *,
    set: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    address: str | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> Run:
    """Run a sweep, or what is still missing of it, write its report, and return its folder. The command is the same.

    spec     a YAML file, the name of a built-in sweep (`"quickstart"`), a dict with the same keys, or a loaded Spec
    set      values that replace single ones of the spec: `{"pretrain.epochs": 2}`
    out      the run folder, a path or a URI; None: `runs/<name of the spec>`. A dict has no name, and needs it
    address  a Ray cluster to run on; None: RAY_ADDRESS, else this machine's cores
    limit    only the first so many trials
    quiet    whether nothing is printed

    Raises UserError before anything is written, Unfinished where trials failed or were not run, Outage where a disk,
    storage or a cluster went away, KeyboardInterrupt when it is interrupted. Finished work is kept: the same call
    continues.
    """
    from ray_robust.interface.carry_out import run_from_python

    _check_limit("limit", limit)
    check_run_folder("out", out)
    if set is not None and not isinstance(set, Mapping):
        raise UserError(f"set: must be a dict, e.g. {{'pretrain.epochs': 2}}, not {type(set).__name__}")
    return run_from_python(spec, set or {}, out, address, limit, quiet)


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    what = "Run a sweep from its YAML, or what is still missing of it."
    parser = Arguments("python -m ray_robust.sweep", description=what, add_help=add_help)
    parser.add_argument("spec", metavar="SPEC.yaml", help="a file, or the name of a built-in sweep: quantity, ...")
    parser.add_argument("--plan", action="store_true", help="print every trial and its cost; run nothing")
    parser.add_argument(
        "--on", metavar="CARD", help="with --plan: the hours that it takes on this card: h100, a100, l4, ..."
    )
    parser.add_argument("--out", help="the run folder, a path or a URI (default: runs/<spec name>)")
    parser.add_argument("--address", help="a Ray cluster to run on (default: RAY_ADDRESS, else this machine's cores)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the spec")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N trials")
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    args = parser().parse_args(argv)
    _check_limit("--limit", args.limit)
    check_run_folder("--out", args.out)
    if args.on is not None and not args.plan:
        raise UserError("--on: is for --plan")
    return args


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(f"{name}: must be a whole number of at least 1, not {limit!r}")


class _Callable(types.ModuleType):
    """This module as the function of its name: `ray_robust.sweep` is one object, however it was imported."""

    def __call__(self, *args: Any, **options: Any) -> Run:
        return sweep(*args, **options)


_Callable.__call__.__doc__ = __doc__ = sweep.__doc__ or ""  # what `help(ray_robust.sweep)` shows
__signature__ = inspect.signature(sweep)  # what a notebook shows of `ray_robust.sweep(`
sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    command(main)
