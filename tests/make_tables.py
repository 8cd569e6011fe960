"""Tables of scores as people keep them: a baseline of models on a line and a group above it, in any unit and dress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.__main__ import Request, report_on
from analysis.input.plain_table import read_csv
from analysis.input.table import Table
from analysis.options import Options
from ray_robust.errors import UserError
from ray_robust.text.names import normalise


def models(baseline: int = 30, others: int = 12, er: float = 0.05, seed: int = 3) -> pd.DataFrame:
    """Columns model, type (standard, clip), val and v2, fractions with four digits; `clip` lies `er` above the line."""
    random = np.random.default_rng(seed)
    n = baseline + others
    x = random.uniform(-0.6, 1.2, n)
    kind = np.where(np.arange(n) < baseline, "standard", "clip")
    ood = ndtr(0.8 * x - 0.5 + 0.03 * random.standard_normal(n)) + er * (kind == "clip")
    return pd.DataFrame(
        {"model": [f"m{i}" for i in range(n)], "type": kind, "val": ndtr(x).round(4), "v2": ood.round(4)}
    )


def in_percent(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame.assign(**{name: (100 * frame[name]).round(4) for name in columns or ("val", "v2")})


def read(frame: pd.DataFrame | str | bytes, folder: Path, **changed) -> Table:
    """The table as the command reads it, from `t.csv` in `folder`."""
    file = folder / "t.csv"
    if isinstance(frame, pd.DataFrame):
        frame.to_csv(file, index=False)
    else:
        file.write_bytes(frame if isinstance(frame, bytes) else frame.encode())
    columns = {"id": "val", "ood": "v2", "group": "type"} | {
        k: changed.pop(k) for k in ("id", "ood", "group") if k in changed
    }
    return read_csv(str(file), **columns, options=Options(normalise(changed.pop("baseline", "standard"))), **changed)


def lines(error: UserError) -> list[str]:
    """What a user is shown, without the folder."""
    return [line[line.index("t.csv") :] if "t.csv" in line else line for line in map(str, error.problems)]


def refused(frame: pd.DataFrame | str | bytes, folder: Path, **changed) -> list[str]:
    try:
        table = read(frame, folder, **changed)
    except UserError as error:
        return lines(error)
    raise AssertionError(f"read, with the notes {table.warnings}")


def verdict_of(frame: pd.DataFrame, folder: Path, **changed) -> str:
    """Write `frame` and its report into `folder`; the address of the page."""
    frame.to_csv(folder / "t.csv", index=False)
    return report_on(Request((str(folder / "t.csv"),), out=str(folder / "out"), **changed), quiet=True)
