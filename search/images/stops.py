"""Before which steps latents are kept for the settings that come later."""

import math

from keystep.search.settings.space import Space

MOST_STOPS = 25
"""Of a space that tries more steps every second, third, ... is kept: to make a step again costs a search of 50 steps a
per cent, and half of what it writes are such latents."""


def kept_stops(space: Space) -> tuple[int, ...]:
    """The steps before which unrefined latents are kept, ascending; step 0, pure noise, is not."""
    steps = sorted(set(space.steps) - {0})
    starts = {choice.start for choice in space.spec.gsng if choice is not None}
    return tuple(sorted({*steps[:: math.ceil(len(steps) / MOST_STOPS) or 1], *starts} - {0}))
