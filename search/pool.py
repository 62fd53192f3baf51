"""Warm workers for blocks of instances that are all wanted, whatever they show: the baseline and the held-out part."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import getpid
from typing import Any, Self, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from core.config import Refinement
from search.failures import WorkFailed, in_a_line
from search.images.evaluator import DEFAULT_EVALUATOR, BlockEvaluator, evaluator_for, notices_of
from search.images.outcomes import Outcome, setting_id
from search.instances import Instance
from search.spec import ResourcesSpec, SearchSpec

Answer = TypeVar("Answer")
Block = tuple[Refinement | None, Sequence[Instance]]
Question = Callable[..., Answer]
"""A function of a module; a worker calls it with its evaluator, and with arguments."""


@dataclass(frozen=True)
class BlockDone:
    """A block that a worker has finished.

    Attributes:
        refinement: the setting; None is the model as it is.
        outcomes: by instance number.
        computed: numbers of those that were not known before.
        worker: process id, on the machine of the worker.
        notices: what the worker has to tell the user, such as damage that it met in stored files.
    """

    refinement: Refinement | None
    outcomes: dict[int, Outcome]
    computed: frozenset[int]
    worker: int
    notices: tuple[str, ...] = ()

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations spent on what was not known."""
        return sum(self.outcomes[number].evaluations for number in self.computed)


class WorkerPool:
    """Workers that hold the models of a spec; a Ray runtime must be up.

    Workers start when there is work, and stay for the next run until the pool is closed (`with` does it). After an
    error or an interruption they are gone, and the pool can be used again.

    Args:
        spec: the search.
        workers: how many; None is `resources.workers`, or as many as fit.
        evaluator: import path, as `search.images.evaluator.evaluator_for` takes it.

    Raises:
        ValueError: not one worker fits; says what there is.
    """

    def __init__(self, spec: SearchSpec, workers: int | None = None, evaluator: str = DEFAULT_EVALUATOR):
        fit = workers_that_fit(spec.resources)
        self._spec = spec
        self._evaluator = evaluator
        self._size = min(workers or spec.resources.workers or fit, fit)
        self._workers: list[Any] = []

    def run(
        self, blocks: Sequence[Block], on_block: Callable[[BlockDone], None] | None = None
    ) -> dict[str, dict[int, Outcome]]:
        """The outcomes of all blocks, each computed by the first worker that is free.

        A block whose worker died, or that failed, is tried again, `resources.max_failures` times at most.

        Args:
            blocks: settings, each with instances of one part. A setting may come with several blocks.
            on_block: told of every finished block, in this thread.

        Returns:
            By `setting_id`, by instance number.

        Raises:
            ValueError, OSError: what an evaluator says of its spec, prompts or storage.
            WorkFailed: a block that cannot be done.
        """
        results: dict[str, dict[int, Outcome]] = {setting_id(refinement): {} for refinement, _ in blocks}
        told = on_block or (lambda done: None)

        def keep(done: BlockDone) -> None:
            results[setting_id(done.refinement)] |= done.outcomes
            told(done)

        self.map(_evaluated, blocks, keep)
        return results

    def map(
        self,
        question: Question[Answer],
        tasks: Sequence[tuple[Any, ...]],
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> list[Answer]:
        """What `question(evaluator, *task)` returns for every task, in their order; tried again as blocks are.

        Args:
            on_answer: told of every answer when it comes, in this thread.

        Raises:
            ValueError, OSError: what the evaluator or the question says.
            WorkFailed: a task that cannot be done.
        """
        try:
            return self._map(question, tasks, on_answer)
        except BaseException:
            self.close()
            raise

    def ask(self, question: Question[Answer], *arguments: Any) -> Answer:
        """The answer of one worker: `map` of a single task."""
        return self.map(question, [arguments])[0]

    def close(self) -> None:
        """Ends the workers."""
        while self._workers:
            ray.kill(self._workers.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(
        self, question: Question[Answer], tasks: Sequence[tuple[Any, ...]], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        waiting, failures = deque(range(len(tasks))), Counter[int]()
        while len(self._workers) < min(self._size, len(tasks)):
            self._workers.append(self._start())
        idle = list(self._workers)
        running: dict[Any, tuple[Any, int]] = {}
        while waiting or running:
            while waiting and idle:
                worker, index = idle.pop(0), waiting.popleft()
                running[worker.ask.remote(question, tasks[index])] = worker, index
            (reference,), _ = ray.wait(list(running), num_returns=1)
            worker, index = running.pop(reference)
            try:
                answers[index] = ray.get(reference)
            except (RayActorError, WorkerCrashedError) as died:
                self._workers.remove(worker)
                worker = self._start()
                self._workers.append(worker)
                self._count_failure(failures, index, died)
                waiting.appendleft(index)
            except RayTaskError as failed:
                if isinstance(failed.cause, ValueError | OSError):
                    raise failed.cause from None
                self._count_failure(failures, index, failed)
                waiting.append(index)
            else:
                on_answer(answers[index])
            idle.append(worker)
        return [answers[index] for index in range(len(tasks))]

    def _count_failure(self, failures: Counter[int], index: int, problem: Exception) -> None:
        failures[index] += 1
        limit = self._spec.resources.max_failures
        if failures[index] > limit:
            raise WorkFailed(
                f"a piece of work failed {failures[index]} times (resources.max_failures is {limit}); what was "
                "computed is stored, the same command goes on from there. The last time:\n"
                f"  {in_a_line(problem)}\n(--debug shows its traceback)"
            ) from problem

    def _start(self) -> Any:
        resources = self._spec.resources
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": 0}
        return ray.remote(**options)(_Worker).remote(self._spec.model_dump_json(), self._evaluator)


class _Worker:
    """Runs in a process of its own."""

    def __init__(self, spec: str, evaluator: str):
        self._spec = spec
        self._evaluator = evaluator

    def ask(self, question: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        # Reading and loading here and not in __init__ lets the caller see the error itself, not just a dead actor.
        return question(evaluator_for(SearchSpec.model_validate_json(self._spec), self._evaluator), *arguments)


def _evaluated(evaluator: BlockEvaluator, refinement: Refinement | None, instances: Sequence[Instance]) -> BlockDone:
    outcomes = dict(evaluator.evaluate(refinement, instances))
    computed = frozenset(evaluator.computed).intersection(outcomes)
    return BlockDone(refinement, outcomes, computed, getpid(), notices_of(evaluator))


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
