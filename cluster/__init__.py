"""Where a search runs and what it will cost."""
