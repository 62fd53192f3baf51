"""What is asked: the spec of a search, and what follows from it before anything is computed."""
