"""From a `Spec` to every trial of a sweep, before anything runs."""
