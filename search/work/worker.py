"""A worker: a process with a share of a GPU that loads the models of a search once and makes what it is handed."""

import pickle
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import ray
from ray import cloudpickle

from keystep.search.images.notices import damage_noted

Question = Callable[..., Any]
"""A function of a module; a worker calls it with its evaluator, and with arguments."""


@dataclass(frozen=True)
class Answer:
    """What came of a piece of work, in plain values: the process between can hand it on without knowing more.

    Attributes:
        value: what the question returned, pickled; of a trial's batch plain values, as they are; None if it failed.
        error: the exception, pickled; None if all went well.
        interrupted: whether it was left halfway, since nobody wanted it any more.
        mistake: whether it is one that trying again does not change: a ValueError or an OSError.
        trace: the traceback, for --debug.
        notices: what the user has to be told, such as damage that was met in stored files.
        seconds: it took.
        evaluations: of the denoiser, spent on it, whether it was needed or not; 0 if the evaluator does not count them.
    """

    value: Any = None
    error: bytes | None = None
    interrupted: bool = False
    mistake: bool = False
    trace: str = ""
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    evaluations: float = 0.0


class Worker:
    """Runs in a process of its own.

    Args:
        spec: the search, as JSON.
        evaluator: import path, as `keystep.search.work.evaluators.evaluator_for` takes it.
    """

    def __init__(self, spec: str, evaluator: str):
        self._spec, self._evaluator = spec, evaluator
        self._unwanted = -1

    def load(self) -> Answer:
        """Load the models. Here and not in __init__, so that the caller sees the error itself, not just a dead actor.

        Returns:
            The id of its node in Ray, and its machine's name.
        """

        def answer() -> tuple[str, str]:
            evaluator = self._loaded()
            if hasattr(evaluator, "write_behind"):
                evaluator.write_behind()
            return ray.get_runtime_context().get_node_id(), platform.node()

        return self._answered(answer)

    def ask(self, ticket: int, task: bytes) -> Answer:
        """The answer to a pickled pair of question and arguments, pickled."""

        def answer() -> bytes:
            question, arguments = pickle.loads(task)
            return cloudpickle.dumps(question(self._loaded(), *arguments))

        return self._answered(answer, ticket)

    def evaluate(self, ticket: int, part: bytes, refinement: dict[str, Any] | None, numbers: Sequence[int]) -> Answer:
        """A batch of a trial: the instances of these numbers under a setting.

        Args:
            ticket: what `interrupt` calls it.
            part: the trials' instances, pickled.
            refinement: the setting as plain values.

        Returns:
            `keystep.search.work.batches.judged`'s plain values.
        """
        from keystep.search.work.batches import judged

        return self._answered(lambda: judged(self._loaded(), _instances(part), refinement, numbers), ticket)

    @ray.method(concurrency_group="control")
    def here(self) -> None:
        """Nothing: that it answers says that it lives."""

    @ray.method(concurrency_group="control")
    def interrupt(self, ticket: int) -> None:
        """Leave that work, if it is still under way: nobody wants it."""
        self._unwanted = ticket

    def _answered(self, work: Callable[[], Any], ticket: int | None = None) -> Answer:
        began = time.perf_counter()
        interruption = None
        try:
            interruption = getattr(self._loaded(), "interruption", None)
            if interruption is not None:
                interruption.begin(None if ticket is None else lambda: self._unwanted == ticket)
            with damage_noted() as noted:
                answer = Answer(work())
            answer = replace(answer, notices=(*noted, *getattr(self._loaded(), "notices", ())))
        except Exception as error:  # whatever a model, a detector or a user's own code raises is told to the driver
            answer = Answer(
                error=_pickled(error),
                interrupted=ticket is not None and self._unwanted == ticket,
                mistake=isinstance(error, ValueError | OSError),
                trace=traceback.format_exc(),
            )
        spent = 0.0 if interruption is None else interruption.evaluations
        return replace(answer, seconds=time.perf_counter() - began, evaluations=spent)

    def _loaded(self) -> Any:
        from keystep.search.spec.search_spec import SearchSpec
        from keystep.search.work.evaluators import evaluator_for

        return evaluator_for(SearchSpec.model_validate_json(self._spec), self._evaluator)


@lru_cache(maxsize=1)
def _instances(part: bytes) -> Any:
    return pickle.loads(part)


def _pickled(error: Exception) -> bytes:
    """The exception, or one that says the same if its class cannot be pickled."""
    try:
        content = cloudpickle.dumps(error)
        pickle.loads(content)
    except Exception as unpicklable:  # what pickling a stranger's exception class raises is anyone's guess
        del unpicklable
        return cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content
