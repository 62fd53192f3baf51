"""Where a search keeps what it made, and what must not get there: passwords."""
