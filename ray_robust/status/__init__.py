"""How far a run is, read from its folder alone: `python -m ray_robust.status RUN_DIR`."""
