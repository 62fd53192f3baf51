"""The process that hands out the work of a search: one for all its stages, on the driver's node.

The GPUs belong to this pool and not to the placement groups of Ray Tune's trials. A trial that holds a GPU can use but
that one, so its blocks come one after the other, and the GPU idles whenever the trial waits for a decision; drawn from
a pool, the sixteen blocks of a trial run on sixteen GPUs, whatever is free takes what the nearest decision waits for,
and models are loaded once a search and not once a stage. Trials themselves are processes without resources, which
wait. The order of the work is `search.work.queue`'s; here it meets Ray.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, WorkerCrashedError

from search.work.crew import Crew, Hand, Hiring
from search.work.queue import Unit, WorkQueue
from search.work.worker import Answer

DIED = "its worker died"


@dataclass(frozen=True)
class TrialPlan:
    """What all trials have in common, in plain values.

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


@dataclass
class _Trial:
    """What is known of a trial that has begun."""

    refinement: dict[str, Any] | None
    left: Counter[int] = field(default_factory=Counter)  # batches of each block that are not done
    values: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # of the batches of each block
    failed: dict[int, Answer] = field(default_factory=dict)
    served: set[int] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """An actor of Ray whose calls wait side by side.

    Args:
        hiring: of its workers.
    """

    def __init__(self, hiring: Hiring):
        self._hiring = hiring
        self._queue = WorkQueue()
        self._crew = Crew(hiring, on_ready=self._pump, on_trouble=self._give_up)
        self._answers: dict[Unit, asyncio.Future[Answer]] = {}
        self._trials: dict[int, _Trial] = {}
        self._plan: TrialPlan | None = None
        self._part: Any = None
        self._in_vain = [0.0, 0.0]
        self._order = itertools.count()

    async def open(self) -> None:
        """Workers start before there is work for them."""
        self._crew.open()

    async def ask(self, name: str, task: bytes, spare: bool = False) -> Answer:
        """The answer to a question; tried again if its worker dies.

        Args:
            name: of the stage that asks.
            task: see `search.work.worker.Worker.ask`.
            spare: whether workers take it only if they have nothing else to do, until `hurry`.
        """
        self._crew.open()
        unit = Unit(name, 0, next(self._order), ("ask", (task,)))
        self._answers[unit] = asyncio.get_running_loop().create_future()
        self._queue.add([unit], spare=spare)
        self._pump()
        return await self._answers[unit]

    async def hurry(self, name: str) -> None:
        """What that stage has asked as spare is wanted now."""
        self._queue.hurry(name)
        self._pump()

    async def forget(self, name: str) -> None:
        """What that stage has asked and nobody has begun is not wanted: it is answered with nothing."""
        for unit in self._queue.forget(name):
            self._answers.pop(unit).set_result(Answer())

    async def plan(self, plan: TrialPlan) -> None:
        """Trials will come."""
        self._plan, self._part = plan, ray.put(plan.part)
        self._crew.open()

    async def begin(self, slot: int, refinement: dict[str, Any] | None) -> None:
        """A trial begins: workers may make its batches from now on."""
        if slot in self._trials:
            return
        assert self._plan is not None, "trials begin after their plan is known"
        trial = self._trials[slot] = _Trial(refinement)
        units = []
        for block, numbers in enumerate(self._plan.blocks):
            for batch, first in enumerate(range(0, len(numbers), self._plan.batch_size)):
                chunk = list(numbers[first : first + self._plan.batch_size])
                units.append(Unit(slot, block, batch, ("evaluate", (self._part, refinement, chunk))))
                trial.left[block] += 1
        self._queue.begin(slot, units, self._plan.decides_from)
        self._pump()

    async def block(self, slot: int, refinement: dict[str, Any] | None, block: int) -> dict[str, Any]:
        """A trial's block, once all its batches are done; the trial has come so far.

        Returns:
            What `search.work.trial.StepTrial` reports of it; or `error`, pickled (None if workers died), and
            `reason`.
        """
        await self.begin(slot, refinement)
        trial = self._trials[slot]
        self._queue.awaits(slot, block)
        self._pump()
        while block not in trial.failed and trial.left[block]:
            trial.news.clear()
            await trial.news.wait()
        if block in trial.failed:
            failed = trial.failed[block]
            return {"error": failed.error or None, "reason": DIED}
        again, _ = block in trial.served, trial.served.add(block)
        return self._told(trial, block) | {"slot": slot, "again": again}

    async def drop(self, slot: int) -> None:
        """The trial has ended: what is left of it is not wanted."""
        self._queue.drop(slot)
        trial = self._trials.pop(slot, None)
        if trial is not None:
            for block, values in trial.values.items():
                if block not in trial.served:
                    self._note_in_vain(values)

    async def in_vain(self) -> tuple[float, float]:
        """Denoiser evaluations and seconds of what was computed ahead, or twice, and no trial needed."""
        evaluations, seconds = self._in_vain
        return evaluations, seconds

    async def state(self) -> dict[str, Any]:
        """How many workers there are, by machine, how many start, how many have work, and which."""
        running = Counter(unit.name for unit in self._queue.running())
        return {
            "workers": dict(Counter(hand.name for hand in self._crew.ready)),
            "starting": self._crew.num_starting,
            "busy": sum(hand.busy for hand in self._crew.ready),
            "running": dict(running),
            "loads": self._crew.loads,
        }

    async def close(self) -> None:
        """Let all workers go."""
        self._crew.close()

    def _pump(self) -> None:
        """Work for every worker that is free."""
        now = asyncio.get_running_loop().time()
        while (hand := self._crew.idle()) is not None:
            unit = self._queue.take(now)
            if unit is None:
                return
            hand.busy = True
            self._crew.spawn(self._serve(hand, unit))

    async def _serve(self, hand: Hand, unit: Unit) -> None:
        method, arguments = unit.payload  # pyright: ignore[reportGeneralTypeIssues]
        try:
            answer: Answer = await getattr(hand.actor, method).remote(*arguments)
        except (RayActorError, WorkerCrashedError) as died:
            self._crew.lost(hand)
            answer = Answer(error=b"", trace=str(died))
        except RayError as failed:  # an answer that cannot be read, a full object store
            answer = Answer(error=b"", trace=str(failed))
        hand.busy = False
        if answer.error is None:
            self._done(unit, answer)
        else:
            self._failed(unit, answer)
        self._pump()

    def _done(self, unit: Unit, answer: Answer) -> None:
        wanted = self._queue.done(unit, asyncio.get_running_loop().time())
        if unit in self._answers:
            if wanted:
                self._answers.pop(unit).set_result(answer)
            return
        value = answer.value | {"seconds": answer.seconds}
        trial = self._trials.get(unit.name) if isinstance(unit.name, int) else None
        if trial is None or not wanted:
            self._note_in_vain([value])
            return
        trial.values.setdefault(unit.block, []).append(value)
        trial.left[unit.block] -= 1
        trial.news.set()

    def _failed(self, unit: Unit, answer: Answer) -> None:
        if not self._queue.failed(unit):
            return
        if not answer.mistake and unit.failures <= self._hiring.max_failures:
            self._queue.again(unit)
        elif unit in self._answers:
            self._answers.pop(unit).set_result(answer)
        elif isinstance(unit.name, int) and unit.name in self._trials:
            trial = self._trials[unit.name]
            trial.failed[unit.block] = answer
            trial.news.set()

    def _give_up(self, answer: Answer) -> None:
        """No worker can start: whoever waits is told why."""
        for future in self._answers.values():
            if not future.done():
                future.set_result(answer)
        self._answers.clear()
        for trial in self._trials.values():
            trial.failed.update(dict.fromkeys(trial.left, answer))
            trial.news.set()

    def _told(self, trial: _Trial, block: int) -> dict[str, Any]:
        plan = self._plan
        assert plan is not None
        values = trial.values[block]
        seen = sorted(pair for b in range(block + 1) for value in trial.values.get(b, ()) for pair in value["outcomes"])
        return {
            "block": block,
            "outcomes": sorted(pair for value in values for pair in value["outcomes"]),
            "tiam": _accumulated(seen, plan.sets),
            "num_instances": len(seen),
            "num_total": len(plan.sets),
            "done": block + 1 == len(plan.blocks),
            **{name: sum(value[name] for value in values) for name in SUMMED},
        }

    def _note_in_vain(self, values: Sequence[dict[str, Any]]) -> None:
        self._in_vain[0] += sum(value["evaluations"] for value in values)
        self._in_vain[1] += sum(value["seconds"] for value in values)


SUMMED = ("computed", "evaluations", "evaluations_alone", "failures", "seconds")


def _accumulated(outcomes: Sequence[tuple[int, float]], sets: Sequence[int]) -> float:
    """Mean over sets of the mean outcome; blocks hold prompts whole, so that it is `Part.objective`'s."""
    sums: dict[Hashable, list[float]] = {}
    for number, value in outcomes:
        sums.setdefault(sets[number], []).append(value)
    return sum(sum(each) / len(each) for each in sums.values()) / len(sums)
