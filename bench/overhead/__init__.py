"""What a sweep costs over the training in it, beside bare loops and plain Ray code."""
