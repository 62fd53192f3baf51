"""The work of a search: which batch of images comes next, who makes it, and what came of it."""
