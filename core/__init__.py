"""Models and pixels: prompts, attention, losses, refinement, sampling, the embedded shapes world."""
