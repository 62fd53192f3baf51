"""Where a search runs and what it will cost.

From what is done to what it is done with; import-linter keeps the order:

* `keystep.cluster.cli`, `keystep.cluster.commands`: what a user types.
* `keystep.cluster.launching` sends a search to one of `keystep.cluster.targets`, and sees how far it is.
* `keystep.cluster.sending`: what leaves this machine. `keystep.cluster.checks`: whether a search would run there.
* `keystep.cluster.estimating`: what it would cost.
* `keystep.cluster.scale_up` is a program of its own, which runs there.
"""

if __name__ != "keystep.cluster":
    raise ImportError("this folder is imported as keystep.cluster, lest there be two of each of its modules")
