"""What the models see: sources and tasks, the store of decoded images, mixtures and the subsets drawn from them."""
