"""Find the entities in a prompt of the usual form, so that they need not be given twice."""

import re

from keystep.core.entity_list import COLORS, parse_entities
from keystep.core.prompts import Entity, Prompt, located_mentions
from keystep.core.shapes.scenes import NOUNS
from keystep.evaluation.coco import COCO_CATEGORY_IDS
from keystep.evaluation.labels import canonical_label

_BEFORE = re.compile(
    r"^.*?\b(?:photo|photograph|picture|image|painting|drawing|sketch|render|illustration) of\s+", re.I
)
_SEPARATOR = re.compile(r"\s*,\s*and\s+|\s*,\s*|\s+(?:and|with)\s+(?=(?:an?|the)\s)", re.I)
_WORD = re.compile("[^\\W\\d_][\\w'\u2019-]*")
_MOST_WORDS = 4
# Words that tell of a place or an action: what follows "a cat on" is not the cat's name.
_WORDS = (
    "a an the on in at with of to by for from under over near beside next behind above below between inside outside "
    "and or is are that which who while without into onto through"
)
_OTHER = frozenset(_WORDS.split())
# Words in -ing are actions ("a man riding"), except these.
_ING_NOUNS = frozenset(
    (
        *("awning", "building", "ceiling", "clothing", "dumpling", "duckling", "earring", "icing", "king", "painting"),
        *("pudding", "railing", "ring", "sapling", "sibling", "sling", "spring", "starling", "string", "swing"),
        *("thing", "wedding", "wing"),
    )
)
KNOWN = frozenset(map(canonical_label, (*COCO_CATEGORY_IDS.values(), *NOUNS)))


def mentioned_entities(text: str, labels: frozenset[str] = KNOWN) -> Prompt:
    """The prompt with the entities that its text lists: "a photo of a red circle, a star and a traffic light".

    Understood are things with their article, separated by commas, "and" and "with", after "photo of", "painting of"
    and the like if there is such a beginning. A thing is at most four words, its attributes as `parse_entities` reads
    them, or two colours ("a black and white cat"). A word in -ing is an action, unless `labels`, which detectors
    know, have it: "a dining table".

    Raises:
        ValueError: the text has another form.
    """
    body = _BEFORE.sub("", text.strip(), count=1).rstrip(" .!")
    entities = [_entity(item.split(), labels) for item in _SEPARATOR.split(body)]
    found = tuple(entity for entity in entities if entity is not None)
    if len(found) < len(entities):
        raise ValueError(
            f"cannot tell which entities the prompt {text!r} asks for: name them, for instance "
            "--entities 'red circle, blue star'. (They are found in prompts such as 'a photo of a red circle and a "
            "blue star'.)"
        )
    prompt = Prompt(text, found)
    located_mentions(prompt)
    return prompt


def _entity(words: list[str], labels: frozenset[str]) -> Entity | None:
    """The thing that an article and up to four words name, if they name one."""
    if len(words) < 2 or words[0].lower() not in ("a", "an", "the"):
        return None
    words, attribute = words[1:], None
    if len(words) > 3 and words[1].lower() == "and" and {words[0].lower(), words[2].lower()} <= COLORS:
        words, attribute = words[3:], " ".join(words[:3])
    if len(words) > _MOST_WORDS or not all(map(_WORD.fullmatch, words)):
        return None
    for place, word in enumerate(words):
        if word.lower() in _OTHER or (len(words) > 1 and _acts(words[place:], labels)):
            return None
    return Entity(" ".join(words), attribute) if attribute else parse_entities(" ".join(words))[0]


def _acts(words: list[str], labels: frozenset[str]) -> bool:
    """Whether the first of these words, which end a thing's name, is an action instead."""
    first = words[0].lower()
    return first.endswith("ing") and first not in _ING_NOUNS and canonical_label(" ".join(words)) not in labels
