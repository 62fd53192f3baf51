"""Whether a search would run where it shall run."""
