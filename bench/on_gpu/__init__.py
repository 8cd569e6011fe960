"""What only a GPU can show, by one command for one that is at hand for minutes: see `__main__`."""
