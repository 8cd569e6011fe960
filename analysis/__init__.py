"""From a table of ID and OOD scores to a verdict: `python -m analysis RUN_DIR` or `python -m analysis TABLE.csv ...`.

`input` reads points, `stats` fits and tests, `line` checks the baseline, `study` puts these steps in order, `findings`
and `verdict` draw the conclusions, `report` writes them, `predict` plans the next sweep. Every step takes tables and
returns tables. Nothing here imports torch or ray; of `ray_robust` only `errors`, `text`, `files`, `metrics` and `run`
are imported.
"""
