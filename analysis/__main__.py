"""The command: `python -m analysis RUN_DIR...`, or `... TABLE.csv --id COL --ood COL --group COL --baseline VALUE`.

`python -m analysis power ...` is `ray_robust.prepare.power`, `verify RUN_DIR` is `analysis.verify.command`, and
`RUN_DIR --predict` `analysis.predict.text`.

Owns the arguments; `interface.request` has what they ask for, and does it.
"""

from __future__ import annotations

import importlib
import threading

from analysis.interface.request import Request, report_on
from ray_robust.errors import DONE, Arguments, Problem, UserError, check_out, command
from ray_robust.files.retry import check_patience
from ray_robust.run.analysis_settings import DEFAULTS

# `python -m analysis NAME ...` is another command; a run folder of that name is meant by ./NAME
PREDICTION = ("predict", "at", "confirm", "task")  # arguments that ask for one
COMMANDS = {"power": "ray_robust.prepare.power", "verify": "analysis.verify.command"}


def main(argv: list[str]) -> int:
    """Return exit code 0 when a report was written. Raises UserError for errors in arguments or data."""
    check_patience()
    if argv and argv[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))
    args = parser().parse_args(argv)
    check_out("--out", args.out)
    given = [name for name, value in vars(args).items() if value != parser().get_default(name)]
    if others := [name for name in given if name not in ("source", "out") and (name in PREDICTION) != args.predict]:
        flag, so = f"--{others[0].replace('_', '-')}", "is not" if args.predict else "is"
        raise UserError(f"{flag} {so} for --predict")
    if args.predict:
        from analysis.predict import text as prediction

        if len(args.source) > 1:
            raise UserError(Problem(args.source[1], "a prediction is made from one run"))
        return prediction.main(args.source[0], args.out, args.at, args.confirm, args.task)
    warm_up()
    report_on(Request(
        tuple(args.source), args.out, args.scale, args.margin, tuple(args.id), args.ood, args.group,
        args.baseline, args.cluster, args.percent, args.id_min, tuple(args.unit), args.title, look=args.look,
    ))  # fmt: skip
    return DONE


def warm_up() -> None:
    """Load in the background what a report needs: a caller that waits for something else calls this first."""
    threading.Thread(target=_load, daemon=True).start()


def _load() -> None:
    """Start the process that draws and make the page's JavaScript, which takes two seconds outside Python's lock; then
    load what the caller has not loaded meanwhile."""
    from analysis.report.bundle import javascript
    from analysis.report.figures import warm_up as start_drawing

    start_drawing()
    javascript()
    for name in ("analysis.study", "analysis.report.export", "analysis.report.page"):
        importlib.import_module(name)


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    what = "From ID and OOD scores to a verdict. Other commands: power SPEC.yaml, verify RUN_DIR."
    parser = Arguments("python -m analysis", description=what, add_help=add_help)
    source = "a finished or partial run, several to be joined, or any table of scores"
    parser.add_argument("source", metavar="RUN_DIR|TABLE.csv", nargs="+", help=source)
    add = parser.add_argument
    add("--id", metavar="COL", action="append", default=[],
        help="table: the column of in-distribution scores; again for another ID set")  # fmt: skip
    add("--ood", metavar="COL", help="table: the column of out-of-distribution scores")
    add("--group", metavar="COL", help="table: the column that names the group of a row")
    add("--baseline", metavar="VALUE", help="table: the group that the reference line is fitted on")
    add("--cluster", metavar="COL", help="table: the column that says which rows belong together, or none if none do")
    add("--percent", action="store_true", help="table: scores are 0-100 rather than 0-1")
    add("--unit", metavar="COL=percent|fraction", action="append", default=[],
        help="table: the unit of one column, whatever its scores look like and --percent says")  # fmt: skip
    add("--id-min", type=float, metavar="SCORE", help="table: leave out rows with a lower ID score (in its own unit)")
    add(
        "--scale",
        metavar="probit|logit|linear",
        help=f"axis that lines are fitted on (default: the spec's, or {DEFAULTS.scale})",
    )
    add("--margin", type=float, metavar="PP",
        help=f"points of ER that count as no effect (default: the spec's, or {DEFAULTS.margin:g})")  # fmt: skip
    add("--look", metavar="mean|last|id_val",
        help=f"which looks along fine-tuning ER is of (default: the spec's, or {DEFAULTS.look})")  # fmt: skip
    add("--title", metavar="TEXT", help="what the report is called (default: the spec's question, or the table's name)")
    add("--predict", action="store_true", help="run: predict ER, ID and OOD of mixtures that were not trained")
    add("--at", type=int, metavar="IMAGES", help="with --predict: write confirm.yaml for a run at this larger total")
    add("--confirm", metavar="RUN_DIR", help="with --predict: compare with that larger run")
    add("--task", metavar="NAME", help="with --predict: of which of the run's tasks (default: the first)")
    add("--out", metavar="DIR", help="where to write (default: RUN_DIR/report, or TABLE-analysis here)")
    return parser


if __name__ == "__main__":
    command(main)
