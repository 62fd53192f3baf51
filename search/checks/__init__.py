"""What can be said of a search before its trials: mistakes, and what makes it weak."""
