"""The report: page, figures, tables, and the files of `analysis/` in a run folder."""
