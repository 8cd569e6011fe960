"""What the next sweep would find: response surface over mixtures, and the power of a design."""
