"""The order in which trials see the prompts of a part: one of each set, then the next of each."""

import itertools
from collections import Counter

from keystep.search.spec.instances import Part


def prompt_numbers(part: Part) -> list[list[int]]:
    """The instance numbers of each prompt of a part, prompts in block order."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for instance in part.instances:
        numbers.setdefault((instance.set_name, instance.prompt.text), []).append(instance.number)
    return list(numbers.values())


def first_decision(part: Part, min_prompts: int, pruner: str) -> int:
    """The first block after which a trial may be stopped; the last one if the pruner stops none."""
    if pruner == "none":
        return len(part.blocks) - 1
    prompts = (len(block) // len(part.seeds) for block in part.blocks)
    seen = itertools.accumulate(prompts)
    return next((block for block, count in enumerate(seen) if count >= min_prompts), len(part.blocks) - 1)


def rounds_of(part: Part) -> list[list[list[int]]]:
    """`prompt_numbers` in rounds: the first prompt of every set, the second of every set, and so on."""
    rounds: dict[int, list[list[int]]] = {}
    places = Counter[str]()
    for numbers in prompt_numbers(part):
        name = part.instances[numbers[0]].set_name
        rounds.setdefault(places[name], []).append(numbers)
        places[name] += 1
    return list(rounds.values())
