"""A batch of images of a setting, made and judged on a worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import getpid
from typing import Any

from keystep.core.config import Refinement
from keystep.search.images.outcomes import Outcome
from keystep.search.spec.instances import Instance
from keystep.search.work.evaluators import BlockEvaluator


@dataclass(frozen=True)
class BlockDone:
    """A block, or a batch of one, that is finished.

    Attributes:
        refinement: the setting; None is the model as it is.
        outcomes: by instance number.
        computed: numbers of those that were not known before.
        workers: process ids, on the machines of the workers.
    """

    refinement: Refinement | None
    outcomes: dict[int, Outcome]
    computed: frozenset[int]
    workers: frozenset[int]

    @property
    def evaluations(self) -> float:
        """Spent on what was not known."""
        return sum(self.outcomes[number].evaluations for number in self.computed)


def evaluated(evaluator: BlockEvaluator, refinement: Refinement | None, instances: Sequence[Instance]) -> BlockDone:
    """The outcomes of instances under a setting."""
    outcomes = dict(evaluator.evaluate(refinement, instances))
    computed = frozenset(evaluator.computed).intersection(outcomes)
    return BlockDone(refinement, outcomes, computed, frozenset({getpid()}))


def judged(
    evaluator: BlockEvaluator, part: Sequence[Instance], refinement: dict[str, Any] | None, numbers: Sequence[int]
) -> dict[str, Any]:
    """What a trial needs to know of a batch, in plain values.

    Args:
        part: all instances; the one numbered n is at n.
        refinement: the setting as plain values; None is the model as it is.
        numbers: of the batch.

    Returns:
        outcomes: pairs of instance number and TIAM.
        computed: how many of them were not known.
        evaluations: denoiser evaluations spent on those.
        evaluations_alone: what the batch would have cost from noise.
        failures: how many of its images could not be refined.
        pid: of the worker.
    """
    setting = None if refinement is None else Refinement.from_plain(refinement, "refinement")
    done = evaluated(evaluator, setting, [part[number] for number in numbers])
    return {
        "outcomes": [(number, done.outcomes[number].tiam) for number in numbers],
        "computed": len(done.computed),
        "evaluations": done.evaluations,
        "evaluations_alone": sum(outcome.evaluations_alone for outcome in done.outcomes.values()),
        "failures": sum(outcome.failure is not None for outcome in done.outcomes.values()),
        "pid": getpid(),
    }
