"""The built-in world: a renderer of species, places and fractals, deterministic for every single image."""
