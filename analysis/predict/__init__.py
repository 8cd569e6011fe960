"""Planning the next sweep: a response surface over mixtures, and the power of a design."""
