"""Subsets of the OOD test that a mean over all of it hides."""
