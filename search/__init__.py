"""Which setting is best, and how sure are we? Ray Tune trials, Optuna pruning, MLflow tracking, export.

`search.runner` is a whole search from preflight to result; `search.tuning` is its Ray Tune part, `search.work` makes
the images.
`search.settings` proposes and prunes, `search.images` draws and scores, `search.selection` chooses, `search.tracking`
logs, `search.reporting` shows, `search.exporting` and `search.serving` ship, `search.replaying` runs it all again
without a model. `search.spec` is what the user writes.
"""
