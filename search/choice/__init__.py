"""What was measured, which setting is best, and the result that says so."""
