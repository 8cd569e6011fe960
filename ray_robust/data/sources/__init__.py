"""Sources to pre-train on, one file each."""
