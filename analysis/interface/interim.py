"""The program that writes the report of a run which goes on: `python -m analysis.interface.interim RUN_DIR`.

A sweep starts it beside itself as trials end (`ray_robust.launch.monitor.interim_reports`). Owns nothing of what an
interim report says.
"""

from __future__ import annotations

import time

from analysis import study
from analysis.input import join_runs
from analysis.report import output
from analysis.verdict import verdict
from ray_robust.errors import DONE, command
from ray_robust.run.interim import runs_elsewhere


def main(argv: list[str]) -> int:
    """Write the report of one run into its folder, unless its driver is gone by then: the last report is the driver's.
    Raises UserError where it is no run, Unwritable."""
    table, options = join_runs.read_runs(argv[:1])
    if table.interim is not None and table.interim.running and table.interim.ended:
        analyses, storage = study.analyse_all(table, options), table.runs[0].storage
        made = verdict(analyses, table)
        output.write_interim(
            (storage / "report").address, table, analyses, made, lambda: runs_elsewhere(storage, time.time())
        )
    return DONE


if __name__ == "__main__":
    command(main)
