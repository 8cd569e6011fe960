"""Open the data of a spec: the images that every trial draws, its cost, and the effects that the design can detect."""
