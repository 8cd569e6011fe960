"""Is the baseline a line? The checks of its points, and the verdict of each."""
