"""What a search measures on: instances (a prompt and a seed), in blocks that are the same for every setting."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from keystep.core.prompts import Prompt
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.statistics import prompt_means
from keystep.search.spec.prompt_parts import split_sets
from keystep.search.spec.search_spec import SearchSpec


@dataclass(frozen=True)
class Instance:
    """One image to make: `number` is its place in its part, the same for every setting; the part may be the held-out
    one, which few settings are tried on."""

    number: int
    set_name: str
    prompt: Prompt
    seed: int
    held_out: bool = False


@dataclass(frozen=True)
class Part:
    """The validation or the held-out instances of a search.

    Attributes:
        name: "validation" or "held_out".
        sets: its prompts, set by set.
        seeds: of every prompt's images.
        blocks: its instances, numbered through. A block holds the same number of prompts of every set (the last may
            hold fewer) with all their seeds. Prompts alternate between the sets, so that any beginning of the part
            holds each set's share.
    """

    name: Literal["validation", "held_out"]
    sets: tuple[PromptSet, ...]
    seeds: tuple[int, ...]
    blocks: tuple[tuple[Instance, ...], ...]

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """All instances; the one numbered n is at n."""
        return tuple(instance for block in self.blocks for instance in block)

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        """The set of each row of `outcome_matrix`."""
        return tuple(instance.set_name for instance in self.instances[:: len(self.seeds)])

    def outcome_matrix(self, values: Mapping[int, float]) -> NDArray[np.float64]:
        """(P, S): row p = prompt in block order over all sets, column s = seed; NaN where `values` has no number.

        Args:
            values: instance number to outcome.

        Raises:
            ValueError: a number that no instance has.
        """
        matrix = np.full(len(self.instances), np.nan)
        for number, value in values.items():
            if not 0 <= number < len(matrix):
                raise ValueError(
                    f"the {self.name} part has instances 0..{len(matrix) - 1}, and none is number {number}"
                )
            matrix[number] = value
        return matrix.reshape(-1, len(self.seeds))

    def set_matrices(self, values: Mapping[int, float]) -> dict[str, NDArray[np.float64]]:
        """`outcome_matrix` set by set, with the prompts that have an outcome; (0, S) for a set without any."""
        matrix = self.outcome_matrix(values)
        seen = ~np.isnan(matrix).all(axis=1)
        names = np.array(self.set_names)
        return {prompts.name: matrix[seen & (names == prompts.name)] for prompts in self.sets}

    def objective(self, values: Mapping[int, float]) -> float:
        """Accumulated TIAM: the mean over sets of the mean over prompts of the mean over seeds; higher is better.

        Args:
            values: instance number to outcome; what is missing is left out.

        Raises:
            ValueError: a set without any outcome.
        """
        means = []
        for name, matrix in self.set_matrices(values).items():
            if not len(matrix):
                raise ValueError(f"no outcome of set {name!r} in the {self.name} part yet: no objective")
            means.append(prompt_means(matrix).mean())
        return float(np.mean(means))


def make_parts(spec: SearchSpec) -> tuple[Part, Part]:
    """The validation and the held-out part, the same wherever and whenever they are made.

    They share no prompt, and no combination of nouns within a set: see `keystep.search.spec.prompt_parts.split_sets`.
    The order of the prompts within a set depends on `search.seed` and the prompts alone.

    Raises:
        ValueError: sets that cannot be read or split into parts of these sizes.
    """
    validation, held_out = split_sets(spec.prompts)
    settings = spec.search
    return (
        make_part("validation", validation, spec.prompts.seeds, settings.block_prompts, settings.seed),
        make_part("held_out", held_out, spec.prompts.held_out_seeds, settings.block_prompts, settings.seed),
    )


def make_part(
    name: Literal["validation", "held_out"],
    sets: Sequence[PromptSet],
    seeds: Sequence[int],
    block_prompts: int,
    order_seed: int,
) -> Part:
    """A part of given prompts, `block_prompts` of every set in a block, in an order shuffled by `order_seed`."""
    shuffled = [sorted(prompts, key=lambda prompt: _place(order_seed, prompt)) for prompts in sets]
    blocks: list[tuple[Instance, ...]] = []
    number = 0
    for first in range(0, max(len(prompts) for prompts in sets), block_prompts):
        block: list[Instance] = []
        for row in range(first, first + block_prompts):
            for prompts, ordered in zip(sets, shuffled, strict=True):
                for seed in seeds if row < len(ordered) else ():
                    block.append(Instance(number, prompts.name, ordered[row], seed, name == "held_out"))
                    number += 1
        blocks.append(tuple(block))
    return Part(name, tuple(sets), tuple(seeds), tuple(blocks))


def _place(seed: int, prompt: Prompt) -> bytes:
    return hashlib.sha256(f"{seed}:{prompt.text}".encode()).digest()
