"""One setting's evaluation as Ray Tune runs it: a block of instances a step, made by the pool's workers."""

import pickle
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.tune import Trainable

from keystep.search.runtime.failures import WorkFailed

GONE = "the process that hands out the work died"


class StepTrial(Trainable):
    """Evaluates a setting on the validation part, block after block. Holds no model and no GPU: it waits for the pool.

    Its config:
        pool: the name of the pool's dispatcher, an actor of Ray.
        refinement: the setting as plain values, or None for the model as it is.
        slot: the setting's number in the search.

    Its results, one a block:
        slot, block: numbers, from 0.
        outcomes: pairs of instance number and TIAM (0 or 1), of this block. Of a mapping Ray Tune would keep a
            history number by number, which takes a megabyte a trial of 500 instances.
        tiam: the objective over the blocks so far.
        num_instances, num_total: seen so far, and in the whole part.
        computed: how many outcomes of this block were not known.
        evaluations: denoiser evaluations spent on those.
        evaluations_alone: what the block would have cost from noise.
        failures: how many of its images could not be refined.
        seconds: of the workers, for this block.
        notices: what the workers have to tell the user, such as damage that they met in stored files.
        again: whether the block has been told before, to a process of this trial that died.
        done: whether it was the last.

    A trial whose process died begins anew and is handed at once what is known of it, so that it needs no checkpoint.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Ray Tune once a process, and by `reset_config` for every further setting."""
        self._pool = _dispatcher(config["pool"])
        self._refinement, self._slot = config["refinement"], int(config["slot"])
        self._next = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes up another setting."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the next block.

        Raises:
            WorkFailed: workers died of it again and again, or what hands out the work is gone.
            Exception: what the evaluator raised.
        """
        try:
            told: Any = ray.get(self._pool.block.remote(self._slot, self._refinement, self._next))
        except RayActorError as died:
            raise WorkFailed(GONE) from died
        if "error" in told:
            raise WorkFailed(told["reason"]) if told["error"] is None else pickle.loads(told["error"])
        self._next += 1
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the pool knows."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """From the beginning."""
        self._next = 0


def _dispatcher(name: str) -> Any:
    """The pool's dispatcher; WorkFailed if it is gone."""
    try:
        return ray.get_actor(name)
    except ValueError as unknown:
        raise WorkFailed(GONE) from unknown
