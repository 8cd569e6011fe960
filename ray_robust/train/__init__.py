"""Training in plain PyTorch, without Ray: one process, or one rank of several."""
