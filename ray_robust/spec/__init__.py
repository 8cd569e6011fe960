"""From the YAML of a sweep to a checked `Spec`: sections, what varies, conditions, and every mistake with its line."""
