"""Held-out images that are all but sure to be wanted, made while workers have nothing better to do.

The unrefined model's are wanted whoever wins; once the last trials are under way, the setting that leads is likely to.
What they show is looked at only after the choice.
"""

from collections.abc import Callable, Sequence

from keystep.core.config import Refinement
from keystep.search.images.outcomes import Outcome, setting_id
from keystep.search.spec.instances import Part
from keystep.search.work.batches import BlockDone
from keystep.search.work.pool import Asked, Block, WorkerPool


class HeldOutAhead:
    """The held-out part of a search, asked for as spare work.

    Args:
        pool: whose workers make it.
        part: the held-out part.
    """

    def __init__(self, pool: WorkerPool, part: Part):
        self._pool, self._part = pool, part
        self._asked = {setting_id(None): self._start(None)}
        self._leader: str | None = None
        self._left: list[Asked] = []

    def lead(self, refinement: Refinement) -> None:
        """This setting leads the trials, and no other than this one is worth making ahead."""
        name = setting_id(refinement)
        if name == self._leader:
            return
        if self._leader is not None:
            left = self._asked.pop(self._leader)
            self._pool.forget(left)
            self._left.append(left)
        self._leader = name
        self._asked[name] = self._start(refinement)

    def outcomes(
        self, settings: Sequence[Refinement | None], on_block: Callable[[BlockDone], None]
    ) -> list[dict[int, Outcome]]:
        """Of the settings that were chosen, in their order, by instance number; errors as `WorkerPool.run`'s."""
        asked = [
            self._asked.pop(setting_id(setting), None) or self._pool.start(self._blocks(setting))
            for setting in settings
        ]
        for each in asked:
            self._pool.hurry(each)
        found = [
            self._pool.outcomes(self._blocks(setting), each, on_block)
            for setting, each in zip(settings, asked, strict=True)
        ]
        return [outcomes[setting_id(setting)] for setting, outcomes in zip(settings, found, strict=True)]

    def close(self) -> tuple[float, float]:
        """Nothing more is wanted; denoiser evaluations and workers' seconds of what was made for nothing."""
        costs = [self._pool.abandon(each) for each in (*self._left, *self._asked.values())]
        self._left.clear()
        self._asked.clear()
        return sum(evaluations for evaluations, _ in costs), sum(seconds for _, seconds in costs)

    def _start(self, setting: Refinement | None) -> Asked:
        return self._pool.start(self._blocks(setting), spare=True)

    def _blocks(self, setting: Refinement | None) -> list[Block]:
        return [(setting, block) for block in self._part.blocks]
