"""A spec with its data opened: what every trial will draw, what it will cost, and what the design can detect."""
