"""From a table of ID and OOD scores to a verdict: `python -m analysis RUN_DIR` or `python -m analysis TABLE.csv ...`.

table -> trend -> uncertainty -> robustness -> contrasts, factors, checks -> verdict -> charts, report. Every step takes
a table and returns one. Nothing here imports torch or ray; of `ray_robust` only `results`, `errors`, `names` and
`storage` are known.
"""
