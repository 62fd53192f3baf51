"""Does this picture show what was asked? Prompt sets, detectors, TIAM, CLIP metrics, statistics."""
