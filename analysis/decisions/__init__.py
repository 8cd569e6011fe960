"""What was decided before looking, and what another decision gives beside it, in sentences and tables."""
