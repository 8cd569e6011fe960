"""Images that occur more than once: across splits, sources and labels."""
