"""The points of an analysis: from run folders or from a CSV, with all errors in them reported at once."""
