"""Searches replayed on recorded outcomes, with a clock instead of a model."""
