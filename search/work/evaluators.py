"""What makes and judges images for a worker: the evaluator, by its import path."""

import pkgutil
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from keystep.search.spec.search_spec import SearchSpec

if TYPE_CHECKING:
    from keystep.core.config import Refinement
    from keystep.search.images.outcomes import Outcome
    from keystep.search.spec.instances import Instance

DEFAULT_EVALUATOR = "keystep.search.images.evaluator:Evaluator"


class BlockEvaluator(Protocol):
    """What workers need of an evaluator, which is made from a spec."""

    computed: Collection[int]
    """Numbers of the instances of the last call that were not known before."""

    def evaluate(self, refinement: "Refinement | None", instances: Sequence["Instance"]) -> Mapping[int, "Outcome"]:
        """The outcome of every instance, by number."""
        ...


def evaluator_for(spec: SearchSpec, path: str = DEFAULT_EVALUATOR) -> BlockEvaluator:
    """The evaluator of a spec. The last one is kept in the process, whatever is reset around it.

    Args:
        spec: the search.
        path: `module:class`, which is called with the spec.
    """
    return _evaluator(spec.model_dump_json(), path)


@lru_cache(maxsize=1)
def _evaluator(spec: str, path: str) -> BlockEvaluator:
    return pkgutil.resolve_name(path)(SearchSpec.model_validate_json(spec))
