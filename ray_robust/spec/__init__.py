"""Parse and check the YAML of a sweep: sections, axes, conditions, the search space; every error has its line."""
