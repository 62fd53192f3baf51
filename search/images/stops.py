"""Which latents are kept for the settings that come later: those that it is cheaper to read than to make again."""

import math
from typing import NamedTuple

from keystep.search.settings.space import Space

MOST_STOPS = 25
"""Of a space that tries more steps every second, third, ... is kept: to make a step again costs a search of 50 steps a
per cent, and half of what it writes are such latents."""

MOST_HELD_OUT = 12
"""The same on the held-out part, where two settings at most begin from what the unrefined model leaves."""

SELDOM = 4
"""Paths of iterations for each trial, from which on latents on the way of one are not kept: where a trial in four or
fewer goes on from another's, they are as many as all other latents, and save a search less than a per cent."""


class Stops(NamedTuple):
    """Steps before which latents are stored, ascending; step 0, pure noise, is none of them.

    Attributes:
        read: where what is stored may serve a setting.
        kept: where a setting stores what it makes.
    """

    read: tuple[int, ...]
    kept: tuple[int, ...]


class Worth:
    """What is worth keeping in a search.

    Args:
        space: its settings.

    Attributes:
        counts: of iterations after which latents are kept, ascending.
    """

    def __init__(self, space: Space):
        self._stops, self._few = _spread(space, MOST_STOPS), _spread(space, MOST_HELD_OUT)
        self.counts: tuple[int, ...] = space.iteration_counts if _are_met_again(space) else ()

    def stops(self, until: int, *, iterated: bool, held_out: bool) -> Stops:
        """The stops of a trajectory up to the step `until`.

        Args:
            iterated: whether iterative refinement acts there.
            held_out: of an image of the held-out part. The unrefined model keeps fewer stops there, and a setting
                only the one where its iterations begin, for a runner-up that is like the winner until then.
        """
        stops = tuple(step for step in (self._few if held_out else self._stops) if step <= until)
        if not held_out or not iterated or not until:
            return Stops(stops, stops)
        return Stops(tuple(sorted({*stops, until})), (until,))


def _spread(space: Space, most: int) -> tuple[int, ...]:
    """About `most` of the space's steps, and those where guidance begins."""
    steps = sorted(set(space.steps) - {0})
    starts = {choice.start for choice in space.spec.gsng if choice is not None}
    return tuple(sorted({*steps[:: math.ceil(len(steps) / most) or 1], *starts} - {0}))


def _are_met_again(space: Space) -> bool:
    """Whether trials often differ in their number of iterations alone; with a value out of a range none do."""
    return space.size is not None and space.size <= SELDOM * space.trials * len(space.iteration_counts)
