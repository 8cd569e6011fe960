"""What the shifts of a task say together, in sentences; their numbers are those of `analysis.stats.shift_results`."""
