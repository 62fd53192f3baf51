"""The prompts of a search: a validation and a held-out part of every set, with no nouns together in both."""

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from keystep.core.prompts import Prompt
from keystep.evaluation.assignments import sample_indices
from keystep.evaluation.prompt_io import load_prompt_set
from keystep.evaluation.prompt_sets import STANDARD_SETS, PromptSet, noun_set, standard_template
from keystep.evaluation.template import Template, read_template
from keystep.search.spec.sections import PromptsSpec

logger = logging.getLogger(__name__)

HASHES = 2**64
DRAWN = 6  # prompts looked at for each one wanted: enough to split, and few of a template's million


def split_sets(prompts: PromptsSpec) -> tuple[tuple[PromptSet, ...], tuple[PromptSet, ...]]:
    """The validation and the held-out part of every set, `prompts.validation` and `prompts.held_out` prompts each.

    As in `PromptSet.split`, the unit is the unordered set of nouns: no combination of nouns that is in a set's
    validation part is in its held-out part. A combination goes to the held-out part if its hash lies below a
    threshold: one for all sets where their sizes allow it, so that "a red star and a blue circle" is not held out of
    one set while "a circle and a star" is in another's validation part; else one a set, with a warning.

    Returns:
        (validation, held_out), in the order of `prompts.sets`; within a set in the order drawn.

    Raises:
        ValueError: a set that cannot be read, is too small to be split so, or shares a prompt or its name with
            another; with the key and what to do.
    """
    # Files can change under us, the standard sets cannot.
    if set(prompts.sets) <= set(STANDARD_SETS):
        return _split_once(prompts.model_dump_json())
    return _split(prompts)


def _split(prompts: PromptsSpec) -> tuple[tuple[PromptSet, ...], tuple[PromptSet, ...]]:
    names = [source if source in STANDARD_SETS else Path(source).stem for source in prompts.sets]
    for place, name in enumerate(names):
        if name in names[:place]:
            other = prompts.sets[names.index(name)]
            raise ValueError(
                f"prompts.sets: {other} and {prompts.sets[place]} are both called {name!r}: rename one of the files"
            )
    wanted = prompts.validation + prompts.held_out
    pools = [_drawn(_population(source), DRAWN * wanted, prompts.sample_seed) for source in prompts.sets]
    limits = [_thresholds(pool, prompts, name) for pool, name in zip(pools, names, strict=True)]
    lowest, highest = max(low for low, _ in limits), min(high for _, high in limits)
    if lowest <= highest:
        limits = [(lowest, highest)] * len(limits)
    else:
        logger.warning(
            "the sizes of the prompt sets %s leave no common split: a combination of nouns that is held out of one "
            "set may be in the validation part of another",
            ", ".join(names),
        )
    share = HASHES * prompts.held_out // wanted
    validation, held_out = [], []
    for name, pool, (low, high) in zip(names, pools, limits, strict=True):
        threshold = min(max(share, low), high)
        is_held_out = [_hash(prompt, prompts.sample_seed) < threshold for prompt in pool]
        parts = ([p for p, out in zip(pool, is_held_out, strict=True) if out is part] for part in (False, True))
        ours, theirs = parts
        validation.append(PromptSet(name, tuple(ours[: prompts.validation])))
        held_out.append(PromptSet(name, tuple(theirs[: prompts.held_out])))
    _check_texts([*validation, *held_out])
    return tuple(validation), tuple(held_out)


@lru_cache(maxsize=16)
def _split_once(prompts: str) -> tuple[tuple[PromptSet, ...], tuple[PromptSet, ...]]:
    return _split(PromptsSpec.model_validate_json(prompts))


def _population(source: str) -> Template | tuple[Prompt, ...]:
    if source in STANDARD_SETS:
        return standard_template(source)
    path = Path(source)
    try:
        if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
            return read_template(path)
        return load_prompt_set(source).prompts
    except ValueError as error:
        raise ValueError(f"prompts.sets: {error}") from error


def _drawn(population: Template | Sequence[Prompt], at_most: int, seed: int) -> list[Prompt]:
    size = len(population)
    return [population[index] for index in sample_indices(size, min(size, at_most), seed)]


def _hash(prompt: Prompt, seed: int) -> int:
    """Of the seed and the nouns, in 0..HASHES-1; ordered as `PromptSet.split` orders them."""
    return int.from_bytes(hashlib.sha256(repr((seed, noun_set(prompt))).encode()).digest()[:8], "big")


def _thresholds(pool: Sequence[Prompt], prompts: PromptsSpec, name: str) -> tuple[int, int]:
    """The least and the greatest threshold that leaves both parts enough prompts of the pool."""
    sizes: dict[int, int] = {}
    for prompt in pool:
        unit = _hash(prompt, prompts.sample_seed)
        sizes[unit] = sizes.get(unit, 0) + 1
    held_out, left, before = 0, 0, -1
    lowest = highest = None
    for unit in sorted(sizes):  # as the threshold, it holds out those before it
        if held_out >= prompts.held_out:
            if lowest is None:
                lowest, left = before + 1, len(pool) - held_out
            if len(pool) - held_out >= prompts.validation:
                highest = unit
        held_out += sizes[unit]
        before = unit
    if lowest is None or highest is None:
        raise ValueError(
            f"prompts.validation and prompts.held_out: {name!r} has {len(pool)} prompts of {len(sizes)} combinations "
            f"of nouns, which the two parts do not share; with {prompts.held_out} held out, {left} are left for "
            f"validation and {prompts.validation} are wanted: lower one of the two, or leave the set out"
        )
    return lowest, highest


def _check_texts(sets: Sequence[PromptSet]) -> None:
    owner: dict[str, str] = {}
    for prompts in sets:
        for prompt in prompts:
            if prompt.text in owner:
                raise ValueError(
                    f"prompts.sets: {prompt.text!r} is in {owner[prompt.text]!r} and in {prompts.name!r}, and would "
                    "count twice: take it out of one"
                )
            owner[prompt.text] = prompts.name
