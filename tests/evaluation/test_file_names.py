"""Names of files from prompts: safe on every system, short, of one prompt alone."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.file_names import file_stem, same_name
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_sets import PromptSet
from tests.evaluation.test_image_source import png

# Windows' list, from Microsoft's "Naming Files, Paths, and Namespaces".
DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{sign}" for kind in ("com", "lpt") for sign in "0123456789¹²³")}
NASTY = (
    "../../etc/passwd",
    "/root",
    "a cat and/or a dog",
    "C:\\cat",
    ".hidden",
    "..",
    "-rf",
    "con",
    "Aux.cat",
    "COM1",
    "LPT9 .x",
    "what is this?",
    'a "quoted" <cat> | dog*',
    "a cat\x00\x1b[31m\u202e",
    "a cat\ud800",
    "a cat " * 100,
    "猫" * 100,
    "👩‍🚀 and a cat",
    "",
)


@given(text=st.one_of(st.text(max_size=300), st.sampled_from(NASTY), st.text(alphabet="./\\:\0 ab", max_size=12)))
@example("a" * 180)
@example("a" * 181)
def test_a_name_is_safe_and_short(text: str) -> None:
    name = f"{file_stem(text)}_9223372036854775807.png"
    assert os.path.basename(name) == name and not re.search(r'[/\\<>:"|?*\x00-\x1f\x7f]', name)
    assert not name.startswith(".") and len(name.encode()) <= 255
    assert name.split(".")[0].strip().casefold() not in DEVICES
    assert file_stem(text).split(".")[0].strip().casefold() not in DEVICES
    assert "\n" not in name and name.isprintable()


@pytest.mark.parametrize(
    "text", ["a photo of a red cat", "a Cat, and a 2", "x" * 180, "a cat's T-shirt", "café", "a cat."]
)
def test_an_ordinary_prompt_is_its_own_name(text: str) -> None:
    assert file_stem(text) == text.replace(" ", "_")


def test_prompts_that_differ_have_names_that_differ() -> None:
    texts = ("a/b", "a\\b", "a:b", "a-b", "a?b", ".a", "-a", "x" * 200, "x" * 201, "x" * 180, "con", "-con", *NASTY)
    assert len({same_name(file_stem(text)) for text in texts}) == len(set(texts))


def test_blanks_and_composed_letters_do_not_matter() -> None:
    assert file_stem("a  cafe\u0301 ") == file_stem("a caf\u00e9")


def test_score_finds_what_generate_names(tmp_path: Path) -> None:
    prompts = PromptSet("x", tuple(Prompt(text, (Entity("cat"),)) for text in dict.fromkeys((*NASTY, "a cat")) if text))
    for index, prompt in enumerate(prompts):
        (tmp_path / f"{file_stem(prompt.text)}_0.png").write_bytes(png((index, 0, 0)))
    source = find_images(tmp_path, prompts)
    assert not source.problems
    found = {file.prompt_index: image.getpixel((0, 0)) for file, image in source.images() if image}
    assert found == {index: (index, 0, 0) for index in range(len(prompts))}


def test_names_of_other_generators_are_found_too(tmp_path: Path) -> None:
    """As they come on a system that allows them: only blanks replaced, or not even those."""
    texts = ("what is this?", 'a "cat"', "The clock reads 11:44.", ".cat", "x y " * 50)
    prompts = PromptSet("x", tuple(Prompt(text.strip(), (Entity("cat"),)) for text in texts))
    for number, prompt in enumerate(prompts):
        stem = prompt.text if number % 2 else prompt.text.replace(" ", "_")
        if not stem.startswith("."):  # hidden files stay none of our business
            (tmp_path / f"{stem}_0.png").write_bytes(png())
    source = find_images(tmp_path, prompts)
    assert source.problems.missing == ["'.cat': any"] and not source.problems.surplus
