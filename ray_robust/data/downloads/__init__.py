"""Published data sets, downloaded when a user asks for one: the table, HTTP, resuming, checks and unpacking.

Only `ray_robust.ingest NAME --download` imports this; no sweep downloads anything.
"""
