"""Entities and prompts as values, and reading them from a list."""

import pytest

from keystep.core.entity_list import parse_entities
from keystep.core.prompts import Entity, Prompt


@pytest.mark.parametrize(
    "text, expected",
    [
        ("red circle, blue star", [Entity("circle", "red"), Entity("star", "blue")]),
        ("a cat and a traffic light", [Entity("cat"), Entity("traffic light")]),
        ("The Red traffic light; an apple", [Entity("traffic light", "Red"), Entity("apple")]),
        (
            "dark red car, light bulb, light blue sky",
            [Entity("car", "dark red"), Entity("light bulb"), Entity("sky", "light blue")],
        ),
        ("orange, orange orange, and orange", [Entity("orange"), Entity("orange", "orange"), Entity("orange")]),
        ("wooden table", [Entity("table", "wooden")]),
        ("a sandcastle and hand", [Entity("sandcastle"), Entity("hand")]),
        # Two colours of one thing, and words that are kept together by quotes.
        ("a black and white cat, and a dog", [Entity("cat", "black and white"), Entity("dog")]),
        ("cat and red and blue star", [Entity("cat"), Entity("star", "red and blue")]),
        ("a red and a blue star", [Entity("red"), Entity("star", "blue")]),
        ("orange and white cat", [Entity("orange"), Entity("cat", "white")]),
        ('"orange and white" cat, dog', [Entity("cat", "orange and white"), Entity("dog")]),
        ('"black and white cat", dog', [Entity("cat", "black and white"), Entity("dog")]),
        ('a "salt and pepper shaker"', [Entity("salt and pepper shaker")]),
        (
            'very old "stop sign" and a "hand-made" "fire hydrant"',
            [Entity("stop sign", "very old"), Entity("fire hydrant", "hand-made")],
        ),
        ("\u201cblack and white\u201d cat", [Entity("cat", "black and white")]),
        ('"红色" 猫\uff0c狗\u3001鸟', [Entity("猫", "红色"), Entity("狗"), Entity("鸟")]),
    ],
)
def test_parse_entities(text: str, expected: list[Entity]):
    assert parse_entities(text) == tuple(expected)


@pytest.mark.parametrize(
    "text, reason",
    [
        ('"black and white cat', "a quote is not closed"),
        ('a "black" and-white "cat" toy', "quote the first words or the last"),
        ('"", cat', "expected entities such as"),
        ("\0" + "7 cat,,", "expected entities such as"),
    ],
)
def test_quotes_that_say_nothing_are_refused(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_entities(text)


@pytest.mark.parametrize("text", ["", "  ", ",", "red circle,, star", "cat and "])
def test_parse_entities_refuses_nothing(text: str):
    with pytest.raises(ValueError, match="expected entities such as"):
        parse_entities(text)


def test_values():
    prompt = Prompt("a red circle", [Entity("circle", "red")])
    assert prompt.entities == (Entity("circle", "red"),)
    assert prompt == Prompt(text="a red circle", entities=(Entity("circle", "red"),))
    assert hash(prompt) == hash(Prompt("a red circle", (Entity("circle", "red"),)))
    assert str(prompt.entities[0]) == "red circle" and str(Entity("circle")) == "circle"
    for noun, attribute in [("", None), ("cat", " ")]:
        with pytest.raises(ValueError, match="empty"):
            Entity(noun, attribute)
