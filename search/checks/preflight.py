"""What can be found out before a GPU second is spent: every mistake of a user surfaces here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystep.core.config import Refinement
from keystep.evaluation.tiam import check_colors

if TYPE_CHECKING:
    from keystep.search.images.evaluator import Evaluator
    from keystep.search.spec.instances import Instance, Part


@dataclass(frozen=True)
class Preflight:
    """What a worker found when it loaded everything once.

    Attributes:
        timesteps: of the schedule, the noisiest first; their number is the number of steps.
        evaluation_id: hash of all that an outcome depends on beside the setting, the prompt and the seed.
        detector: what reports call it.
    """

    timesteps: tuple[float, ...]
    evaluation_id: str
    detector: str


def inspect(evaluator: "Evaluator", parts: Sequence["Part"], batch_size: int) -> Preflight:
    """Resolve every entity's tokens, ask the detector for every noun and the palette for every colour.

    Raises:
        ValueError: an entity that is not in its prompt or is cut off by the tokenizer's length, a noun that the
            detector has no class for, a colour that the palette lacks.
    """
    prompts = [prompt for part in parts for prompt_set in part.sets for prompt in prompt_set]
    sampler = evaluator.sampler
    batches = [prompts[first : first + batch_size] for first in range(0, len(prompts), batch_size)]
    try:
        evaluator.detector.check_nouns(prompts)
        check_colors(prompts, evaluator.settings.palette)
        for batch in batches:
            sampler.backbone.encode(batch, max_sequence_length=sampler.config.max_sequence_length)
    except ValueError as error:
        raise ValueError(f"prompts.sets: {error}") from None
    return Preflight(
        timesteps=tuple(evaluator.timesteps),
        evaluation_id=evaluator.evaluation_id,
        detector=evaluator.detector.name,
    )


def seconds_per_image(
    evaluator: "Evaluator", settings: Sequence[Refinement | None], instances: Sequence["Instance"]
) -> list[float]:
    """Wall time of an image of each setting, made from noise in one batch as production would, seconds."""
    sampler = evaluator.sampler
    prompts = [instance.prompt for instance in instances]
    conditioning = sampler.backbone.encode(prompts, max_sequence_length=sampler.config.max_sequence_length)
    start = sampler.start([instance.seed for instance in instances])

    def draw(setting: Refinement | None) -> None:
        sampler.decode(sampler.advance(start, conditioning, refinement=setting).point)

    return [_timed(lambda setting=setting: draw(setting)) / len(instances) for setting in settings]


def _timed(call: Callable[[], object]) -> float:
    """Seconds of the second call: the first one warms up."""
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
