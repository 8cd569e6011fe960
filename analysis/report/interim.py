"""The program that writes the report of a run which goes on: `python -m analysis.report.interim RUN_DIR`.

A sweep starts it beside itself as trials end (`ray_robust.launch.monitor.interim_reports`). Writes nothing once the run
is complete: the last report is the sweep's own. Owns nothing of what an interim report says.
"""

from __future__ import annotations

from analysis import study
from analysis.input import join_runs
from analysis.report import output
from analysis.verdict import verdict
from ray_robust.errors import DONE, command


def main(argv: list[str]) -> int:
    """Write the report of one run into its folder. Raises UserError where it is no run, Unwritable."""
    table, options = join_runs.read_runs(argv[:1])
    if table.interim is not None and table.interim.ended:
        analyses = study.analyse_all(table, options)
        output.write_interim((table.runs[0].storage / "report").address, table, analyses, verdict(analyses, table))
    return DONE


if __name__ == "__main__":
    command(main)
