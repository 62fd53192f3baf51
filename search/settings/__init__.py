"""Which setting comes next and when a trial stops: Optuna inside Ray Tune, with a record that outlives the process."""
