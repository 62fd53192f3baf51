"""Prompts, the entities they ask for, and the tokens that stand for each entity."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from keystep.core.mentions import Mention, Span, assign_mentions, find_words
from keystep.core.token_places import Places, content_end, token_places


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
        if not isinstance(text, str):
            raise ValueError(f"the text of a prompt is a string, got {text!r}")
        if isinstance(entities, str | Entity):
            raise ValueError(
                f"entities is a list, got {entities!r}: write [Entity('cat', 'red')], or parse_entities('red cat, dog')"
            )
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
    written: an entity "cat" is not found in "two cats". `keystep.core.mentions.assign_mentions` says who
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


def locate_entities(
    prompt: Prompt, tokenizer: Any, max_length: int, row: Sequence[int] | None = None
) -> tuple[EntityTokens, ...]:
    """Find the tokens of every entity of a prompt.

    Their words are those of `located_mentions`. Characters become tokens through the tokenizer's own
    offsets, so that words of several tokens, punctuation and special tokens come out right for any
    tokenizer: CLIP starts with a special token, T5 does not.

    Args:
        prompt: encoded as pipelines do: special tokens added, padded and cut off at ``max_length``.
        tokenizer: of transformers, with character offsets ("fast").
        max_length: length of the row, special tokens counted: 77 for CLIP.
        row: the tokens that were encoded, where the pipeline does something to the text first (it expands textual
            inversions, adds a prefix, cleans): positions are in it. None is the row of the text as it is.

    Returns:
        One entry an entity, in the prompt's order.

    Raises:
        ValueError: an entity that the text does not mention, or that the length cuts off (even in
            part), named with its prompt; a tokenizer without offsets; a row of quite another text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, which entities are located by: load the "
            "fast one, transformers.AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    if not prompt.entities:
        return ()
    own = {"max_length": max_length, "padding": "max_length", "truncation": True}
    given: Sequence[int] = tokenizer(prompt.text, **own)["input_ids"] if row is None else row
    encoded = _as_encoded(prompt, tokenizer, given)
    prompt, whole = encoded.prompt, encoded.whole
    located = []
    for entity, mention in zip(prompt.entities, located_mentions(prompt), strict=True):
        tokens = [_covering(span, whole, tokenizer) for span in mention if span is not None]
        if not all(tokens):
            raise ValueError(
                f"entity {str(entity)!r} has no token: {type(tokenizer).__name__} drops it from the prompt "
                f"{prompt.text!r}"
            )
        places = [[encoded.places[token] for token in found] for found in tokens]
        if not all(place for found in places for place in found):
            raise ValueError(
                f"entity {str(entity)!r} is cut off: the prompt has {len(whole['input_ids'])} tokens and "
                f"{max_length} are read. Shorten the prompt, or name the entity earlier: {prompt.text!r}"
            )
        located.append(EntityTokens(*(tuple(column for place in found for column in place) for found in places)))
    return tuple(located)


@dataclass(frozen=True)
class _Encoded:
    """A prompt as its row of tokens tells it.

    Args:
        prompt: with the text that was encoded; as given, if the row holds it.
        whole: the tokenizer's encoding of that text, special tokens included, nothing cut off.
        places: columns of the row, by position in ``whole``; none for special tokens and what was cut off.
    """

    prompt: Prompt
    whole: Any
    places: dict[int, Places]


def _as_encoded(prompt: Prompt, tokenizer: Any, row: Sequence[int]) -> _Encoded:
    found = _placed(prompt, tokenizer, row)
    if found is None:
        # The words themselves were changed, by cleaning for example: the tokens tell to what.
        text = tokenizer.decode(row[: content_end(row, tokenizer)], skip_special_tokens=True)
        found = _placed(Prompt(text, prompt.entities), tokenizer, row)
        if found is None:
            raise ValueError(
                f"the pipeline encodes {text!r} for the prompt {prompt.text!r}, and its words cannot be told from the "
                "tokens: write the prompt as the pipeline encodes it"
            )
    return found


def _placed(prompt: Prompt, tokenizer: Any, row: Sequence[int]) -> _Encoded | None:
    whole = tokenizer(
        prompt.text, truncation=False, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    content = [position for position, is_special in enumerate(whole["special_tokens_mask"]) if not is_special]
    first = next(iter(content), 0)
    places = token_places([whole["input_ids"][position] for position in content], row, first, tokenizer)
    return None if places is None else _Encoded(prompt, whole, dict(zip(content, places, strict=True)))


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
