"""Which setting is best, and how sure are we? Ray Tune trials, Optuna pruning, MLflow tracking, export.

From what is done to what it is done with; import-linter keeps the order:

* `keystep.search.cli`, `keystep.search.commands`: what a user types.
* `keystep.search.stages`: a whole search (`keystep.search.stages.runner`), stage by stage. Beside it
  `keystep.search.shipping` ships what was found, and `keystep.search.replaying` searches again without a model.
* `keystep.search.tracking` logs to MLflow, `keystep.search.reporting` shows.
* `keystep.search.choice`: which setting is best, and the result. `keystep.search.checks`: what can be said before.
  `keystep.search.work`: one pool of workers for all that is to be computed.
* `keystep.search.images`: a batch of images drawn and judged, and what is kept of them.
* `keystep.search.settings`: which setting comes next, and when one stops.
* `keystep.search.spec`: what is asked. `keystep.search.runtime`: the Ray that it runs in.
* `keystep.search.storing`: where all of it is kept.
"""

if __name__ != "keystep.search":
    raise ImportError("this folder is imported as keystep.search, lest there be two of each of its modules")
