"""The built-in world: a renderer of species, camera sites and fractals, deterministic for every single image."""
