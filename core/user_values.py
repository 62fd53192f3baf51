"""What users pass where a config, prompts or seeds belong, told apart from what they meant."""

from collections.abc import Iterable, Sequence
from typing import Any

from keystep.core.config import StepConfig
from keystep.core.prompts import Prompt


def as_config(config: Any) -> StepConfig:
    """The config itself.

    Raises:
        ValueError: something else; says how to get one.
    """
    if not isinstance(config, StepConfig):
        raise ValueError(
            f"a StepConfig is needed, got {_shown(config)}: read its file with StepConfig.load('step_config.json')"
        )
    return config


def as_prompts(prompts: Any) -> tuple[Prompt, ...]:
    """One prompt, or several, as a tuple.

    Raises:
        ValueError: text in the place of a prompt, which does not say what has to be in the picture.
    """
    if isinstance(prompts, Prompt):
        return (prompts,)
    several = not isinstance(prompts, str) and isinstance(prompts, Iterable)
    for prompt in prompts if several else [prompts]:
        if not isinstance(prompt, Prompt):
            raise ValueError(
                f"a prompt names the entities that have to be in the picture, and {_shown(prompt)} does not: write "
                "Prompt('a red circle and a cat', [Entity('circle', 'red'), Entity('cat')])"
            )
    return tuple(prompts)


def as_seeds(seeds: Any) -> Sequence[int]:
    """The seeds, a list.

    Raises:
        ValueError: a lone number, or something that is no integer in 0..2**64 - 1.
    """
    if isinstance(seeds, int):
        raise ValueError(f"seeds is a list, one an image, got {seeds}: write seeds=[{seeds}]")
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ValueError(f"seeds is a list of integers, such as [0, 1], got {_shown(seeds)}")
    seeds = list(seeds)
    for seed in seeds:
        if not hasattr(seed, "__index__") or isinstance(seed, bool) or not 0 <= int(seed) < 2**64:
            raise ValueError(f"a seed is an integer in 0..2**64 - 1, got {_shown(seed)}")
    return [int(seed) for seed in seeds]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
