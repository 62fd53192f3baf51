"""Which batch of images is made next, wherever and whenever: what the nearest decision waits for comes first.

The order knows nothing of Ray and of clocks; the pool's dispatcher drives it with real workers, and
`keystep.cluster.estimating.simulation` with a clock.
"""

import heapq
import itertools
import math
import statistics
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

SLOW = 1.5  # times what its likes take: then a free worker makes a batch once more
EXPECTED, WEIGHT = 0.1, 2.0  # share of decisions that end a trial, and how many decisions that is worth
OLDER = 0.005  # less doubt of a trial for every slot that it came sooner: the next slots wait for the oldest
RECENT = 64  # batches that say what their likes take


@dataclass(eq=False)
class Unit:
    """A batch of images, or another piece of work of its size.

    Attributes:
        name: whose it is: a trial's slot, or the stage that wants it.
        block, batch: its place there.
        payload: what the worker is handed; the order does not look at it.
        copies: how many workers have it.
        started: when the first of them began, seconds.
        failures: how often it has failed.
        over: it is done, or nobody wants it any more.
        spare: it is wanted in all likelihood, but not now.
    """

    name: Hashable
    block: int
    batch: int
    payload: object = None
    copies: int = 0
    started: float = 0.0
    failures: int = 0
    over: bool = False
    spare: bool = False


@dataclass
class _Trial:
    """A trial's batches that nobody has yet, and the block that its next decision needs last."""

    slot: int
    decides_from: int
    last: int
    needed: int
    waiting: list[tuple[int, int, int, Unit]] = field(default_factory=list)
    rank: int = -1  # of its entries in the queue's heap the one that holds


class WorkQueue:
    """The work that waits, and what is under way.

    What everyone waits for (questions, the baseline, the held-out part) comes first. Then the batches of trials, by how
    likely it is that their trial gets that far: those that its next decision needs are certain, and beyond them every
    decision in between may end it, as often as decisions after those blocks have ended trials so far (`EXPECTED`
    before there were any, so that what lies fewer blocks ahead comes first). Of near equals the lower slot comes first.
    So a batch that no decision needs yet is made only where a worker would have nothing to do otherwise. What is spare
    (`add` with `spare`) comes last of all, and on no more than `num_spare` workers: the others are free for what a
    decision brings.

    Attributes:
        num_spare: workers at most that do spare work.
    """

    def __init__(self) -> None:
        self.num_spare = 1
        self._decided: dict[int, list[int]] = {}  # decisions after a block, and how many of them ended their trial
        self._stage: deque[Unit] = deque()
        self._spare: deque[Unit] = deque()
        self._trials: dict[int, _Trial] = {}
        self._ranks: list[tuple[float, int, int]] = []  # doubt, slot, and the trial's rank at the time
        self._running: dict[Unit, None] = {}
        self._running_spare: set[Unit] = set()
        self._seconds: dict[Hashable, deque[float]] = {}
        self._order = itertools.count()

    def add(self, units: Iterable[Unit], *, spare: bool = False) -> None:
        """Work that is wanted whatever happens, in this order; spare work is wanted in all likelihood, but not now."""
        for unit in units:
            unit.spare = spare
            (self._spare if spare else self._stage).append(unit)

    def hurry(self, name: Hashable) -> None:
        """The spare work of that name is wanted now."""
        self._stage.extend(unit for unit in self._spare if unit.name == name)
        self._spare = deque(unit for unit in self._spare if unit.name != name)
        for unit in (*self._stage, *self._running):
            if unit.name == name:
                unit.spare = False
                self._running_spare.discard(unit)

    def forget(self, name: Hashable) -> list[Unit]:
        """The work of a stage is not wanted; returns what nobody has begun."""
        left = [unit for unit in (*self._stage, *self._spare) if unit.name == name]
        self._stage = deque(unit for unit in self._stage if unit.name != name)
        self._spare = deque(unit for unit in self._spare if unit.name != name)
        for unit in (*left, *self._running):
            if unit.name == name:
                unit.over = True
        return left

    def begin(self, slot: int, units: Iterable[Unit], decides_from: int) -> None:
        """A trial begins.

        Args:
            slot: its place in the sequence of settings.
            units: all its batches.
            decides_from: the first block after which a decision is taken; one is taken after every later block.
        """
        waiting = [(unit.block, unit.batch, next(self._order), unit) for unit in units]
        last = max(block for block, *_ in waiting)
        trial = _Trial(slot, decides_from, last, needed=min(decides_from, last), waiting=waiting)
        heapq.heapify(trial.waiting)
        self._trials[slot] = trial
        self._rank(trial)

    def awaits(self, slot: int, block: int) -> None:
        """All decisions before `block` were to go on: the next one needs it."""
        if slot in self._trials:
            trial = self._trials[slot]
            if block > trial.needed:
                trial.needed = block
                self._rank(trial)

    def drop(self, slot: int) -> None:
        """The trial has ended: what is left of it is not wanted."""
        ended = self._trials.pop(slot, None)
        self._seconds.pop(slot, None)
        if ended is not None:
            self._learn(ended)
        for unit in self._running:
            if unit.name == slot:
                unit.over = True

    def take(self, now: float) -> Unit | None:
        """The next unit for a worker that is free at `now`, seconds; None if there is nothing for it to do."""
        unit = self._first() or self._slowest(now)
        if unit is None:
            return None
        if not unit.copies:
            unit.started = now
        unit.copies += 1
        self._running[unit] = None
        if unit.spare:
            self._running_spare.add(unit)
        return unit

    def done(self, unit: Unit, now: float) -> bool:
        """A worker has made the unit; whether it is the first that did, and the trial still wants it."""
        first = not unit.over
        unit.over = True
        self._leave(unit)
        if first:
            self._seconds.setdefault(unit.name, deque(maxlen=RECENT)).append(now - unit.started)
        return first

    def failed(self, unit: Unit) -> bool:
        """A worker could not make the unit, or died with it; whether somebody must try again, which `again` tells."""
        self._leave(unit)
        if unit.over:
            return False
        unit.failures += 1
        return not unit.copies

    def again(self, unit: Unit) -> None:
        """The unit waits again, in its place."""
        if isinstance(unit.name, int) and unit.name in self._trials:
            trial = self._trials[unit.name]
            heapq.heappush(trial.waiting, (unit.block, unit.batch, next(self._order), unit))
            self._rank(trial)
        elif not isinstance(unit.name, int):
            (self._spare if unit.spare else self._stage).appendleft(unit)

    @property
    def num_running(self) -> int:
        """Units under way that are wanted."""
        return sum(not unit.over for unit in self._running)

    @property
    def num_waiting(self) -> int:
        """Units that nobody has begun."""
        return len(self._stage) + len(self._spare) + sum(len(trial.waiting) for trial in self._trials.values())

    def running(self) -> Sequence[Unit]:
        """What is under way."""
        return list(self._running)

    def _first(self) -> Unit | None:
        if (unit := _wanted(self._stage)) is not None:
            return unit
        while self._ranks:
            _, slot, rank = heapq.heappop(self._ranks)
            trial = self._trials.get(slot)
            if trial is not None and trial.rank == rank:
                unit = heapq.heappop(trial.waiting)[-1]
                self._rank(trial)
                return unit
        return _wanted(self._spare) if len(self._running_spare) < self.num_spare else None

    def _rank(self, trial: _Trial) -> None:
        """The trial's place among the others, from its next batch and the block that it needs."""
        trial.rank = next(self._order)
        if trial.waiting:
            doubt = self._doubt(trial, trial.waiting[0][0]) + OLDER * trial.slot
            heapq.heappush(self._ranks, (doubt, trial.slot, trial.rank))

    def _doubt(self, trial: _Trial, block: int) -> float:
        """Minus the log of the chance that the trial comes to need a block; 0 if it does already."""
        doubt = 0.0
        for decision in range(trial.needed, block):
            taken, ended = self._decided.get(decision, (0, 0))
            doubt -= math.log1p(-(ended + EXPECTED * WEIGHT) / (taken + WEIGHT))
        return doubt

    def _learn(self, ended: _Trial) -> None:
        """Of a trial that has ended: it went on after all blocks before the one that it needed last."""
        for block in range(ended.decides_from, ended.needed + 1):
            counts = self._decided.setdefault(block, [0, 0])
            counts[0] += 1
            counts[1] += block == ended.needed < ended.last
        for trial in self._trials.values():
            self._rank(trial)

    def _slowest(self, now: float) -> Unit | None:
        """A unit that a decision waits for and that takes its worker far longer than its likes took."""
        late = [
            (now - unit.started, unit)
            for unit in self._running
            if unit.copies == 1 and not unit.over and self._is_needed(unit) and self._is_late(unit, now)
        ]
        return max(late, key=lambda pair: pair[0])[1] if late else None

    def _is_needed(self, unit: Unit) -> bool:
        trial = self._trials.get(unit.name) if isinstance(unit.name, int) else None
        return not unit.spare if trial is None else unit.block <= trial.needed

    def _is_late(self, unit: Unit, now: float) -> bool:
        likes = self._seconds.get(unit.name)
        return bool(likes) and now - unit.started > SLOW * statistics.median(likes)

    def _leave(self, unit: Unit) -> None:
        unit.copies -= 1
        if not unit.copies:
            self._running.pop(unit, None)
            self._running_spare.discard(unit)


def _wanted(units: deque[Unit]) -> Unit | None:
    """The first that is wanted, taken from them."""
    while units:
        if not (unit := units.popleft()).over:
            return unit
    return None
