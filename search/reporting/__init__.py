"""What the user sees of a search: the live view, the report, figures, pictures before and after."""
