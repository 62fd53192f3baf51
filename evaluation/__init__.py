"""Does this picture show what was asked? Prompt sets, detectors, TIAM, CLIP metrics, statistics."""

if __name__ != "keystep.evaluation":
    raise ImportError("this folder is imported as keystep.evaluation, lest there be two of each of its modules")
