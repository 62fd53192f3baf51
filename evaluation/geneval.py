"""GenEval's `evaluation_metadata.jsonl` (Ghosh et al., arXiv 2310.11513): the rows on objects and colours."""

from collections.abc import Mapping

from keystep.core.prompts import Entity, Prompt

# GenEval's name of a COCO class that is no alias everywhere: where detectors know animals, a mouse is one.
_COCO_NOUNS = {"computer mouse": "mouse"}


def is_geneval(row: Mapping[str, object]) -> bool:
    """Whether a JSON row has GenEval's layout."""
    return "include" in row and "entities" not in row


def prompt_from_geneval(row: Mapping[str, object]) -> Prompt | None:
    """The prompt of a row {"include": [{"class", "count", "color"?, "position"?}], "exclude"?, "prompt"}.

    None for a row that asks for a number (`count` other than 1, `exclude`) or a position: TIAM sees whether
    objects and colours are there, and a set that mixed in other questions would be scored as if it had not
    asked them. ValueError for a row of another shape.
    """
    include, text = row["include"], row.get("prompt")
    if not isinstance(text, str) or not isinstance(include, list) or not include:
        raise ValueError("a GenEval row needs 'prompt' (text) and 'include' (a list of objects)")
    entities = []
    for wanted in include:
        if not isinstance(wanted, dict) or not isinstance(wanted.get("class"), str):
            raise ValueError(f"each object in 'include' needs 'class' (text), got {wanted!r:.200}")
        if not isinstance(wanted.get("color"), str | None):
            raise ValueError(f"'color' in 'include' must be text, got {wanted['color']!r:.200}")
        if wanted.get("count", 1) != 1 or wanted.get("position") is not None:
            return None
        noun: str = wanted["class"].strip()
        entities.append(Entity(_COCO_NOUNS.get(noun, noun), wanted.get("color")))
    return None if row.get("exclude") else Prompt(text.strip(), tuple(entities))


def geneval_row(prompt: Prompt) -> dict[str, object]:
    """The row for a prompt; `tag` as GenEval names the question, `three_object` and so on for more."""
    count, colored = len(prompt.entities), any(entity.attribute for entity in prompt.entities)
    words = {1: "single", 2: "two", 3: "three", 4: "four"}
    tag = ("colors" if count == 1 else "color_attr") if colored else f"{words.get(count, count)}_object"
    include = [
        {"class": entity.noun, "count": 1} | ({"color": entity.attribute} if entity.attribute else {})
        for entity in prompt.entities
    ]
    return {"tag": tag, "include": include, "prompt": prompt.text}
