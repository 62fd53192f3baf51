"""Send a search to a target, and see how far it is."""
