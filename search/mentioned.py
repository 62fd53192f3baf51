"""Find the entities in a prompt of the usual form, so that they need not be given twice."""

import re

from core.prompts import Entity, Prompt, parse_entities

_BEFORE = re.compile(
    r"^.*?\b(?:photo|photograph|picture|image|painting|drawing|sketch|render|illustration) of\s+", re.I
)
_ITEM = re.compile(r"(?:an?|the)\s+(?:[^\W\d_][\w'-]*\s+){0,3}[^\W\d_][\w'-]*", re.I)
_SEPARATOR = re.compile(r"\s*,\s*and\s+|\s*,\s*|\s+and\s+", re.I)
# Words that tell of a place or an action: what follows "a cat on" is not the cat's name.
_WORDS = (
    "a an the on in at with of to by for from under over near beside next behind above below between inside outside "
    "and or is are that which who while without into onto through"
)
_OTHER = frozenset(_WORDS.split())


def mentioned_entities(text: str) -> Prompt:
    """The prompt with the entities that its text lists: "a photo of a red circle, a star and a traffic light".

    Understood are things with their article, separated by commas and "and", after "photo of", "painting of" and the
    like if there is such a beginning. A thing is at most four words, its attributes as `parse_entities` reads them.

    Raises:
        ValueError: the text has another form.
    """
    body = _BEFORE.sub("", text.strip(), count=1).rstrip(" .!")
    items = _SEPARATOR.split(body)
    if not all(_ITEM.fullmatch(item) and _names_one_thing(item) for item in items):
        raise ValueError(
            f"cannot tell which entities the prompt {text!r} asks for: name them, for instance "
            "--entities 'red circle, blue star'. (They are found in prompts such as 'a photo of a red circle and a "
            "blue star'.)"
        )
    entities: tuple[Entity, ...] = sum((parse_entities(item) for item in items), ())
    return Prompt(text, entities)


def _names_one_thing(item: str) -> bool:
    words = item.lower().split()[1:]
    return not any(word in _OTHER or (len(words) > 1 and word.endswith("ing")) for word in words)
