"""What is known of the blocks of a trial under way, in plain values."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from keystep.search.work.queue import Unit
from keystep.search.work.worker import Answer

SUMMED = ("computed", "evaluations", "evaluations_alone", "failures", "seconds")


@dataclass(frozen=True)
class TrialPlan:
    """What all trials have in common.

    Attributes:
        part: the instances, pickled; workers read them.
        blocks: the numbers of each block's instances.
        sets: of every instance, the number of its prompt set.
        batch_size: images at a time.
        decides_from: the first block after which a decision is taken.
    """

    part: bytes
    blocks: Sequence[Sequence[int]]
    sets: Sequence[int]
    batch_size: int
    decides_from: int


@dataclass(eq=False)
class TrialBlocks:
    """The batches of a trial: which lack, and what the others have shown.

    Attributes:
        left: batches of each block that are not done.
        values: of those that are, by block, as `keystep.search.work.batches.judged` says them, with their `seconds` and
            `notices`.
        failed: why a block cannot be done.
        served: blocks that the trial has been told.
        ended: nobody wants more of it.
        news: set when anything changes.
    """

    plan: TrialPlan
    left: Counter[int] = field(default_factory=Counter)
    values: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failed: dict[int, Answer] = field(default_factory=dict)
    served: set[int] = field(default_factory=set)
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def units(self, slot: int, part: Any, refinement: dict[str, Any] | None) -> Iterator[Unit]:
        """All batches, for the workers. `part` is a reference to the plan's."""
        for block, numbers in enumerate(self.plan.blocks):
            for batch, first in enumerate(range(0, len(numbers), self.plan.batch_size)):
                chunk = list(numbers[first : first + self.plan.batch_size])
                self.left[block] += 1
                yield Unit(slot, block, batch, ("evaluate", (part, refinement, chunk)))

    def add(self, block: int, value: dict[str, Any]) -> None:
        """A batch of a block is done."""
        self.values.setdefault(block, []).append(value)
        self.left[block] -= 1
        self.news.set()

    def fail(self, block: int, answer: Answer) -> None:
        """A block cannot be done."""
        self.failed[block] = answer
        self.news.set()

    def end(self) -> None:
        """Nobody wants more of it."""
        self.ended = True
        self.news.set()

    async def settled(self, block: int) -> None:
        """Returns once a block is done, or cannot be done, or is not wanted."""
        while not self.ended and block not in self.failed and self.left[block]:
            self.news.clear()
            await self.news.wait()

    def told(self, block: int) -> dict[str, Any]:
        """What `keystep.search.work.trial.StepTrial` reports of a block that is done, but for its slot."""
        again = block in self.served
        self.served.add(block)
        values = self.values[block]
        seen = sorted(pair for b in range(block + 1) for value in self.values.get(b, ()) for pair in value["outcomes"])
        return {
            "block": block,
            "outcomes": sorted(pair for value in values for pair in value["outcomes"]),
            "tiam": _accumulated(seen, self.plan.sets),
            "num_instances": len(seen),
            "num_total": len(self.plan.sets),
            "done": block + 1 == len(self.plan.blocks),
            "again": again,
            "notices": sorted({notice for value in values for notice in value["notices"]}),
            **{name: sum(value[name] for value in values) for name in SUMMED},
        }

    @property
    def unserved(self) -> Iterator[dict[str, Any]]:
        """The batches that were done and never told."""
        for block, values in self.values.items():
            if block not in self.served:
                yield from values


def _accumulated(outcomes: Sequence[tuple[int, float]], sets: Sequence[int]) -> float:
    """Mean over sets of the mean outcome; blocks hold prompts whole, so that it is `Part.objective`'s."""
    sums: dict[Hashable, list[float]] = {}
    for number, value in outcomes:
        sums.setdefault(sets[number], []).append(value)
    return sum(sum(each) / len(each) for each in sums.values()) / len(sums)
