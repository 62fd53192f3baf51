"""Models and pixels: prompts, attention, losses, refinement, sampling, the embedded shapes world."""

if __name__ != "keystep.core":
    raise ImportError("this folder is imported as keystep.core, lest there be two of each of its modules")
