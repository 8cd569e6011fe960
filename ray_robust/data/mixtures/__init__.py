"""Which images a trial pre-trains on: exact counts and nested draws from several sources."""
