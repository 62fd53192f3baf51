"""The public face of keystep: everything a user imports, and nothing else."""
