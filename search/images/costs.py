"""Denoiser evaluations, the cost that does not depend on the machine.

One sample through the denoiser once is 1. So a step with classifier-free guidance is 2, without it 1; and a shift is 2,
since it goes forward and back (a backward pass costs about as much as a forward one, and the forward one stops early).
"""

from keystep.core.config import GSNg, IterRef
from keystep.core.refine import RefineTrace

SHIFT = 2.0


def prediction_cost(guidance_scale: float) -> float:
    """Evaluations of one sample's noise prediction at a step."""
    return 1.0 if guidance_scale == 1.0 else 2.0


def step_cost(guidance_scale: float, gsng: GSNg | None, step_index: int, num_steps: int) -> float:
    """Evaluations of one sample at a step, its shift of guidance included, iterative refinement not."""
    shifted = gsng is not None and step_index in gsng.step_range(num_steps)
    return prediction_cost(guidance_scale) + (SHIFT if shifted else 0.0)


def iterref_cost(trace: RefineTrace, row: int, settings: IterRef, count: int) -> float:
    """Evaluations of one sample in the first `count` iterations of iterative refinement.

    With a threshold a sample leaves the batch when it stops; without one it stays to the end, also if it failed.

    Args:
        trace: of the run, of at least `count` iterations.
        row: of the sample.
        settings: of the run.
        count: iterations, 0 or more.
    """
    made = count if settings.threshold is None else min(count, len(trace.losses[row]))
    return SHIFT * made
