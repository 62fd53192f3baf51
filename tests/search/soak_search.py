"""A search of real images, slowed down so that it can be hit anywhere. Run as a script, it is the command line.

Everything is as a user has it, but that what evaluates images sleeps first: `python -m tests.search.soak_search
SPEC OPTIONS` is `keystep search SPEC OPTIONS`.
"""

import inspect
import os
import sys
import time
from collections.abc import Sequence
from functools import partial

from keystep.core.config import Refinement
from keystep.search.cli import main
from keystep.search.images.evaluator import Evaluator
from keystep.search.images.outcomes import Outcome
from keystep.search.spec.instances import Instance
from keystep.search.stages import runner

SECONDS = "KEYSTEP_SOAK_SECONDS"


class Slow(Evaluator):
    """The evaluator of a search, which takes some seconds for what is not known."""

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        known = self.outcomes.read(refinement, {instance.prompt for instance in instances})
        if any((instance.prompt.text, instance.seed) not in known for instance in instances):
            time.sleep(float(os.environ.get(SECONDS, "0")))
        return super().evaluate(refinement, instances)


if __name__ == "__main__":
    slow = {"evaluator": "tests.search.soak_search:Slow"}
    runner.WorkerPool = partial(runner.WorkerPool, **slow)  # type: ignore[misc]
    if "evaluator" in inspect.signature(runner.run_trials).parameters:
        runner.run_trials = partial(runner.run_trials, **slow)
    sys.argv.insert(1, "search")
    main()
