"""The workers of a search, from the driver's side: they make what all of its stages ask for."""

import contextlib
import pickle
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from keystep.core.config import Refinement
from keystep.search.images.outcomes import Outcome, setting_id
from keystep.search.runtime.failures import WorkFailed, in_a_line
from keystep.search.spec.instances import Instance, Part
from keystep.search.spec.search_spec import ResourcesSpec, SearchSpec
from keystep.search.work.batches import BlockDone, evaluated
from keystep.search.work.blocks import TrialPlan
from keystep.search.work.crew import Hiring
from keystep.search.work.dispatcher import Dispatcher
from keystep.search.work.evaluators import DEFAULT_EVALUATOR
from keystep.search.work.worker import Answer

Result = TypeVar("Result")
Block = tuple[Refinement | None, Sequence[Instance]]
Question = Callable[..., Result]
"""A function of a module; a worker calls it with its evaluator, and with arguments."""

CALLS = 1_000_000  # that may wait in the dispatcher at a time
ANSWER_SECONDS = 5.0  # that a dispatcher has for an answer it knows
STATE_SECONDS = 1.0  # between two looks at what the workers do


class WorkerTrace(Exception):
    """The traceback of a worker, which --debug shows."""


@dataclass(frozen=True)
class Asked:
    """Questions under way: the reference of each answer, and the task's number."""

    name: str
    references: dict[Any, int]


class WorkerPool:
    """Workers that hold the models of a spec; a Ray runtime must be up.

    Workers start with the first work, as many as there is room for, and stay until the pool is closed (`with` does it).
    After an error or an interruption they are gone, and the pool can be used again.

    Args:
        spec: the search.
        workers: how many at most; None is `resources.workers`, or as many as fit, now and on nodes that come later.
        evaluator: import path, as `keystep.search.work.evaluators.evaluator_for` takes it.

    Attributes:
        on_notices: told what workers have to tell the user, such as damage that they met in stored files.
        on_state: told now and then what the workers do, as `keystep.search.work.dispatcher.Dispatcher.state` says it.

    Raises:
        ValueError: not one worker fits; says what there is.
    """

    def __init__(self, spec: SearchSpec, workers: int | None = None, evaluator: str = DEFAULT_EVALUATOR):
        workers_that_fit(spec.resources)
        resources = spec.resources
        self._spec = spec
        self._hiring = Hiring(
            spec.model_dump_json(),
            evaluator,
            resources.cpus,
            resources.gpus,
            workers or resources.workers,
            resources.max_failures,
        )
        self._dispatcher: Any = None
        self._state: Any = None
        self.on_notices: Callable[[Iterable[str]], None] = lambda notices: None
        self.on_state: Callable[[Mapping[str, Any]], None] = lambda state: None
        self.name = ""

    def open(self) -> None:
        """Have the workers start."""
        self._actor().open.remote()

    def run(
        self, blocks: Sequence[Block], on_block: Callable[[BlockDone], None] | None = None
    ) -> dict[str, dict[int, Outcome]]:
        """The outcomes of all blocks, a batch at a time by whichever worker is free.

        A batch whose worker died, or that failed, is tried again, `resources.max_failures` times at most.

        Args:
            blocks: settings, each with instances of one part. A setting may come with several blocks.
            on_block: told of every finished block, in this thread.

        Returns:
            By `setting_id`, by instance number.

        Raises:
            ValueError, OSError: what an evaluator says of its spec, prompts or storage.
            WorkFailed: a batch that cannot be done.
        """
        return self.outcomes(blocks, self.start(blocks), on_block)

    def start(self, blocks: Sequence[Block], *, spare: bool = False) -> Asked:
        """Ask for blocks whose outcomes `outcomes` awaits.

        Args:
            spare: they are made only where workers have nothing else to do, until they are awaited.
        """
        return self._ask(evaluated, [batch for _, batch in self._batches(blocks)], spare)

    def outcomes(
        self, blocks: Sequence[Block], asked: Asked, on_block: Callable[[BlockDone], None] | None = None
    ) -> dict[str, dict[int, Outcome]]:
        """What `run` returns, of blocks that `start` has asked for."""
        results: dict[str, dict[int, Outcome]] = {setting_id(refinement): {} for refinement, _ in blocks}
        owners = [block for block, _ in self._batches(blocks)]
        left = [owners.count(block) for block in range(len(blocks))]
        found: list[list[BlockDone]] = [[] for _ in blocks]

        def keep(number: int, done: BlockDone) -> None:
            block = owners[number]
            results[setting_id(done.refinement)] |= done.outcomes
            found[block].append(done)
            left[block] -= 1
            if not left[block] and on_block is not None:
                on_block(_joined(found[block]))

        self._guarded(lambda: self._await(asked, keep))
        return results

    def map(
        self,
        question: Question[Result],
        tasks: Sequence[tuple[Any, ...]],
        on_answer: Callable[[Result], None] = lambda answer: None,
    ) -> list[Result]:
        """What `question(evaluator, *task)` returns for every task, in their order; tried again as batches are.

        Args:
            on_answer: told of every answer when it comes, in this thread.

        Raises:
            ValueError, OSError: what the evaluator or the question says.
            WorkFailed: a task that cannot be done.
        """
        asked = self._ask(question, tasks)
        return self._guarded(lambda: self._await(asked, lambda _, answer: on_answer(answer)))

    def ask(self, question: Question[Result], *arguments: Any) -> Result:
        """The answer of one worker: `map` of a single task."""
        return self.map(question, [arguments])[0]

    def plan_trials(self, part: Part, decides_from: int) -> None:
        """Trials of `keystep.search.work.trial` will draw on this pool, under the name that it has from now on.

        Args:
            part: what they are judged on.
            decides_from: the first block after which one may be stopped; later ones are made ahead only where workers
                would have nothing to do.
        """
        names = [prompts.name for prompts in part.sets]
        plan = TrialPlan(
            part=cloudpickle.dumps(part.instances),
            blocks=[[instance.number for instance in block] for block in part.blocks],
            sets=[names.index(instance.set_name) for instance in part.instances],
            batch_size=self._spec.resources.batch_size,
            decides_from=decides_from,
        )
        ray.get(self._actor().plan.remote(plan))

    def begin(self, slot: int, refinement: Refinement) -> None:
        """A trial has its setting: its batches may be made before its process is there."""
        self._actor().begin.remote(slot, refinement.model_dump(mode="json"))

    def drop(self, slot: int) -> None:
        """A trial has ended."""
        if self._dispatcher is not None:
            self._dispatcher.drop.remote(slot)

    def in_vain(self) -> tuple[float, float]:
        """Denoiser evaluations and workers' seconds of what nobody needed in the end, since the last such call.

        Nothing if no worker is left.
        """
        if self._dispatcher is None:
            return 0.0, 0.0
        try:
            return ray.get(self._dispatcher.in_vain.remote(), timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError):
            return 0.0, 0.0

    def hurry(self, asked: Asked) -> None:
        """What has been asked as spare is wanted now."""
        if self._dispatcher is not None:
            self._dispatcher.hurry.remote(asked.name)

    def forget(self, asked: Asked) -> None:
        """What has been asked is not wanted any more."""
        if self._dispatcher is not None:
            self._dispatcher.forget.remote(asked.name)

    def abandon(self, asked: Asked) -> tuple[float, float]:
        """`forget`; denoiser evaluations and workers' seconds that it has cost, once no worker is at it."""
        self.forget(asked)
        answers: list[Answer] = self._guarded(lambda: ray.get(list(asked.references)))
        return sum(answer.evaluations for answer in answers), sum(answer.seconds for answer in answers)

    def look(self) -> None:
        """Tell `on_state` what the workers do, if that is known by now."""
        if self._dispatcher is None:
            return
        if self._state is None:
            self._state = self._dispatcher.state.remote()
        elif ray.wait([self._state], timeout=0)[0]:
            asked, self._state = self._state, None
            with contextlib.suppress(RayActorError):  # whoever waits for work is told
                state: Any = ray.get(asked)
                self.on_state(state)

    def close(self) -> None:
        """Ends the workers."""
        dispatcher, self._dispatcher, self._state = self._dispatcher, None, None
        if dispatcher is None or not ray.is_initialized():
            return
        with contextlib.suppress(RayActorError, GetTimeoutError):  # it is gone, or will be in a moment
            ray.get(dispatcher.close.remote(), timeout=ANSWER_SECONDS)
        ray.kill(dispatcher)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _actor(self) -> Any:
        if self._dispatcher is None:
            self.name = f"keystep-pool-{uuid.uuid4().hex[:12]}"
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            options = {"num_cpus": 0, "max_concurrency": CALLS, "name": self.name, "scheduling_strategy": here}
            self._dispatcher = ray.remote(Dispatcher).options(**options).remote(self._hiring)
        return self._dispatcher

    def _batches(self, blocks: Sequence[Block]) -> list[tuple[int, tuple[Refinement | None, Sequence[Instance]]]]:
        """(number of the block, setting and instances of a batch), in order."""
        size = self._spec.resources.batch_size
        return [
            (number, (refinement, instances[first : first + size]))
            for number, (refinement, instances) in enumerate(blocks)
            for first in range(0, len(instances), size)
        ]

    def _ask(self, question: Question[Any], tasks: Sequence[tuple[Any, ...]], spare: bool = False) -> Asked:
        name, actor = uuid.uuid4().hex, self._actor()
        pickled = [cloudpickle.dumps((question, task)) for task in tasks]
        return Asked(name, {actor.ask.remote(name, task, spare): number for number, task in enumerate(pickled)})

    def _await(self, asked: Asked, on_answer: Callable[[int, Any], None]) -> list[Any]:
        self.hurry(asked)
        answers: dict[int, Any] = {}
        waiting = dict(asked.references)
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            if not ready:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=STATE_SECONDS)
            for reference in ready:
                number = waiting.pop(reference)
                answers[number] = self._value(ray.get(reference))
                on_answer(number, answers[number])
            self.look()
        return [answers[number] for number in range(len(answers))]

    def _value(self, answer: Answer) -> Any:
        """What a worker has answered.

        Raises:
            ValueError, OSError: what it says.
            WorkFailed: it could not.
        """
        if answer.error is None:
            self.on_notices(answer.notices)
            return pickle.loads(answer.value)
        error = pickle.loads(answer.error) if answer.error else RuntimeError(answer.trace.strip().splitlines()[-1])
        if answer.mistake:
            raise error from WorkerTrace(answer.trace)
        limit = self._hiring.max_failures
        raise WorkFailed(
            f"a piece of work failed {limit + 1} times (resources.max_failures is {limit}); what was computed is "
            f"stored, the same command goes on from there. The last time:\n  {in_a_line(error)}\n(--debug shows its "
            "traceback)"
        ) from WorkerTrace(answer.trace)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Runs it; after an error or an interruption no worker is left."""
        try:
            return work()
        except RayActorError as died:
            self.close()
            raise WorkFailed(
                f"the process that hands out the work died ({in_a_line(died)}); what was computed is stored, the same "
                "command goes on from there"
            ) from died
        except BaseException:
            self.close()
            raise


def _joined(batches: Sequence[BlockDone]) -> BlockDone:
    outcomes = {number: outcome for done in batches for number, outcome in done.outcomes.items()}
    return BlockDone(
        batches[0].refinement,
        outcomes,
        frozenset().union(*(done.computed for done in batches)),
        frozenset().union(*(done.workers for done in batches)),
    )


def workers_that_fit(resources: ResourcesSpec) -> int:
    """How many workers the Ray runtime has room for, now that nothing else runs in it.

    Raises:
        ValueError: not one; says what there is.
    """
    there = ray.cluster_resources()
    fit = int(there.get("CPU", 0.0) / resources.cpus + 1e-9)
    if resources.gpus:
        fit = min(fit, int(there.get("GPU", 0.0) / resources.gpus + 1e-9))
    if fit < 1:
        raise ValueError(
            f"resources: a worker wants cpus {resources.cpus:g} and gpus {resources.gpus:g}, and Ray has "
            f"{there.get('CPU', 0.0):g} CPUs and {there.get('GPU', 0.0):g} GPUs in all; lower them, or use another "
            "cluster"
        )
    return fit
