"""A search's scheduler by the clock: how busy GPUs are, how long it takes, and what holds it up.

A discrete-event simulation of what `search.runner` does. Baseline and held-out blocks are taken by any worker that is
free. Trials start in the order of their slots, slot n when a worker is free and slots up to n - lookahead have ended;
the blocks of a trial come one after the other on its worker, which waits for the driver to take each result. The stages
come one after the other, each with workers of its own, and every worker loads the model once. Driver and storage serve
one request at a time.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.workload import BlockWork, Workload

Limit = Literal["none", "lookahead", "driver", "storage", "loading", "sequence"]
NOTABLE = 0.05  # share of the wall time that must be gained for something to be called the limit
BUSY = 0.8  # utilisation from which on the GPUs themselves are the limit


@dataclass(frozen=True)
class Pace:
    """How fast things go.

    Attributes:
        evaluation: seconds of one denoiser evaluation of one image.
        image: seconds that decoding and judging one image take beside.
        loading: seconds until a worker has its models.
        result: seconds that the driver takes for one block's result.
        trial: seconds that the driver takes for beginning and ending a trial.
        point: seconds of the storage for one point read or written; all workers share it.
    """

    evaluation: float
    image: float = 0.0
    loading: float = 0.0
    result: float = 0.0
    trial: float = 0.0
    point: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """A search on so many workers.

    Attributes:
        workers: with a GPU, or a share of one, each.
        seconds: wall time.
        busy: seconds of all workers together that were spent on denoising, decoding and judging.
        stages: wall seconds of baseline, trials and held-out part.
        driver, storage: share of the trials' wall time in which it was busy.
    """

    workers: int
    seconds: float
    busy: float
    stages: dict[str, float]
    driver: float
    storage: float

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that was spent on work, in [0, 1]."""
        return self.busy / (self.workers * self.seconds)


def simulate(work: Workload, pace: Pace, workers: int, lookahead: int) -> Simulated:
    """Run the search by the clock.

    Args:
        work: its blocks.
        pace: how fast things go.
        workers: as many as fit on the GPUs, at least 1.
        lookahead: of the search's spec, at least 1.
    """
    stages = {"baseline": _spread(work.baseline, pace, workers)}
    trials = _Trials(work.trials, pace, min(workers, lookahead), lookahead)
    stages["trials"] = trials.run()
    stages["held-out"] = _spread(work.held_out, pace, workers)
    busy = sum(_seconds(block, pace) for block in work.blocks)
    taken = stages["trials"] or math.inf
    return Simulated(
        workers, sum(stages.values()), busy, stages, trials.driver.busy / taken, trials.storage.busy / taken
    )


def limit_of(work: Workload, pace: Pace, workers: int, lookahead: int) -> Limit:
    """What holds the search up most: that without which it would be over soonest.

    `sequence` is what is left: too few trials or blocks for so many workers, each a sequence on one of them.
    """
    found = simulate(work, pace, workers, lookahead)
    without: dict[Limit, Simulated] = {
        "lookahead": simulate(work, pace, workers, max(lookahead, len(work.trials), workers)),
        "driver": simulate(work, replace(pace, result=0.0, trial=0.0), workers, lookahead),
        "storage": simulate(work, replace(pace, point=0.0), workers, lookahead),
        "loading": simulate(work, replace(pace, loading=0.0), workers, lookahead),
    }
    worst = min(without, key=lambda name: without[name].seconds)
    if found.seconds - without[worst].seconds >= NOTABLE * found.seconds:
        return worst
    return "none" if found.utilisation >= BUSY else "sequence"


def lookahead_for(work: Workload, pace: Pace, workers: int, lookahead: int) -> int:
    """The first doubling of a lookahead that is not the limit any more."""
    soonest = simulate(work, pace, workers, max(lookahead, len(work.trials), workers)).seconds
    while simulate(work, pace, workers, lookahead).seconds * (1 - NOTABLE) >= soonest:
        lookahead *= 2
    return lookahead


def saturation(work: Workload, pace: Pace) -> tuple[float, float]:
    """Workers at which the driver, and at which the storage, would have no rest if trials never waited; inf: none."""
    blocks = [block for trial in work.trials for block in trial]
    seconds = sum(_seconds(block, pace) for block in blocks)
    driver = len(blocks) * pace.result + len(work.trials) * pace.trial
    storage = sum(block.points for block in blocks) * pace.point
    return seconds / driver if driver else math.inf, seconds / storage if storage else math.inf


class _Server:
    """Serves one request after the other, in the order they come."""

    def __init__(self) -> None:
        self._free = 0.0
        self.busy = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When a request that comes now is done."""
        self._free = max(self._free, now) + seconds
        self.busy += seconds
        return self._free


class _Trials:
    """The stage of the trials."""

    def __init__(self, trials: Sequence[Sequence[BlockWork]], pace: Pace, workers: int, lookahead: int):
        self._trials, self._pace, self._lookahead = trials, pace, lookahead
        self._cold = workers  # not started yet
        self._warm = 0  # free, with models loaded
        self._next = 0
        self._ended: set[int] = set()
        self._all_ended = 0  # slots below have ended
        self._events: list[tuple[float, int, int, int, bool]] = []  # when, order, slot, block, whether it is computed
        self._order = itertools.count()
        self.driver, self.storage = _Server(), _Server()

    def run(self) -> float:
        """When the last trial ended, seconds."""
        now = 0.0
        self._admit(now)
        while self._events:
            now, _, slot, block, computed = heapq.heappop(self._events)
            if not computed:
                self._begin(now, slot, block)
            else:
                self._at(self.driver.serve(now, self._pace.result), slot, block + 1)
        return now

    def _begin(self, now: float, slot: int, block: int) -> None:
        if block == len(self._trials[slot]):
            self._end(now, slot)
            return
        work = self._trials[slot][block]
        there = self.storage.serve(now, work.points * self._pace.point)
        self._at(there + _seconds(work, self._pace), slot, block, computed=True)

    def _end(self, now: float, slot: int) -> None:
        self._ended.add(slot)
        while self._all_ended in self._ended:
            self._all_ended += 1
        self._warm += 1
        self._admit(now)

    def _admit(self, now: float) -> None:
        """Slots begin while there is a worker and not more than the lookahead are open."""
        while self._next < len(self._trials) and self._next < self._all_ended + self._lookahead:
            if self._warm:
                self._warm, loading = self._warm - 1, 0.0
            elif self._cold:
                self._cold, loading = self._cold - 1, self._pace.loading
            else:
                return
            self._at(self.driver.serve(now, self._pace.trial) + loading, self._next, 0)
            self._next += 1

    def _at(self, when: float, slot: int, block: int, computed: bool = False) -> None:
        heapq.heappush(self._events, (when, next(self._order), slot, block, computed))


def _spread(blocks: Sequence[BlockWork], pace: Pace, workers: int) -> float:
    """Seconds until all blocks are done that any free worker takes, the first in the list first."""
    storage = _Server()
    free = [pace.loading] * min(workers, len(blocks))
    heapq.heapify(free)
    end = 0.0
    for block in blocks:
        now = heapq.heappop(free)
        done = storage.serve(now, block.points * pace.point) + _seconds(block, pace)
        heapq.heappush(free, done)
        end = max(end, done)
    return end


def _seconds(block: BlockWork, pace: Pace) -> float:
    return block.evaluations * pace.evaluation + block.images * pace.image
