"""Files, local or in an object store: reading, writing, and why a folder cannot be written."""
