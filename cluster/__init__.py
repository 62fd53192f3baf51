"""Where a search runs and what it will cost."""

if __name__ != "keystep.cluster":
    raise ImportError("this folder is imported as keystep.cluster, lest there be two of each of its modules")
