"""Searches: which trial is next, and what its results say about the ones after."""
