"""What to do next: why a baseline's line is poor, what widens or steadies it, and what would decide an open finding."""
