"""The points of an analysis: from run folders or from a CSV, with every mistake in them reported."""
