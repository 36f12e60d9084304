"""Numbers that are timed. Each script prints a ratio whose two sides ran in the same minutes."""
