"""Is the baseline a line? The checks, and what each says."""
