"""What is seen while a sweep runs: the live view, Ray metrics, loggers for other tools."""
