"""What a search leaves in MLflow, and how it gets there without ever holding the search up."""
