"""What a setting makes of given instances: the hot path. What is known is read, the rest computed and stored."""
