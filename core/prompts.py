"""Prompts, the entities they ask for, and the tokens that stand for each entity."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from core.mentions import Mention, Span, assign_mentions, find_words


@dataclass(frozen=True)
class Entity:
    """A thing that the picture must show.

    Args:
        noun: one word or several ("traffic light"), in the form that the prompt has.
        attribute: its colour or other adjective, in the form that the prompt has; None if it has none.
    """

    noun: str
    attribute: str | None = None

    def __post_init__(self) -> None:
        if not self.noun.strip():
            raise ValueError("an entity needs a noun, got an empty one")
        if self.attribute is not None and not self.attribute.strip():
            raise ValueError(f"the attribute of entity {self.noun!r} is empty: leave it out or give a word")

    def __str__(self) -> str:
        return self.noun if self.attribute is None else f"{self.attribute} {self.noun}"


@dataclass(frozen=True)
class Prompt:
    """A text and the entities to look after in it.

    Args:
        text: what the model is given.
        entities: in the order that losses see them; may be empty, then there is nothing to refine.
    """

    text: str
    entities: tuple[Entity, ...]

    def __init__(self, text: str, entities: Sequence[Entity] = ()) -> None:
        for entity in entities:
            if not isinstance(entity, Entity):
                raise ValueError(f"entities must be Entity values, got {entity!r}; Entity('cat', 'red') is one")
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "entities", tuple(entities))


@dataclass(frozen=True)
class EntityTokens:
    """Positions of an entity's tokens in the padded row of tokens, special tokens counted.

    Args:
        noun: of the noun, ascending, at least one.
        attribute: of the attribute, ascending, empty if the entity has none.
    """

    noun: tuple[int, ...]
    attribute: tuple[int, ...] = ()


def located_mentions(prompt: Prompt) -> tuple[Mention, ...]:
    """Where the text of a prompt mentions each of its entities, in their order.

    Nouns and attributes are looked for as whole words, whatever their capitals, and as
    written: an entity "cat" is not found in "two cats". `core.mentions.assign_mentions` says who
    gets which mention of a repeated noun, and which attribute belongs to which noun.

    Raises:
        ValueError: an entity that the text does not mention, named with its prompt.
    """
    mentions = assign_mentions([(entity.noun, entity.attribute) for entity in prompt.entities], prompt.text)
    found = []
    for entity, mention in zip(prompt.entities, mentions, strict=True):
        if mention is None:
            raise ValueError(_why_not_mentioned(entity, prompt))
        found.append(mention)
    return tuple(found)


def locate_entities(prompt: Prompt, tokenizer: Any, max_length: int) -> tuple[EntityTokens, ...]:
    """Find the tokens of every entity of a prompt.

    Their words are those of `located_mentions`. Characters become tokens through the tokenizer's own
    offsets, so that words of several tokens, punctuation and special tokens come out right for any
    tokenizer: CLIP starts with a special token, T5 does not.

    Args:
        prompt: encoded as pipelines do: special tokens added, padded and cut off at ``max_length``.
        tokenizer: of transformers, with character offsets ("fast").
        max_length: length of the row, special tokens counted: 77 for CLIP.

    Returns:
        One entry an entity, in the prompt's order.

    Raises:
        ValueError: an entity that the text does not mention, or that the length cuts off (even in
            part), named with its prompt; a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, which entities are located by: load the "
            "fast one, transformers.AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    mentions = located_mentions(prompt)
    row = tokenizer(
        prompt.text, max_length=max_length, padding="max_length", truncation=True, return_offsets_mapping=True
    )
    whole = tokenizer(prompt.text, truncation=False, return_offsets_mapping=True, verbose=False)
    located = []
    for entity, mention in zip(prompt.entities, mentions, strict=True):
        spans = [span for span in mention if span is not None]
        tokens = [_covering(span, row, tokenizer) for span in spans]
        whole_tokens = [_covering(span, whole, tokenizer) for span in spans]
        if not all(whole_tokens):
            raise ValueError(
                f"entity {str(entity)!r} has no token: {type(tokenizer).__name__} drops it from the prompt "
                f"{prompt.text!r}"
            )
        if [len(found) for found in tokens] != [len(found) for found in whole_tokens]:
            raise ValueError(
                f"entity {str(entity)!r} is cut off: the prompt has {len(whole['input_ids'])} tokens and "
                f"{max_length} are read. Shorten the prompt, or name the entity earlier: {prompt.text!r}"
            )
        located.append(EntityTokens(*tokens))
    return tuple(located)


def _covering(span: Span, encoding: Any, tokenizer: Any) -> tuple[int, ...]:
    """Positions of the tokens that share a character with the span."""
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    return tuple(
        position
        for position, ((start, end), piece) in enumerate(zip(encoding["offset_mapping"], pieces, strict=True))
        # A lone word-start mark of sentencepiece borrows the offsets of the letter after it.
        if max(start, span.start) < min(end, span.end) and piece.strip("▁")
    )


def _why_not_mentioned(entity: Entity, prompt: Prompt) -> str:
    mentions = find_words(entity.noun, prompt.text)
    same = sum(other.noun.casefold() == entity.noun.casefold() for other in prompt.entities)
    if not mentions:
        found = next((form for form in (entity.noun + "s", entity.noun + "es") if find_words(form, prompt.text)), None)
        if found is None:
            found = next(iter(get_close_matches(entity.noun, re.findall(r"[\w-]+", prompt.text), n=1)), None)
        hint = f" (it has {found!r}: name the entity that)" if found else ""
        reason = f"the prompt does not have the whole word {entity.noun!r}{hint}"
    elif len(mentions) < same:
        reason = f"{same} entities are named {entity.noun!r}, and the prompt mentions {len(mentions)}"
    elif entity.attribute is not None:
        reason = (
            f"the prompt has no {entity.attribute!r} that belongs to {entity.noun!r} (before it, or after "
            "it, with no other entity between)"
        )
    else:
        reason = f"every {entity.noun!r} in the prompt is part of another entity"
    return f"entity {str(entity)!r} is not in the prompt: {reason}: {prompt.text!r}"
