"""Entities and prompts as values, and reading them from a list."""

import pytest

from core.prompts import Entity, Prompt, parse_entities


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
    ],
)
def test_parse_entities(text: str, expected: list[Entity]):
    assert parse_entities(text) == tuple(expected)


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
