"""The embedded vocabularies: every word of the world is known, everything else is spelt."""

import pytest

from keystep.core.shapes.captions import caption
from keystep.core.shapes.scenes import COLORS, NOUNS
from keystep.core.shapes.tokenizers import MAX_LENGTH, WORDS, clip_tokenizer, t5_tokenizer

LONGEST = caption([("triangle", "yellow"), ("triangle", "purple"), ("triangle", "yellow")])


def test_clip_spells_each_word_of_the_world_as_one_token() -> None:
    tokenizer = clip_tokenizer()
    assert {word: len(tokenizer(word, add_special_tokens=False).input_ids) for word in WORDS} == dict.fromkeys(WORDS, 1)


def test_t5_spells_triangle_as_two_pieces_and_the_rest_as_one() -> None:
    tokenizer = t5_tokenizer()
    lengths = {word: len(tokenizer(word, add_special_tokens=False).input_ids) for word in WORDS}
    assert lengths == dict.fromkeys(WORDS, 1) | {"triangle": 2}


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_three_coloured_entities_fit_and_unknown_words_survive(make) -> None:
    tokenizer = make()
    assert len(tokenizer(LONGEST).input_ids) <= MAX_LENGTH == tokenizer.model_max_length
    assert tokenizer.decode(tokenizer("a photo of a cat").input_ids, skip_special_tokens=True) == "a photo of a cat"


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_saved_tokenizer_reads_the_same(make, tmp_path) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    text = f"a photo of a {COLORS[0]} {NOUNS[2]} and a zebra"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == MAX_LENGTH
