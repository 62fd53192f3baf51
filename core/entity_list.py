"""Entities as people list them: "red circle, a blue star and traffic light"."""

import re

from keystep.core.prompts import Entity

_SHADES = "light dark pale bright deep vivid"
_COLORS = (
    "red green blue purple pink yellow orange brown black white grey gray cyan magenta turquoise teal violet "
    "indigo beige gold golden silver maroon crimson scarlet lime olive navy tan bronze"
)
_ADJECTIVES = (
    "big large huge small tiny little tall short long round square wooden metal metallic plastic glass "
    "stone leather old new young striped spotted shiny fluffy furry transparent rusty broken wet "
    "happy sad dark bright"
)
SHADES = frozenset(_SHADES.split())
"""What `parse_entities` takes for an attribute in front of a colour."""
COLORS = frozenset(_COLORS.split())
"""What it takes for a colour."""
ADJECTIVES = frozenset(_ADJECTIVES.split())
"""What else it takes for an attribute."""
_THINGS = frozenset(("orange", "lime", "olive", "violet", "gold", "silver", "bronze", "teal"))  # and colours
_COLOR = "|".join(sorted(COLORS - _THINGS))
_TWO_COLORS = re.compile(
    rf"((?:^|[,;]|\band\b)\s*(?:(?:an?|the)\s+)?)((?:{_COLOR})\s+and\s+(?:{_COLOR}))(?=\s+(?!and\b)\w)", re.IGNORECASE
)
_SEPARATOR = re.compile(r"[,;\uff0c\uff1b\u3001]\s*and\s|[,;\uff0c\uff1b\u3001]|\sand\s", re.IGNORECASE)
_QUOTED = re.compile('["\u201c]([^"\u201c\u201d]*)["\u201d]')


def parse_entities(text: str) -> tuple[Entity, ...]:
    """Read entities from a list such as ``"red circle, a blue star and traffic light"``.

    Commas, semicolons and "and" separate; articles are dropped. A first word that is a colour (with its
    shade: "dark red"), two colours ("black and white") or a common adjective is the attribute, all the rest is
    the noun. A lone word is a noun, so "orange" is the fruit and "orange orange" an orange one. For any other
    attribute put it, or the noun, into double quotes: ``'"orange and white" cat, very old "stop sign"'``. One
    whole entity in quotes is not separated: ``'"black and white cat", dog'``.

    Raises:
        ValueError: no entity in the text, or none between two separators; a quote that is not closed.
    """
    quoted: list[str] = []

    def set_aside(words: str) -> str:
        quoted.append(" ".join(words.split()))
        return f" \0{len(quoted) - 1} "

    plain = _QUOTED.sub(lambda match: set_aside(match[1]), text.replace("\0", " "))
    if re.search('["\u201c\u201d]', plain):
        raise ValueError(f"a quote is not closed in the entities {text!r}")
    plain = _TWO_COLORS.sub(lambda match: match[1] + set_aside(match[2]), plain)
    parts = [re.sub(r"^(an?|the)\s+", "", part.strip(), flags=re.IGNORECASE) for part in _SEPARATOR.split(plain)]
    if not all(parts) or not all(quoted):
        raise ValueError(f"expected entities such as 'red circle, blue star', got {text!r}")
    return tuple(_parse_entity(part.split(), quoted, text) for part in parts)


def _parse_entity(words: list[str], quoted: list[str], text: str) -> Entity:
    """One entity from its words, of which "\\0" and a number stands for words in quotes."""
    groups = [quoted[int(word[1:])] if word.startswith("\0") else None for word in words]
    named = [place for place, group in enumerate(groups) if group is not None]
    if not named:
        return _split_entity(words)
    if len(words) == 1:
        return _split_entity(quoted[int(words[0][1:])].split())
    said = [group or word for group, word in zip(groups, words, strict=True)]
    if named == [0] or named == [0, 1] == list(range(len(words))):
        return Entity(" ".join(said[1:]), said[0])
    if named == [len(words) - 1]:
        return Entity(said[-1], " ".join(said[:-1]))
    raise ValueError(
        f"cannot tell attribute and noun in the entities {text!r}: quote the first words or the last, as in "
        "'\"black and white\" cat'"
    )


def _split_entity(words: list[str]) -> Entity:
    lower = [word.lower() for word in words]
    if len(words) > 3 and lower[1] == "and" and {lower[0], lower[2]} <= COLORS:
        split = 3
    elif len(words) > 2 and lower[0] in SHADES and lower[1] in COLORS:
        split = 2
    elif len(words) > 1 and lower[0] in COLORS | ADJECTIVES:
        split = 1
    else:
        split = 0
    return Entity(" ".join(words[split:]), " ".join(words[:split]) or None)
