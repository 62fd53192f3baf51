"""Rows of prompt files, as columns or nested, to prompts and back."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from keystep.core.prompts import Entity, Prompt

COLUMN = re.compile(r"(entity|object|adj)([1-9]\d*)")
INDEX = re.compile(r"unnamed: ?\d+|(prompt[ _]?)?(index|id|idx|no\.?|number)|#")
# A column called so is one of ours, misspelt: to leave it out would score something else than was asked.
LIKE_OURS = re.compile(r"(entit|object|noun|label|class|thing|adj|attr|colou?r)")
EXAMPLE = """    prompt,entity1,adj1,entity2,adj2
    a photo of a red cat and a dog,cat,red,dog,"""


class Row(NamedTuple):
    """A row of a file, its keys as `column_name` spells them, and where it stands: "prompts.csv, line 3"."""

    where: str
    values: Mapping[str, object]


def column_name(name: str) -> str:
    """One spelling of a column: " Entity 1 " and "ENTITY_1" are entity1, "Prompts" is prompt."""
    plain = " ".join(name.split()).casefold()
    joined = re.sub(r"[\s_-]+(?=\d+$)", "", plain)
    return "prompt" if plain == "prompts" else joined if COLUMN.fullmatch(joined) else plain


def names_entities(row: Mapping[str, object]) -> bool:
    """Whether the row has a place for entities, filled or not."""
    return any(name in ("entities", "include") or LIKE_OURS.match(name) for name in row if name != "prompt")


def left_out(name: str) -> bool:
    """Whether a column that is not ours can be left out; ValueError if it looks like one of ours, misspelt."""
    if LIKE_OURS.match(name):
        raise ValueError(
            f"unknown column {name!r}; known are prompt, entity1, entity2, ..., adj1, adj2, ...: rename it, or take "
            "it out of the file"
        )
    return not INDEX.fullmatch(name)


def flat_row(prompt: Prompt) -> dict[str, str]:
    """The prompt as `prompt, entity1, ..., adj1, ...`, without keys for what it has not."""
    row = {"prompt": prompt.text}
    row |= {f"entity{k + 1}": entity.noun for k, entity in enumerate(prompt.entities)}
    return row | {f"adj{k + 1}": entity.attribute for k, entity in enumerate(prompt.entities) if entity.attribute}


def nested_row(prompt: Prompt) -> dict[str, object]:
    """The prompt as {"prompt": ..., "entities": [{"noun": ..., "attribute": ...}, ...]}."""
    entities = [
        {"noun": entity.noun, "attribute": entity.attribute} if entity.attribute else {"noun": entity.noun}
        for entity in prompt.entities
    ]
    return {"prompt": prompt.text, "entities": entities}


def prompt_from_flat(row: Mapping[str, object], others: set[str]) -> Prompt:
    """The inverse of `flat_row`; empty values are none, and names of columns that were left out go to `others`.

    ValueError for a row that is no prompt.
    """
    found: dict[str, dict[int, str]] = {"entity": {}, "adj": {}}
    for column, value in row.items():
        match = COLUMN.fullmatch(column)
        if column != "prompt" and not match:
            if left_out(column):
                others.add(column)
            continue
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{column} must be text, got {value!r:.200}")
        if match and value and value.strip():
            places = found["adj" if match[1] == "adj" else "entity"]
            if int(match[2]) in places:
                raise ValueError(f"entity{match[2]} and object{match[2]} are two names for one column; leave one")
            places[int(match[2])] = value.strip()
    nouns, attributes = found["entity"], found["adj"]
    for place in sorted(attributes.keys() - nouns.keys()):
        raise ValueError(f"adj{place} is {attributes[place]!r}, but there is no entity{place}")
    if sorted(nouns) != list(range(1, len(nouns) + 1)):
        raise ValueError(f"entities must fill entity1, entity2, ... without a gap, got {sorted(nouns)}")
    entities = tuple(Entity(nouns[place], attributes.get(place)) for place in sorted(nouns))
    return Prompt(str(row.get("prompt") or "").strip(), entities)


def prompt_from_nested(row: Mapping[str, object], others: set[str]) -> Prompt:
    """The inverse of `nested_row`; names of keys that were left out go to `others`. ValueError for other rows."""
    entities = row["entities"]
    others |= {name for name in row.keys() - {"prompt", "entities"} if left_out(name)}
    if not isinstance(row.get("prompt"), str) or not isinstance(entities, list):
        raise ValueError('a row is {"prompt": text, "entities": [{"noun": ..., "attribute": ...}, ...]}')
    for entity in entities:
        if not isinstance(entity, dict) or not isinstance(entity.get("noun"), str) or not entity["noun"].strip():
            raise ValueError(f'an entity is {{"noun": text, "attribute": text or null}}, got {entity!r:.200}')
        if entity.keys() - {"noun", "attribute"} or not isinstance(entity.get("attribute"), str | None):
            raise ValueError(f'an entity is {{"noun": text, "attribute": text or null}}, got {entity!r:.200}')
    return Prompt(
        str(row["prompt"]).strip(),
        tuple(Entity(item["noun"], item.get("attribute") or None) for item in entities),
    )
