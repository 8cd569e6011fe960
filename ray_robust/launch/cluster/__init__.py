"""The Ray cluster that a sweep runs on: joined, or started here, and who may reach it."""
