"""Text that comes from users: names, CSV cells and the terminal, made safe to show."""
