"""The standard sets, sampling, hashes and disjoint parts."""

import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.core.shapes.captions import COLORS, NOUNS, caption
from keystep.evaluation.prompt_sets import (
    STANDARD_SETS,
    PromptSet,
    all_nouns,
    noun_set,
    sample_template,
    standard_set,
    standard_template,
)

SIZES = {
    "two": 24 * 23,
    "two_colored": 24 * 23 * 6 * 5,
    "three": 24 * 23 * 22,
    "three_colored": 24 * 23 * 22 * 6 * 5 * 4,
    "shapes_one": 8,
    "shapes_two": 8 * 7,
    "shapes_two_colored": 8 * 7 * 6 * 5,
    "shapes_three": 8 * 7 * 6,
    "shapes_three_colored": 8 * 7 * 6 * 6 * 5 * 4,
}


@pytest.mark.parametrize("name", STANDARD_SETS)
def test_standard_sets(name):
    assert len(standard_template(name)) == SIZES[name]
    prompts = standard_set(name)
    assert len(prompts) == min(300, SIZES[name])
    for prompt in prompts:
        nouns = [entity.noun for entity in prompt.entities]
        colors = [entity.attribute for entity in prompt.entities if entity.attribute]
        assert len(set(nouns)) == len(nouns) and len(set(colors)) == len(colors)
        assert len(colors) == (len(nouns) if "colored" in name else 0)


@pytest.mark.parametrize("name", [name for name in STANDARD_SETS if name.startswith("shapes")])
def test_shapes_sets_read_like_the_captions_the_embedded_models_learned(name):
    template = standard_template(name)
    for number in range(0, len(template), 97):
        prompt = template[number]
        assert prompt.text == caption([(entity.noun, entity.attribute) for entity in prompt.entities])
    assert all_nouns([standard_set(name)]) == tuple(sorted(NOUNS))
    assert {entity.attribute for prompt in standard_set(name) for entity in prompt.entities} <= {
        None,
        *COLORS,
    }


def test_the_forms_of_the_benchmark():
    assert standard_template("two")[0].text == "a photo of a bicycle and a car"
    assert standard_template("three")[-1].text == "a photo of a refrigerator next to an oven and a couch"
    assert standard_template("three_colored")[0].text == "a photo of a red bicycle, a green car and a blue motorcycle"
    assert len(all_nouns([standard_set("two")])) == 24


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="no standard prompt set is called 'four'; there are two, two_colored"):
        standard_set("four")


def test_hash_is_of_content_and_order_alone():
    first = Prompt("a red circle", (Entity("circle", "red"),))
    second = Prompt("a café", (Entity("café"),))
    prompts = PromptSet("x", (first, second))
    assert prompts.hash == PromptSet("y", (first, second)).hash
    assert prompts.hash != PromptSet("x", (second, first)).hash
    assert prompts.hash != PromptSet("x", (Prompt("a red circle", (Entity("circle"),)), second)).hash
    # sha256 of the two lines, computed with sha256sum.
    assert prompts.hash == "0f4b8ad2191223263fdcc60b70fd744bb99427a6097db5146cdf94c8ffc1fc47"


def test_samples_are_deterministic_and_nested():
    template = standard_template("three_colored")
    ten, thirty = (sample_template(template, size, 3, "x") for size in (10, 30))
    assert ten.prompts == thirty.prompts[:10]
    assert ten.prompts != sample_template(template, 10, 4, "x").prompts
    assert thirty.sample(30, seed=1).prompts != thirty.prompts
    assert set(thirty.sample(30, seed=1)) == set(thirty)
    with pytest.raises(ValueError, match="'x' has 30 prompts; ask for 1 to 30, not 31"):
        thirty.sample(31)


@pytest.mark.parametrize("name", STANDARD_SETS)
@pytest.mark.parametrize("held_out", [0.25, 0.5, 2])
def test_parts_share_no_combination_of_nouns(name, held_out):
    whole = standard_set(name)
    validation, test = whole.split(held_out, seed=5)
    assert {*validation, *test} == {*whole} and len(validation) + len(test) == len(whole)
    assert not {noun_set(prompt) for prompt in validation} & {noun_set(prompt) for prompt in test}
    wanted = held_out if isinstance(held_out, int) else held_out * len(whole)
    largest = max([noun_set(prompt) for prompt in whole].count(nouns) for nouns in set(map(noun_set, whole)))
    assert wanted <= len(test) < wanted + largest + 1
    assert whole.split(held_out, seed=5)[0].hash == validation.hash
    assert whole.split(held_out, seed=6)[0].hash != validation.hash


def test_mirrored_prompts_stay_together():
    validation, test = standard_set("shapes_two").split()
    for prompt in validation:
        mirrored = caption([(entity.noun, None) for entity in reversed(prompt.entities)])
        assert mirrored in {other.text for other in validation}
        assert mirrored not in {other.text for other in test}


@pytest.mark.parametrize(
    ("held_out", "reason"), [(0, "held_out must be"), (1.0, "held_out must be"), (55, "cannot hold")]
)
def test_impossible_parts_are_refused(held_out, reason):
    with pytest.raises(ValueError, match=reason):
        standard_set("shapes_two").split(held_out)


def test_empty_and_repeated_are_refused():
    with pytest.raises(ValueError, match="'x' is empty"):
        PromptSet("x", ())
    prompt = Prompt("a cat", (Entity("cat"),))
    with pytest.raises(ValueError, match="'x' has 'a cat' twice"):
        PromptSet("x", (prompt, prompt))
