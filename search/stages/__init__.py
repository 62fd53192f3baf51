"""A whole search from its spec to its result, stage by stage."""
