"""One setting's evaluation as Ray Tune runs it: a block of instances a step, on a worker that keeps its models."""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from core.config import Refinement
from search.images.evaluator import DEFAULT_EVALUATOR, evaluator_for, notices_of
from search.instances import Part, make_parts
from search.spec import SearchSpec

CHECKPOINT = "progress.json"


class StepTrial(Trainable):
    """Evaluates a setting on the validation part, block after block.

    Its config:
        spec: the search, as plain values (`spec.model_dump(mode="json")`) or as their JSON text.
        refinement: the setting as plain values, or None for the model as it is.
        slot: the setting's number in the search.
        evaluator: import path (`module:class`) of what is called with the spec and evaluates blocks; by default
            `search.images.evaluator.Evaluator`.

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
        seconds: of this block.
        notices: what the worker has to tell the user, such as damage that it met in stored files.
        done: whether it was the last.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Ray Tune once a worker, and by `reset_config` for every further setting.

        Raises:
            ValueError: a spec, a setting or a model that cannot be used.
        """
        text = config["spec"] if isinstance(config["spec"], str) else json.dumps(config["spec"], sort_keys=True)
        plain = config["refinement"]
        self._refinement = None if plain is None else Refinement.from_plain(plain, "refinement")
        self._slot = int(config["slot"])
        spec, self._part = _search(text)
        self._evaluator = evaluator_for(spec, config.get("evaluator") or DEFAULT_EVALUATOR)
        self._values: dict[int, float] = {}
        self._next = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes up another setting with the models that are loaded."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluates the next block."""
        began = time.perf_counter()
        block, instances = self._next, self._part.blocks[self._next]
        outcomes = self._evaluator.evaluate(self._refinement, instances)
        computed = [outcome for number, outcome in outcomes.items() if number in self._evaluator.computed]
        values = {instance.number: outcomes[instance.number].tiam for instance in instances}
        self._values |= values
        self._next = block + 1
        return {
            "slot": self._slot,
            "block": block,
            "outcomes": list(values.items()),
            "tiam": self._part.objective(self._values),
            "num_instances": len(self._values),
            "num_total": len(self._part.instances),
            "computed": len(computed),
            "evaluations": sum(outcome.evaluations for outcome in computed),
            "evaluations_alone": sum(outcome.evaluations_alone for outcome in outcomes.values()),
            "failures": sum(outcome.failure is not None for outcome in outcomes.values()),
            "seconds": time.perf_counter() - began,
            "notices": list(notices_of(self._evaluator)),
            "done": self._next == len(self._part.blocks),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Which block is next, and the outcomes so far."""
        progress = {"next": self._next, "values": {str(number): value for number, value in self._values.items()}}
        Path(checkpoint_dir, CHECKPOINT).write_text(json.dumps(progress), encoding="utf-8")

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Goes on where `save_checkpoint` was."""
        assert isinstance(checkpoint, str), "save_checkpoint writes to a folder"
        progress: Mapping[str, Any] = json.loads(Path(checkpoint, CHECKPOINT).read_text(encoding="utf-8"))
        self._next = progress["next"]
        self._values = {int(number): value for number, value in progress["values"].items()}


@lru_cache(maxsize=1)
def _search(text: str) -> tuple[SearchSpec, Part]:
    spec = SearchSpec.from_plain(json.loads(text), "the trial's spec")
    return spec, make_parts(spec)[0]
