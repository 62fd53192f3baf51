"""The workers of a pool: as many as the nodes of the cluster have room for, whenever one comes or goes."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from keystep.search.work.worker import Answer, Worker

LOOK_SECONDS = 1.0  # between two looks at the nodes
MOST_PAUSE = 60.0  # seconds, until a worker that cannot start is tried again while others work


@dataclass(frozen=True)
class Hiring:
    """What a worker gets, and how many there are.

    Attributes:
        spec: the search, as JSON.
        evaluator: import path.
        cpus, gpus: of one worker.
        limit: workers at most; None is as many as there is room for.
        max_failures: how often a start is tried again, while no worker is there.
    """

    spec: str
    evaluator: str
    cpus: float
    gpus: float
    limit: int | None
    max_failures: int


@dataclass(eq=False)
class Hand:
    """A worker.

    Attributes:
        actor: its handle in Ray.
        node: its node's id, once it has its models; before that it is starting.
        name: of its machine.
        busy: whether it has work.
        ticket: of that work.
    """

    actor: Any
    node: str = ""
    name: str = ""
    busy: bool = False
    ticket: int = -1


@dataclass
class Crew:
    """Hires workers, has each load its models once, and lets go those whose node is gone.

    Args:
        hiring: what a worker gets.
        on_ready: called when a worker is free for the first time, and with every look at the nodes.
        on_trouble: called with the answer that says why no worker can start.
    """

    hiring: Hiring
    on_ready: Callable[[], None]
    on_trouble: Callable[[Answer], None]
    loads: int = 0
    _hands: list[Hand] = field(default_factory=list)
    _bad_starts: int = 0
    _pause: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def open(self) -> None:
        """From now on there are as many workers as there is room for."""
        if not self._tasks:
            self.spawn(self._look_after())

    def spawn(self, work: Awaitable[None]) -> None:
        """Run it beside; it is kept from being collected."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # else all would wait for ever
            self.on_trouble(Answer(error=b"", trace="".join(traceback.format_exception(error))))

    def idle(self) -> Hand | None:
        """A worker that has its models and no work; one of those that came first."""
        return next((hand for hand in self._hands if hand.node and not hand.busy), None)

    def lost(self, hand: Hand) -> None:
        """The worker is gone, or as good as gone; another takes its place."""
        if hand in self._hands:
            self._hands.remove(hand)
        ray.kill(hand.actor)  # of one that is only out of reach nothing may be left that holds its GPU

    def doubt(self) -> None:
        """A worker is gone, and others may be with it, as when a node leaves: the idle ones get work once they answer.

        Else one piece of work would go from one dead worker to the next, until it had failed too often.
        """
        for hand in [each for each in self._hands if each.node and not each.busy]:
            hand.busy = True
            self.spawn(self._hear(hand))

    async def _hear(self, hand: Hand) -> None:
        try:
            await hand.actor.here.remote()
        except RayError:
            self.lost(hand)
        hand.busy = False
        self.on_ready()

    def close(self) -> None:
        """Let all go."""
        for hand in self._hands:
            ray.kill(hand.actor)
        self._hands.clear()
        for task in self._tasks:
            task.cancel()

    @property
    def ready(self) -> list[Hand]:
        """Those that have their models."""
        return [hand for hand in self._hands if hand.node]

    @property
    def num_starting(self) -> int:
        """Those that load them."""
        return len(self._hands) - len(self.ready)

    async def _look_after(self) -> None:
        while True:
            nodes = await asyncio.to_thread(_nodes)
            for hand in [each for each in self._hands if each.node and each.node not in nodes and not each.busy]:
                self.lost(hand)  # a busy one tells by itself
            room = sum(_fits(resources, self.hiring) for resources in nodes.values())
            wanted = room if self.hiring.limit is None else min(room, self.hiring.limit)
            self._pause -= LOOK_SECONDS
            for _ in range(wanted - len(self._hands) if self._pause <= 0 else 0):
                self._hire()
            self.on_ready()
            await asyncio.sleep(LOOK_SECONDS)

    def _hire(self) -> None:
        hiring = self.hiring
        options = {
            "num_cpus": hiring.cpus,
            "num_gpus": hiring.gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"control": 1},  # heard while the other thread works
        }
        hand = Hand(ray.remote(**options)(Worker).remote(hiring.spec, hiring.evaluator))
        self._hands.append(hand)
        self.spawn(self._start(hand))

    async def _start(self, hand: Hand) -> None:
        try:
            answer: Answer = await hand.actor.load.remote()
        except RayError as failed:
            answer = Answer(error=b"", trace=str(failed))
        if answer.error is None:
            hand.node, hand.name = answer.value
            self.loads += 1
            self._bad_starts = 0
            self.on_ready()
            return
        self.lost(hand)
        self._bad_starts += 1
        self._pause = min(MOST_PAUSE, 2.0**self._bad_starts) if self.ready else 0.0  # a node that cannot, beside others
        if not self.ready and (answer.mistake or self._bad_starts > self.hiring.max_failures):
            self.on_trouble(answer)


def _nodes() -> dict[str, dict[str, float]]:
    """Resources in all of every node that is alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _fits(resources: dict[str, float], hiring: Hiring) -> int:
    """Workers that a node has room for."""
    fit = int(resources.get("CPU", 0.0) / hiring.cpus + 1e-9)
    return min(fit, int(resources.get("GPU", 0.0) / hiring.gpus + 1e-9)) if hiring.gpus else fit
