"""Which setting is best, and how sure are we? Ray Tune trials, Optuna pruning, MLflow tracking, export."""
