"""How fast images get to a model's input, beside the loaders that people use: see `__main__`."""
