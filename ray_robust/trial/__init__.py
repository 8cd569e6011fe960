"""One trial from beginning to end, without Ray."""
