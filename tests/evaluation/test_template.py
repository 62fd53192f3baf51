"""Templates: what they render, what they count, what they refuse."""

import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.template import indefinite_article, parse_template, read_template


def prompts_of(text):
    template = parse_template(text)
    return [template[k] for k in range(len(template))]


def test_entities_colours_and_articles():
    prompts = prompts_of(
        """
        template: a photo of $ind_ar1 $adj1 $entity1 and $ind_ar2 $entity2
        unique: [[entity1, entity2]]
        entities: [apple, cat]
        adjs: [orange, blue]
        """
    )
    apple_first = [
        Prompt(f"a photo of {words} apple and a cat", (Entity("apple", words.split()[1]), Entity("cat")))
        for words in ("an orange", "a blue")
    ]
    cat_first = [
        Prompt(f"a photo of {words} cat and an apple", (Entity("cat", words.split()[1]), Entity("apple")))
        for words in ("an orange", "a blue")
    ]
    assert prompts == apple_first + cat_first


def test_unique_of_tiam_leaves_the_eight_fillings_its_readme_lists():
    lists = "adj1: {list: [orange, blue]}\nobject1: {list: [cat, dog]}\n"
    text = "template: $ind_ar1 $adj1 $object1 and $ind_ar2 $adj2 $object2\nunique: [[object1, object2]]\n"
    texts = {prompt.text for prompt in prompts_of(text + lists + lists.replace("1", "2"))}
    assert len(texts) == 8
    assert {"an orange cat and an orange dog", "a blue dog and an orange cat"} < texts


@pytest.mark.parametrize(
    ("generate", "expected"),
    [
        ("permutation", "ab ac ba bc ca cb"),
        ("combination", "aa ab ac ba bb bc ca cb cc"),
        ("ordered_combination", "ab ac bc"),
    ],
)
def test_version_one_generate(generate, expected):
    prompts = prompts_of(f"template: $object1 $object2\ngenerate: {generate}\nobjects: {{list: [a, b, c]}}")
    assert [prompt.text for prompt in prompts] == [" ".join(pair) for pair in expected.split()]


def test_placeholders_without_a_number_are_the_first():
    (prompt,) = prompts_of("template: $ind_ar $adj $object\nobjects: {list: [oven]}\nadj1: [red]")
    assert prompt == Prompt("a red oven", (Entity("oven", "red"),))


def test_entities_are_ordered_by_number_not_by_place():
    (prompt,) = prompts_of("template: $entity2 behind $entity1\nentity1: [cat]\nentity2: [dog]")
    assert prompt == Prompt("dog behind cat", (Entity("cat"), Entity("dog")))


@pytest.mark.parametrize(
    "following",
    ["apple", "hour", "umbrella", "unimportant", "urn", "elephant", "onion", "8", "18", "Oven"],
)
def test_an(following):
    assert indefinite_article(following) == "an"


@pytest.mark.parametrize(
    "following",
    ["horse", "unicorn", "uniform", "used", "ukulele", "European", "one-eyed", "1", "utensil"],
)
def test_a(following):
    assert indefinite_article(following) == "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("template: $entity1\nentities: [cat", "not YAML"),
        ("entities: [cat]", "needs the key 'template'"),
        ("template: $entity1\nentities: [cat]\ncolours: [red]", "unknown key 'colours'; known are template"),
        ("template: $entity1 $colour1\nentities: [cat]", "unknown placeholder '$colour1'"),
        (
            "template: $entity1 $entity3\nentities: [cat]",
            "numbered 1, 2, ... and stand once each, got [1, 3]",
        ),
        ("template: a cat\nentities: [cat]", "numbered 1, 2, ... and stand once each, got []"),
        ("template: $adj2 $entity1\nentities: [cat]\nadjs: [red]", "have the $entity of its number, got [2]"),
        ("template: $adj1 $entity1\nentities: [cat]", "no list for $adj1; add 'adjs' or 'adj1'"),
        ("template: $entity1\nentities: [cat, cat]", "entity1 lists 'cat' twice"),
        ("template: $entity1\nentities: []", "entity1 has no values"),
        ("template: $adj1 $entity1\nentities: [cat]\nadjs: [red, off]", "lists False, which is not text"),
        ("template: $entity1\nentities: cat", "'entities' must be a list"),
        (
            "template: $entity1\nentities: {path: nowhere.txt}",
            "list file of 'entities' does not exist: nowhere.txt",
        ),
        (
            "template: $entity1\nentities: [cat]\nadjs: [red]",
            "'adjs' is given, but the template has no place for it",
        ),
        ("template: $entity1\nentities: [cat]\nunique: [[entity1, adj1]]", "unique names 'adj1'"),
        ("template: $entity1\nentities: [cat]\nunique: entity1", "unique must be a list of lists"),
        ("template: $entity1\nentities: [cat]\ngenerate: all", "generate is one of permutation"),
        (
            "template: $entity1 $entity2\nentities: [cat]\nunique: [[entity1, entity2]]",
            "no prompt satisfies unique",
        ),
        (
            "template: $object1 $object2\ngenerate: ordered_combination\nobject1: [a]\nobject2: [b]",
            "same list for every entity",
        ),
    ],
)
def test_faults_are_named(text, reason):
    with pytest.raises(ValueError) as caught:
        parse_template(text, source="mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert reason in str(caught.value)


def test_list_files_are_relative_to_the_template(tmp_path):
    (tmp_path / "nouns.txt").write_text("fire hydrant\n\n oven \n")
    (tmp_path / "mine.yaml").write_text("template: a photo of $ind_ar1 $entity1\nentities: {path: nouns.txt}\n")
    template = read_template(tmp_path / "mine.yaml")
    assert [template[k].text for k in range(2)] == ["a photo of a fire hydrant", "a photo of an oven"]
