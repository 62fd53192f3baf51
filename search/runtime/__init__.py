"""The Ray that a search runs in: started, watched, and what can go wrong with it."""
