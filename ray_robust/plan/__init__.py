"""Plan a `Spec`: every trial of a sweep, before anything runs."""
