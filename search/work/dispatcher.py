"""The process that hands out the work of a search: one for all its stages, on the driver's node.

The GPUs belong to this pool and not to the placement groups of Ray Tune's trials. A trial that holds a GPU can use but
that one, so its blocks come one after the other, and the GPU idles whenever the trial waits for a decision; drawn from
a pool, the sixteen blocks of a trial run on sixteen GPUs, whatever is free takes what the nearest decision waits for,
and models are loaded once a search and not once a stage. Trials themselves are processes without resources, which
wait. The order of the work is `keystep.search.work.queue`'s; here it meets Ray.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from keystep.search.work.blocks import TrialBlocks, TrialPlan
from keystep.search.work.crew import Crew, Hand, Hiring
from keystep.search.work.queue import Unit, WorkQueue
from keystep.search.work.worker import Answer

DIED = "its worker died"
ENDED = "it has ended"
SPARE_SHARE = 4  # one worker of so many may be at work that nobody waits for


class Dispatcher:
    """An actor of Ray whose calls wait side by side, and may come in another order than they were sent.

    Args:
        hiring: of its workers.
    """

    def __init__(self, hiring: Hiring):
        self._hiring = hiring
        self._queue = WorkQueue()
        self._crew = Crew(hiring, on_ready=self._pump, on_trouble=self._give_up)
        self._answers: dict[Unit, asyncio.Future[Answer]] = {}
        self._trials: dict[int, TrialBlocks] = {}
        self._at_work: dict[Unit, list[Hand]] = {}
        self._plan: TrialPlan | None = None
        self._part: Any = None
        self._hurried: set[str] = set()
        self._forgotten: set[str] = set()
        self._ended: set[int] = set()
        self._in_vain = [0.0, 0.0]
        self._order = itertools.count()

    async def open(self) -> None:
        """Workers start before there is work for them."""
        self._crew.open()

    async def ask(self, name: str, task: bytes, spare: bool = False) -> Answer:
        """The answer to a question; tried again if its worker dies.

        Args:
            name: of the stage that asks.
            task: see `keystep.search.work.worker.Worker.ask`.
            spare: whether workers take it only if they have nothing else to do, until `hurry`.
        """
        self._crew.open()
        if name in self._forgotten:
            return Answer()
        unit = Unit(name, 0, next(self._order), ("ask", (task,)))
        self._answers[unit] = asyncio.get_running_loop().create_future()
        self._queue.add([unit], spare=spare and name not in self._hurried)
        self._pump()
        return await self._answers[unit]

    async def hurry(self, name: str) -> None:
        """What that stage has asked as spare is wanted now."""
        self._hurried.add(name)
        self._queue.hurry(name)
        self._pump()

    async def forget(self, name: str) -> None:
        """What that stage has asked is not wanted: what nobody has begun is answered with nothing.

        What is under way is answered with what it has cost.
        """
        self._forgotten.add(name)
        for unit in self._queue.forget(name):
            self._answer(unit, Answer())
        for unit, hands in self._at_work.items():
            if unit.name == name:
                self._interrupt(hands)

    async def plan(self, plan: TrialPlan) -> None:
        """Trials will come; those of an earlier plan have ended."""
        for slot in list(self._trials):
            await self.drop(slot)
        self._ended.clear()
        self._plan, self._part = plan, ray.put(plan.part)
        self._crew.open()

    async def begin(self, slot: int, refinement: dict[str, Any] | None) -> None:
        """A trial begins: workers may make its batches from now on. One that has ended does not begin again."""
        if slot in self._trials or slot in self._ended:
            return
        assert self._plan is not None, "trials begin after their plan is known"
        trial = self._trials[slot] = TrialBlocks(self._plan)
        self._queue.begin(slot, list(trial.units(slot, self._part, refinement)), self._plan.decides_from)
        self._pump()

    async def block(self, slot: int, refinement: dict[str, Any] | None, block: int) -> dict[str, Any]:
        """A trial's block, once all its batches are done; the trial has come so far.

        Returns:
            What `keystep.search.work.trial.StepTrial` reports of it; or `error`, pickled (None if workers died, or the
            trial has ended), and `reason`.
        """
        await self.begin(slot, refinement)
        trial = self._trials.get(slot)
        if trial is None:
            return {"error": None, "reason": ENDED}
        self._queue.awaits(slot, block)
        self._pump()
        await trial.settled(block)
        if trial.ended:
            return {"error": None, "reason": ENDED}
        if block in trial.failed:
            return {"error": trial.failed[block].error or None, "reason": DIED}
        return trial.told(block) | {"slot": slot}

    async def drop(self, slot: int) -> None:
        """The trial has ended: what is left of it is not wanted."""
        self._ended.add(slot)
        self._queue.drop(slot)
        trial = self._trials.pop(slot, None)
        if trial is not None:
            trial.end()
            for value in trial.unserved:
                self._note_in_vain(value["evaluations"], value["seconds"])
        for unit, hands in self._at_work.items():
            if unit.name == slot:
                self._interrupt(hands)

    async def in_vain(self) -> tuple[float, float]:
        """Denoiser evaluations and seconds of what was computed ahead, or twice, and nobody needed, since last asked.

        A worker tells of what it has left halfway when it has left it, so the last trial's may come with the next call.
        """
        evaluations, seconds = self._in_vain
        self._in_vain = [0.0, 0.0]
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
        self._queue.num_spare = max(1, len(self._crew.ready) // SPARE_SHARE)
        while (hand := self._crew.idle()) is not None:
            unit = self._queue.take(now)
            if unit is None:
                return
            hand.busy = True
            self._crew.spawn(self._serve(hand, unit))

    async def _serve(self, hand: Hand, unit: Unit) -> None:
        method, arguments = unit.payload  # pyright: ignore[reportGeneralTypeIssues]
        self._at_work.setdefault(unit, []).append(hand)
        hand.ticket = next(self._order)
        try:
            answer: Answer = await getattr(hand.actor, method).remote(hand.ticket, *arguments)
        except RayTaskError as failed:  # it lives, and what it was handed or has answered cannot be read
            answer = Answer(error=b"", trace=str(failed))
        except RayError as died:  # its process or its node, killed for memory or out of reach
            self._crew.lost(hand)
            self._crew.doubt()
            answer = Answer(error=b"", trace=str(died))
        hand.busy = False
        self._at_work[unit].remove(hand)
        if not self._at_work[unit]:
            del self._at_work[unit]
        if answer.error is None:
            self._done(unit, answer)
        else:
            self._failed(unit, answer)
        self._pump()

    def _interrupt(self, hands: Sequence[Hand]) -> None:
        """What these workers are at is not wanted any more."""
        for hand in hands:
            hand.actor.interrupt.remote(hand.ticket)

    def _done(self, unit: Unit, answer: Answer) -> None:
        wanted = self._queue.done(unit, asyncio.get_running_loop().time())
        self._interrupt(self._at_work.get(unit, ()))  # another had begun it again
        trial = self._trials.get(unit.name) if isinstance(unit.name, int) else None
        if wanted and trial is not None:
            trial.add(unit.block, answer.value | {"seconds": answer.seconds, "notices": answer.notices})
        else:
            self._answer(unit, answer)

    def _failed(self, unit: Unit, answer: Answer) -> None:
        if not self._queue.failed(unit):
            if unit.over and unit not in self._at_work:  # left halfway, most likely
                self._answer(unit, answer)
            else:
                self._note_in_vain(answer.evaluations, answer.seconds)
        elif not answer.mistake and unit.failures <= self._hiring.max_failures:
            self._queue.again(unit)
        elif isinstance(unit.name, int):
            self._trials[unit.name].fail(unit.block, answer)
        else:
            self._answer(unit, answer)

    def _answer(self, unit: Unit, answer: Answer) -> None:
        """Whoever has asked is told; if nobody waits for it any more, it was in vain."""
        future = self._answers.pop(unit, None)
        if future is None:
            self._note_in_vain(answer.evaluations, answer.seconds)
        elif not future.done():
            future.set_result(answer)

    def _give_up(self, answer: Answer) -> None:
        """No worker can start: whoever waits is told why."""
        for unit in list(self._answers):
            unit.over = True
            self._answer(unit, answer)
        for trial in self._trials.values():
            for block in trial.left:
                trial.fail(block, answer)

    def _note_in_vain(self, evaluations: float, seconds: float) -> None:
        self._in_vain[0] += evaluations
        self._in_vain[1] += seconds
