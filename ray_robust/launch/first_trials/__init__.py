"""The trials of the baseline: a pilot that chooses its fine-tunings, and its verdict before the others begin."""
