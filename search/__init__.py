"""Which setting is best, and how sure are we? Ray Tune trials, Optuna pruning, MLflow tracking, export.

`keystep.search.stages.runner` is a whole search from preflight to result; `keystep.search.stages.tuning` is its Ray
Tune part, `keystep.search.work` makes the images.
`keystep.search.settings` proposes and prunes, `keystep.search.images` draws and scores,
`keystep.search.choice.selection` chooses, `keystep.search.tracking` logs, `keystep.search.reporting` shows,
`keystep.search.shipping.exporting` and `keystep.search.shipping.serving` ship, `keystep.search.replaying` runs it all
again without a model. `keystep.search.spec.search_spec` is what the user writes.
"""

if __name__ != "keystep.search":
    raise ImportError("this folder is imported as keystep.search, lest there be two of each of its modules")
