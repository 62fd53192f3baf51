"""Prompt sets: different prompts in a fixed order, with a name and a hash; sampled, split, built in."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from keystep.core.prompts import Prompt
from keystep.evaluation.assignments import sample_indices
from keystep.evaluation.template import Template, parse_template

STANDARD_SETS = (
    "two",
    "two_colored",
    "three",
    "three_colored",
    "shapes_one",
    "shapes_two",
    "shapes_two_colored",
    "shapes_three",
    "shapes_three_colored",
)
STANDARD_SIZE = 300  # prompts a set in TIAM's published benchmark


@dataclass(frozen=True)
class PromptSet:
    """Different prompts in a fixed order. Compare sets by `hash`, which the name does not enter.

    Raises ValueError if there is no prompt, or if a text stands twice (its images could not be told apart).
    """

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise ValueError(f"prompt set {self.name!r} is empty")
        seen: set[str] = set()
        for prompt in self.prompts:
            if prompt.text in seen:
                raise ValueError(f"prompt set {self.name!r} has {prompt.text!r} twice")
            seen.add(prompt.text)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self):
        return iter(self.prompts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the prompts' texts, nouns and attributes, in order; the same on every platform."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            row = [prompt.text, [[entity.noun, entity.attribute] for entity in prompt.entities]]
            digest.update(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
        return digest.hexdigest()

    def sample(self, num_prompts: int, seed: int = 0) -> "PromptSet":
        """`num_prompts` of the prompts, drawn without replacement, in the order drawn.

        A smaller sample with the same seed is the beginning of a larger one. ValueError if there are not so
        many.
        """
        return PromptSet(self.name, _sampled(self.prompts, num_prompts, seed, self.name))

    def split(self, held_out: int | float = 0.5, seed: int = 0) -> tuple["PromptSet", "PromptSet"]:
        """A validation and a held-out part that share no prompt and no combination of nouns.

        The unit is the unordered set of nouns: "a circle and a star", "a star and a circle" and "a red star
        and a blue circle" go to the same part. Whole units, in the order of SHA-256 of (seed, nouns), go to
        the held-out part until it has at least `held_out` prompts (an integer) or that share of them (a
        fraction in (0, 1)). Returns (validation, held-out), both in the order of this set. ValueError if
        either would be empty.
        """
        fraction = isinstance(held_out, float)
        if held_out <= 0 or (fraction and held_out >= 1):
            raise ValueError(f"held_out must be a number of prompts or a fraction between 0 and 1, got {held_out}")
        target = math.ceil(held_out * len(self)) if fraction else int(held_out)
        sizes: dict[tuple[str, ...], int] = {}
        for prompt in self.prompts:
            sizes[noun_set(prompt)] = sizes.get(noun_set(prompt), 0) + 1
        chosen: set[tuple[str, ...]] = set()
        taken = 0
        for nouns in sorted(sizes, key=lambda nouns: hashlib.sha256(repr((seed, nouns)).encode()).digest()):
            if taken >= target:
                break
            chosen.add(nouns)
            taken += sizes[nouns]
        if taken >= len(self):
            raise ValueError(
                f"cannot hold out {target} of the {len(self)} prompts of {self.name!r}: they have "
                f"{len(sizes)} different combinations of nouns, each kept together, and none would be left"
            )
        parts = [
            PromptSet(
                f"{self.name}/{part}",
                tuple(p for p in self.prompts if (noun_set(p) in chosen) == is_held_out),
            )
            for part, is_held_out in (("validation", False), ("held_out", True))
        ]
        return parts[0], parts[1]


def noun_set(prompt: Prompt) -> tuple[str, ...]:
    """The prompt's nouns, lower-cased and sorted: what two prompts share when one gives the other away."""
    return tuple(sorted(entity.noun.lower() for entity in prompt.entities))


def standard_template(name: str) -> Template:
    """The template of a set in STANDARD_SETS.

    The plain names are the sets of TIAM's benchmark (24 COCO nouns, 6 colours; doc/benchmarking.md of TIAMv2;
    the paper's own list, arXiv 2307.05134, has "fire hydrant" for "donut"); `shapes_*` are their twins in the
    embedded shapes world (8 shapes, the same colours). ValueError for other names.
    """
    if name not in STANDARD_SETS:
        raise ValueError(f"no standard prompt set is called {name!r}; there are {', '.join(STANDARD_SETS)}")
    with resources.as_file(resources.files("keystep.evaluation") / "templates") as folder:
        return parse_template(
            (folder / f"{name}.yaml").read_text(encoding="utf-8"),
            folder=folder,
            source=f"standard set {name!r}",
        )


def standard_set(name: str, num_prompts: int | None = None, seed: int = 0) -> PromptSet:
    """A built-in set: `num_prompts` by `seed`; None: 300, as TIAM's benchmark has, or all if there are fewer.

    The published benchmark's own 300 prompts are another sample of the same templates.
    """
    template = standard_template(name)
    if num_prompts is None:
        num_prompts = min(STANDARD_SIZE, len(template))
    return sample_template(template, num_prompts, seed, name)


def sample_template(template: Template, num_prompts: int | None, seed: int, name: str) -> PromptSet:
    """A sample of a template's prompts, made without the others; None: all, in the template's order."""
    if num_prompts is None:
        return PromptSet(name, tuple(template[index] for index in range(len(template))))
    return PromptSet(name, _sampled(template, num_prompts, seed, name))


def _sampled(prompts: Sequence[Prompt] | Template, num_prompts: int, seed: int, name: str) -> tuple[Prompt, ...]:
    if not 1 <= num_prompts <= len(prompts):
        raise ValueError(f"{name!r} has {len(prompts)} prompts; ask for 1 to {len(prompts)}, not {num_prompts}")
    return tuple(prompts[index] for index in sample_indices(len(prompts), num_prompts, seed))


def all_nouns(sets: Iterable[PromptSet]) -> tuple[str, ...]:
    """Every noun of the sets, sorted, each once: what a detector must know."""
    return tuple(sorted({entity.noun for prompts in sets for prompt in prompts for entity in prompt.entities}))
