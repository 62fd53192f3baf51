"""A search by the clock: how busy GPUs are, and how long it takes.

A discrete-event simulation whose order of work is `keystep.search.work.queue`'s own: what hands out the batches of a
real search hands them out here, to workers that take as long as their batches' denoiser evaluations. Every worker loads
the model once. The baseline comes first; then trials begin in the order of their slots, slot n when slots up to n -
lookahead have ended; the driver takes one block's result after the other and decides on it; the unrefined model's
held-out images are made whenever workers have nothing else to do, and once the last trials are under way those of the
setting that leads, which is taken to win; the runner-up's when the trials have ended. The driver serves one request at
a time. Readers of the storage have half of it, each in turn; writers the other half, and wait only behind a `BACKLOG`.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keystep.cluster.estimating.workload import BlockWork, Workload
from keystep.search.work.dispatcher import SPARE_SHARE
from keystep.search.work.queue import Unit, WorkQueue

BACKLOG = 30.0  # seconds of the storage's work that workers hold back in memory, in all
LEAVING = 1.0  # seconds until a worker hears that its batch is not wanted, and leaves it


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
        busy: seconds of all workers together that were spent on denoising, decoding and judging what was needed.
        vain: on what was made before a decision that made it needless.
        stages: wall seconds of baseline, trials and held-out part; the first begins with loading.
        driver, storage: share of the trials' wall time in which it was busy.
    """

    workers: int
    seconds: float
    busy: float
    vain: float
    stages: dict[str, float]
    driver: float
    storage: float

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that was spent on work that was needed, in [0, 1]."""
        return self.busy / (self.workers * self.seconds)

    @property
    def in_vain(self) -> float:
        """Share of what was computed that was not needed, in [0, 1)."""
        return self.vain / (self.busy + self.vain) if self.vain else 0.0


def simulate(work: Workload, pace: Pace, workers: int, lookahead: int) -> Simulated:
    """Run the search by the clock.

    Args:
        work: its blocks.
        pace: how fast things go.
        workers: as many as fit on the GPUs, at least 1.
        lookahead: of the search's spec, at least 1.
    """
    return _Search(work, pace, workers, lookahead).run()


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


@dataclass(frozen=True)
class _Batch:
    """What a worker does for a unit.

    Attributes:
        seconds: of the worker.
        read, written: seconds of the storage.
        needed: whether its trial sees it before it ends.
    """

    seconds: float
    read: float
    written: float
    needed: bool = True


@dataclass(eq=False)
class _Job:
    """A worker with a unit since `began`."""

    unit: Unit
    batch: _Batch
    began: float


class _Search:
    """A search under way."""

    def __init__(self, work: Workload, pace: Pace, workers: int, lookahead: int):
        self._work, self._pace, self._workers, self._lookahead = work, pace, workers, lookahead
        self._queue = WorkQueue()
        self._queue.num_spare = max(1, workers // SPARE_SHARE)
        self._idle = 0
        self._leader: Sequence[BlockWork] = ()
        self._led = False  # whether the leader's held-out blocks are asked for
        self._begun = 0
        self._ended: set[int] = set()
        self._all_ended = 0  # slots below have ended
        self._jobs: dict[_Job, None] = {}
        self._left: dict[int, list[int]] = {}  # batches that each block of a trial lacks
        self._awaited: dict[int, int] = {}  # block that each trial awaits
        self._told: set[tuple[int, int]] = set()
        self._open: dict[str, int] = {}  # batches that a stage lacks
        self._busy = self._vain = 0.0
        self._events: list[tuple[float, int, str, _Job | tuple[int, int] | None]] = []
        self._order = itertools.count()
        self._driver, self._reads, self._writes = _Server(), _Server(), _Server()

    def run(self) -> Simulated:
        for _ in range(self._workers):
            self._at(self._pace.loading, "ready")
        ahead, rest = self._work.held_out[: self._work.ahead], self._work.held_out[self._work.ahead :]
        self._leader = rest[: len(ahead)]
        self._queue.add(self._stage("held-out", ahead), spare=True)
        self._queue.add(self._stage("baseline", self._work.baseline))
        baseline = self._until(lambda: self._is_over("baseline"), 0.0)
        busy, stored = self._driver.busy, self._reads.busy + self._writes.busy
        self._admit(baseline)
        trials = self._until(lambda: len(self._ended) == len(self._work.trials), baseline)
        taken = trials - baseline or math.inf
        driver = (self._driver.busy - busy) / taken
        storage = (self._reads.busy + self._writes.busy - stored) / 2 / taken
        self._queue.hurry("held-out")
        self._queue.add(self._stage("held-out", rest[len(self._leader) :] if self._led else rest))
        end = self._until(lambda: self._is_over("held-out"), trials)
        stages = {"baseline": baseline, "trials": trials - baseline, "held-out": end - trials}
        return Simulated(self._workers, end, self._busy, self._vain, stages, driver, storage)

    def _until(self, is_over: Callable[[], bool], now: float) -> float:
        """Let time pass; when it is over."""
        self._pump(now)
        while not is_over():
            now, _, what, which = heapq.heappop(self._events)
            if what == "ready":
                self._idle += 1
            elif isinstance(which, _Job):
                if what == "left":
                    self._idle += 1
                    self._queue.done(which.unit, now)
                elif which in self._jobs:
                    self._made(which, now)
            else:
                assert isinstance(which, tuple)
                (self._begin if what == "begun" else self._decide)(*which, now)
            self._pump(now)
        return now

    def _pump(self, now: float) -> None:
        """Work for every worker that is free."""
        while self._idle and (unit := self._queue.take(now)) is not None:
            self._idle -= 1
            batch = unit.payload
            assert isinstance(batch, _Batch)
            job = _Job(unit, batch, now)
            self._jobs[job] = None
            self._at(self._reads.serve(now, 2 * batch.read) + batch.seconds, "made", job)

    def _made(self, job: _Job, now: float) -> None:
        unit, batch = job.unit, job.batch
        del self._jobs[job]
        free = self._writes.serve(now, 2 * batch.written) - BACKLOG
        if free > now:
            self._at(free, "ready")
        else:
            self._idle += 1
        wanted = self._queue.done(unit, now)
        if wanted and batch.needed:
            self._busy += batch.seconds
        else:
            self._vain += batch.seconds
        self._leave([other for other in self._jobs if other.unit is unit], now)
        if not isinstance(unit.name, int):
            self._open[str(unit.name)] -= 1
        elif wanted:
            self._left[unit.name][unit.block] -= 1
            self._tell(unit.name, now)

    def _tell(self, slot: int, now: float) -> None:
        """The driver hears of the block that the trial awaits, if it is made."""
        block = self._awaited[slot]
        if not self._left[slot][block] and (slot, block) not in self._told:
            self._told.add((slot, block))
            self._at(self._driver.serve(now, self._pace.result), "told", (slot, block))

    def _decide(self, slot: int, block: int, now: float) -> None:
        if block + 1 < len(self._work.trials[slot]):
            self._awaited[slot] = block + 1
            self._queue.awaits(slot, block + 1)
            self._tell(slot, now)
            return
        self._queue.drop(slot)
        self._leave([job for job in self._jobs if job.unit.name == slot], now)
        self._ended.add(slot)
        while self._all_ended in self._ended:
            self._all_ended += 1
        if not self._led and len(self._ended) + self._lookahead >= len(self._work.trials):
            self._led = True
            self._queue.add(self._stage("held-out", self._leader), spare=True)
        self._admit(now)

    def _leave(self, jobs: Sequence[_Job], now: float) -> None:
        """Nobody wants what these workers are at."""
        for job in jobs:
            del self._jobs[job]
            self._vain += now - job.began + LEAVING
            self._at(now + LEAVING, "left", job)

    def _admit(self, now: float) -> None:
        """Slots begin while not more than the lookahead are open."""
        while self._begun < len(self._work.trials) and self._begun < self._all_ended + self._lookahead:
            self._at(self._driver.serve(now, self._pace.trial), "begun", (self._begun, 0))
            self._begun += 1

    def _begin(self, slot: int, block: int, now: float) -> None:
        units = list(self._trial(slot))
        self._left[slot] = [0] * (1 + max(unit.block for unit in units))
        for unit in units:
            self._left[slot][unit.block] += 1
        self._awaited[slot] = block
        last = (self._work.num_blocks or len(self._work.trials[slot])) - 1
        self._queue.begin(slot, units, min(self._work.decides_from, last))

    def _trial(self, slot: int) -> Iterator[Unit]:
        """The batches of a trial, those after its end included: nobody knows of it before. They are taken to cost as
        much as the last ones that it sees."""
        seen = self._work.trials[slot]
        for block in range(max(len(seen), self._work.num_blocks or 0)):
            needed = block < len(seen)
            for batch, made in enumerate(self._batches(seen[block] if needed else seen[-1], needed)):
                yield Unit(slot, block, batch, made)

    def _stage(self, name: str, blocks: Sequence[BlockWork]) -> list[Unit]:
        units = [
            Unit(name, place, batch, made)
            for place, block in enumerate(blocks)
            for batch, made in enumerate(self._batches(block))
        ]
        self._open[name] = self._open.get(name, 0) + len(units)
        return units

    def _batches(self, block: BlockWork, needed: bool = True) -> Iterator[_Batch]:
        count = math.ceil(block.images / self._work.batch_size)
        read = min(block.points, block.images)
        made = _Batch(
            seconds_of(block, self._pace) / count,
            read * self._pace.point / count,
            (block.points - read) * self._pace.point / count,
            needed,
        )
        yield from itertools.repeat(made, count)

    def _is_over(self, name: str) -> bool:
        return not self._open.get(name)

    def _at(self, when: float, what: str, which: _Job | tuple[int, int] | None = None) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, which))


def seconds_of(block: BlockWork, pace: Pace) -> float:
    """That a worker is busy with a block."""
    return block.evaluations * pace.evaluation + block.images * pace.image
