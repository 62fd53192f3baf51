"""The commands of `keystep`, one module each."""
