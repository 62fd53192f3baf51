"""Where a text mentions nouns and their attributes, as character spans."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Letters of the scripts that put no blanks between words.
_UNSPACED_LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Han above, Japanese here
)
_UNSPACED = f"[{_UNSPACED_LETTERS}]"
_SPACED = rf"[^\W{_UNSPACED_LETTERS}]"
_APOSTROPHE = "['\u2018\u2019\u02bc\uff07]"
_HYPHEN = "[-\u2010\u2011]"


class Span(NamedTuple):
    """Characters ``start`` up to, not including, ``end``."""

    start: int
    end: int


class Mention(NamedTuple):
    """A noun in the text, and the attribute that goes with it, if one was asked for."""

    noun: Span
    attribute: Span | None


def find_words(words: str, text: str) -> list[Span]:
    """Every place where the text has the words, whole, whatever the capitals and the white space between.

    A part of a longer or hyphenated word does not count: neither "cats" nor "cat-like" mentions "cat". Apostrophes
    and hyphens count as the same whether typed or typographic. In scripts that put no blanks between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) a word is found wherever its letters stand.
    """
    forms = {unicodedata.normalize(form, words) for form in ("NFC", "NFD")}
    choices = "|".join(_whole(form.split()) for form in sorted(forms) if form.strip())
    if not choices:
        return []
    matches = re.finditer(choices, text, re.IGNORECASE)
    return [Span(*match.span()) for match in matches if not _goes_on(text, match.end())]


def _whole(words: Sequence[str]) -> str:
    """The pattern of the words with nothing before or after that would make them a part of a longer one."""
    pattern = r"\s+".join("".join(map(_letter, word)) for word in words)
    before = "" if re.match(_UNSPACED, words[0][0]) else rf"(?<!{_SPACED})(?<!{_SPACED}{_HYPHEN})"
    after = "" if re.match(_UNSPACED, words[-1][-1]) else rf"(?!{_SPACED})(?!{_HYPHEN}{_SPACED})"
    return before + pattern + after


def _letter(letter: str) -> str:
    return next((like for like in (_APOSTROPHE, _HYPHEN) if re.match(like, letter)), re.escape(letter))


def _goes_on(text: str, end: int) -> bool:
    """Whether an accent or a vowel sign follows: the last letter is another one then."""
    return end < len(text) and unicodedata.category(text[end]).startswith("M")


def assign_mentions(wanted: Sequence[tuple[str, str | None]], text: str) -> list[Mention | None]:
    """Give each (noun, attribute) a mention of its own.

    Of a noun wanted twice, the first mention goes to the first, and so on. A mention must have the
    attribute wanted: the closest one before it, with no other wanted noun between ("a red cat and a dog"
    has no red dog); failing that the closest one after it, with no other wanted noun between or next to
    it ("a cat that is red"). Whoever wants no attribute chooses last, so that "a red cat and a cat" suits
    ("cat", None), ("cat", "red") too. A noun inside a longer wanted one does not count: "a traffic light"
    mentions no "light" then.

    Returns:
        As many as wanted, in that order; None where the text has no mention left that fits.
    """
    nouns = _noun_spans([noun for noun, _ in wanted], text)
    barriers = sorted({span for spans in nouns.values() for span in spans})
    taken: list[Span] = []
    found: list[Mention | None] = [None] * len(wanted)

    for place in (_before, _after):
        for row, (noun, attribute) in enumerate(wanted):
            if attribute is None or found[row] is not None:
                continue
            free = [
                span
                for span in find_words(attribute, text)
                if not _overlaps(span, taken) and not _strictly_inside(span, barriers)
            ]
            for span in nouns[_key(noun)]:
                near = place(free, span, barriers, text)
                if near is not None and not _overlaps(span, taken):
                    found[row] = Mention(span, near)
                    taken += [span, near]
                    break
    for row, (noun, attribute) in enumerate(wanted):
        if attribute is None:
            left = next((span for span in nouns[_key(noun)] if not _overlaps(span, taken)), None)
            if left is not None:
                found[row] = Mention(left, None)
                taken.append(left)
    return found


def _key(words: str) -> str:
    return " ".join(unicodedata.normalize("NFC", words).casefold().split())


def _noun_spans(nouns: Sequence[str], text: str) -> dict[str, list[Span]]:
    """The mentions of each noun, without those inside a mention of a longer one."""
    spans = {_key(noun): find_words(noun, text) for noun in nouns}
    every = [span for found in spans.values() for span in found]
    return {noun: [span for span in found if not _strictly_inside(span, every)] for noun, found in spans.items()}


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def _strictly_inside(span: Span, others: Sequence[Span]) -> bool:
    return any(span != other and other.start <= span.start and span.end <= other.end for other in others)


def _before(attributes: Sequence[Span], noun: Span, barriers: Sequence[Span], text: str) -> Span | None:
    """The last attribute that ends before the noun, unless another noun lies between."""
    near = max((span for span in attributes if span.end <= noun.start), default=None)
    return near if near and not _between(near.end, noun.start, barriers) else None


def _after(attributes: Sequence[Span], noun: Span, barriers: Sequence[Span], text: str) -> Span | None:
    """The first attribute that starts after the noun, unless another noun lies between or follows at once."""
    near = min((span for span in attributes if span.start >= noun.end), default=None)
    if near is None or _between(noun.end, near.start, barriers):
        return None
    heads_another = any(span.start >= near.end and not text[near.end : span.start].strip() for span in barriers)
    return None if heads_another else near


def _between(start: int, end: int, barriers: Sequence[Span]) -> bool:
    return any(start <= span.start and span.end <= end for span in barriers)
