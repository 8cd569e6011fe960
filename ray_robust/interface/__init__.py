"""Runs from Python: `Run` is a run folder; `ray_robust.sweep` makes one."""
