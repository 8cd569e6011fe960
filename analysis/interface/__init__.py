"""The analysis from Python: `analyse` for any table, `Study` for what comes of it; the command is written on them."""
