"""Tokens of entities: CLIP's real tokenizer and a trained T5 one, checked by decoding what was found."""

import io
from functools import cache
from typing import Any

import open_clip
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Tokenizer
from transformers.tokenization_python import PreTrainedTokenizer

from keystep.core.entity_list import parse_entities
from keystep.core.mentions import find_words
from keystep.core.prompts import Entity, EntityTokens, Prompt, locate_entities, located_mentions
from keystep.evaluation.prompt_io import check_prompt
from tests.tiny_models import clip_tokenizer

T5_TEXTS = [
    "cat and dog in the park",
    "a red cat and a blue dog",
    "a photo of a giraffe and an elephant",
    "the traffic light is green",
    "a purple star, a yellow circle and a pink square",
    "cats and dogs",
    "a green light",
    "cat",
    "traffic",
]
NOUNS = ["cat", "dog", "giraffe", "traffic light", "toothbrush", "T-shirt", "café", "zebra"]
COLORS = ["red", "blue", "turquoise", "light green"]


@cache
def t5_processor() -> sentencepiece.SentencePieceProcessor:
    """A unigram model of 48 pieces: "cat" and "traffic" are one, "giraffe" is several."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(T5_TEXTS * 50),
        model_writer=model,
        model_type="unigram",
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@cache
def t5_tokenizer() -> T5Tokenizer:
    model = t5_processor()
    pieces = [(model.id_to_piece(index), model.get_score(index)) for index in range(model.get_piece_size())]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


CLIP = cache(clip_tokenizer)
each_tokenizer = pytest.mark.parametrize("tokenizer_of", [CLIP, t5_tokenizer], ids=["clip", "t5"])


def tokens_of(text: str, entities: list[Entity], tokenizer: Any, max_length: int = 77) -> list[EntityTokens]:
    return list(locate_entities(Prompt(text, entities), tokenizer, max_length))


def decoded(text: str, positions: tuple[int, ...], tokenizer: Any, max_length: int = 77) -> str:
    """What the tokens at the positions of the padded row say, capitals and white space aside."""
    encoding = tokenizer(text, padding="max_length", truncation=True, max_length=max_length)
    if isinstance(tokenizer, T5Tokenizer):  # decoding would give <unk> for letters its small vocabulary lacks
        words = "".join(encoding.tokens()[position] for position in positions).replace("▁", " ")
    else:
        words = tokenizer.decode([encoding["input_ids"][position] for position in positions])
    return "".join(words.lower().split())


def test_the_clip_tokenizer_of_the_tests_is_the_real_one():
    text = "A photo of a Giraffe's toothbrush, 2 traffic-lights & a T-shirt"
    real = open_clip.SimpleTokenizer()(text)[0]
    assert CLIP()(text)["input_ids"] == real[real != 0].tolist()


def test_the_t5_tokenizer_of_the_tests_agrees_with_sentencepiece():
    text = "cat and a giraffe, traffic light"
    assert t5_tokenizer()(text)["input_ids"] == [*t5_processor().encode(text), 1]


def test_clip_positions_count_its_first_special_token():
    # <start> a red cat and a blue dog <end>
    assert tokens_of("a red cat and a blue dog", [Entity("cat", "red"), Entity("dog", "blue")], CLIP()) == [
        EntityTokens(noun=(3,), attribute=(2,)),
        EntityTokens(noun=(7,), attribute=(6,)),
    ]


def test_a_t5_entity_at_index_0():
    assert t5_tokenizer().tokenize("cat and dog")[0] == "▁cat"
    assert tokens_of("cat and dog", [Entity("cat")], t5_tokenizer()) == [EntityTokens(noun=(0,))]


def test_a_lone_word_start_mark_is_no_token_of_the_word():
    assert t5_tokenizer().tokenize("Red")[:2] == ["▁", "R"]
    assert tokens_of("Red cat", [Entity("cat", "red")], t5_tokenizer())[0].attribute[0] == 1


@each_tokenizer
def test_a_word_of_several_tokens(tokenizer_of):
    word = {CLIP: "axolotl", t5_tokenizer: "giraffe"}[tokenizer_of]
    text = f"the {word} and a cat"
    first, second = tokens_of(text, [Entity(word), Entity("cat")], tokenizer_of())
    assert len(first.noun) > 1
    assert first.noun == tuple(range(first.noun[0], first.noun[-1] + 1))
    assert decoded(text, first.noun, tokenizer_of()) == word
    assert second.noun[0] > first.noun[-1]


@each_tokenizer
def test_capital_letters(tokenizer_of):
    text = "A RED Cat and a dOG"
    cat, dog = tokens_of(text, [Entity("cat", "Red"), Entity("DOG")], tokenizer_of())
    found = [decoded(text, positions, tokenizer_of()) for positions in (cat.noun, cat.attribute, dog.noun)]
    assert found == ["cat", "red", "dog"]


@each_tokenizer
def test_the_same_noun_twice(tokenizer_of):
    text = "a cat and a cat"
    first, second = tokens_of(text, [Entity("cat"), Entity("cat")], tokenizer_of())
    words = [decoded(text, (position,), tokenizer_of()) for position in range(8)]
    assert [first.noun, second.noun] == [(place,) for place, word in enumerate(words) if word == "cat"]


@each_tokenizer
def test_the_same_noun_twice_with_attributes(tokenizer_of):
    text = "a red cat and a blue cat"
    swapped = tokens_of(text, [Entity("cat", "blue"), Entity("cat", "red")], tokenizer_of())
    in_order = tokens_of(text, [Entity("cat", "red"), Entity("cat", "blue")], tokenizer_of())
    assert swapped == in_order[::-1]
    assert in_order[0].attribute[0] < in_order[0].noun[0] < in_order[1].attribute[0] < in_order[1].noun[0]


def positions(text: str, *entities: Entity) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(attribute, noun) as numbers of the words in the text: CLIP has one token for each of these words."""
    located = tokens_of(text, list(entities), CLIP())
    return [
        (tuple(place - 1 for place in tokens.attribute), tuple(place - 1 for place in tokens.noun))
        for tokens in located
    ]


@pytest.mark.parametrize(
    "text, entities, expected",
    [
        # Repeated colours: the closest one before the noun.
        ("a red cat and a red dog", [Entity("cat", "red"), Entity("dog", "red")], [((1,), (2,)), ((5,), (6,))]),
        ("a red hat on a red cat", [Entity("cat", "red")], [((5,), (6,))]),
        ("a red big cat", [Entity("cat", "red")], [((1,), (3,))]),
        # After the noun, if none is before it.
        ("a cat that is red and a dog", [Entity("cat", "red"), Entity("dog")], [((4,), (1,)), ((), (7,))]),
        ("a cat , red , and a red dog", [Entity("cat", "red"), Entity("dog", "red")], [((3,), (1,)), ((7,), (8,))]),
        # The one with a colour takes the mention that has it.
        ("a red cat and a cat", [Entity("cat"), Entity("cat", "red")], [((), (5,)), ((1,), (2,))]),
        # A colour that is a noun elsewhere.
        ("an orange shirt and an orange", [Entity("orange"), Entity("shirt", "orange")], [((), (5,)), ((1,), (2,))]),
        # A noun of two words, and one that is a part of it.
        ("a traffic light and a light", [Entity("light"), Entity("traffic light")], [((), (5,)), ((), (1, 2))]),
        ("a dark red traffic light", [Entity("traffic light", "dark red")], [((1, 2), (3, 4))]),
        # Punctuation and hyphens.
        ("cat , dog ! ( bird )", [Entity("bird"), Entity("cat")], [((), (5,)), ((), (0,))]),
        ("a cat - like dog - cat", [Entity("dog")], [((), (4,))]),
    ],
)
def test_who_gets_which_words(text: str, entities: list[Entity], expected: list):
    assert positions(text, *entities) == expected


@each_tokenizer
def test_punctuation_and_white_space(tokenizer_of):
    text = 'photo: "the cat", a   traffic\n light; (dog)!'
    located = tokens_of(text, [Entity("cat"), Entity("traffic light"), Entity("dog")], tokenizer_of())
    words = [decoded(text, tokens.noun, tokenizer_of()) for tokens in located]
    assert [word.strip('",();!') for word in words] == ["cat", "trafficlight", "dog"]


def test_word_boundaries():
    (tokens,) = tokens_of("a catalogue of concatenated cat-like cats and a cat", [Entity("cat")], CLIP())
    row = CLIP()("a catalogue of concatenated cat-like cats and a cat")["input_ids"]
    assert tokens.noun == (len(row) - 2,)


def test_a_composed_and_a_decomposed_letter_are_the_same():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for noun, text in [(composed, decomposed), (decomposed, composed)]:
        (tokens,) = tokens_of(f"a {text}", [Entity(noun)], CLIP())
        assert decoded(f"a {text}", tokens.noun, CLIP()) == composed


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(
    wanted=st.lists(
        st.tuples(st.sampled_from(NOUNS), st.none() | st.sampled_from(COLORS)),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[0],
    ),
    glue=st.sampled_from([" and a ", ", a ", " next to the "]),
    capitals=st.booleans(),
    start=st.sampled_from(["", "a photo of a ", "«"]),
    data=st.data(),
)
def test_tokens_decode_back_to_the_word(tokenizer_of, wanted, glue: str, capitals: bool, start: str, data):
    entities = [Entity(noun, color) for noun, color in wanted]
    text = start + glue.join(str(entity) for entity in entities) + "!"
    text = text.upper() if capitals else text
    order = data.draw(st.permutations(range(len(entities))))
    located = tokens_of(text, [entities[place] for place in order], tokenizer_of(), max_length=256)
    for place, tokens in zip(order, located, strict=True):
        entity = entities[place]
        said = [decoded(text, found, tokenizer_of(), 256).strip("«,!") for found in (tokens.noun, tokens.attribute)]
        assert said == ["".join(words.lower().split()) for words in (entity.noun, entity.attribute or "")]


@each_tokenizer
def test_an_entity_that_is_not_in_the_prompt(tokenizer_of):
    for text in ("a dog in the park", "two cats", "a catalogue", "a cat-like dog", ""):
        with pytest.raises(ValueError) as error:
            tokens_of(text, [Entity("cat", "red")], tokenizer_of())
        assert "'red cat'" in str(error.value) and repr(text) in str(error.value)


@pytest.mark.parametrize(
    "text, entities, reason",
    [
        ("two cats", [Entity("cat")], "it has 'cats': name the entity that"),
        ("a cat and a dog", [Entity("cat"), Entity("cat")], "2 entities are named 'cat', and the prompt mentions 1"),
        ("a cat and a red dog", [Entity("cat", "red"), Entity("dog")], "no 'red' that belongs to 'cat'"),
        ("a red cat and a dog", [Entity("cat"), Entity("dog", "red")], "no 'red' that belongs to 'dog'"),
        ("a cat and a red panda", [Entity("cat", "red"), Entity("red panda")], "no 'red' that belongs to 'cat'"),
        ("a traffic light", [Entity("traffic light"), Entity("light")], "every 'light' in the prompt is part"),
    ],
)
def test_the_error_says_why_it_is_not_there(text: str, entities: list[Entity], reason: str):
    with pytest.raises(ValueError, match=reason):
        tokens_of(text, entities, CLIP())


@each_tokenizer
def test_an_entity_cut_off_by_the_tokenizers_length(tokenizer_of):
    text = "a " * 80 + "dog and a red cat"
    for entity in (Entity("cat"), Entity("cat", "red")):
        with pytest.raises(ValueError, match="is cut off") as error:
            tokens_of(text, [entity], tokenizer_of())
        assert repr(str(entity)) in str(error.value) and repr(text) in str(error.value)
    assert len(tokens_of(text, [Entity("cat", "red")], tokenizer_of(), max_length=256)) == 1


def test_a_word_cut_in_the_middle_is_cut_off():
    text = "a cat and an axolotl"
    num_tokens = len(CLIP()(text)["input_ids"])
    assert len(tokens_of(text, [Entity("axolotl")], CLIP(), max_length=num_tokens)[0].noun) > 1
    with pytest.raises(ValueError, match="'axolotl' is cut off"):
        tokens_of(text, [Entity("axolotl")], CLIP(), max_length=num_tokens - 1)


def test_a_tokenizer_without_offsets_is_refused():
    class Letters(PreTrainedTokenizer):
        @property
        def vocab_size(self) -> int:
            return 128

        def get_vocab(self) -> dict[str, int]:
            return {chr(code): code for code in range(128)}

    with pytest.raises(ValueError, match="Letters gives no character offsets"):
        tokens_of("a cat", [Entity("cat")], Letters())


def test_no_entities_have_no_tokens():
    assert locate_entities(Prompt("a cat", []), CLIP(), 77) == ()


@pytest.mark.parametrize(
    ("noun", "text", "places"),
    [
        # Scripts without blanks: wherever the letters stand.
        ("猫", "一只红色的猫和一只狗", [5]),
        ("狗", "一只红色的猫和一只狗", [9]),
        ("犬", "赤い猫と青い犬", [6]),
        ("แมว", "แมวสีแดงกับหมา", [0]),
        ("หมา", "แมวสีแดงกับหมา", [11]),
        ("cat", "一只cat和dog", [2]),
        ("cat", "一只cats和dog", []),
        ("ส", "สีแดง", []),  # a vowel sign above makes it another syllable
        # Apostrophes and hyphens, typed or typographic.
        ("cat's toy", "a cat\u2019s toy", [2]),
        ("cat\u2019s toy", "a cat's  toy", [2]),
        ("T-shirt", "a T\u2011shirt", [2]),
        ("star", "a star\u2010shaped box", []),
        # A letter with an accent is another letter, composed or not.
        ("cafe", "a cafe\u0301", []),
        ("cafe", "a caf\u00e9", []),
        # As before.
        ("star", "a star-shaped star", [14]),
        ("traffic light", "a traffic \n light", [2]),
        ("", "a cat", []),
    ],
)
def test_where_words_stand(noun: str, text: str, places: list[int]):
    assert [span.start for span in find_words(noun, text)] == places


def test_tokens_of_a_language_without_blanks():
    """Each Han letter is three bytes, and CLIP's tokenizer merges none of these across letters."""
    text = "红色的猫 , 蓝色的狗"
    cat, dog = tokens_of(text, [Entity("猫", "红色"), Entity("狗", "蓝色")], CLIP())
    row = CLIP()(text, return_offsets_mapping=True)

    def letters(positions: tuple[int, ...]) -> set[str]:
        return {letter for place in positions for letter in text[slice(*row["offset_mapping"][place])]}

    assert [letters(found) for found in (cat.attribute, cat.noun, dog.attribute, dog.noun)] == [
        {"红", "色"}, {"猫"}, {"蓝", "色"}, {"狗"}
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from(["star", "star-shaped", "stars", "red", "cat", "a", ",", "and"]), max_size=9),
    glue=st.sampled_from([" ", "  ", "\t"]),
    wanted=st.lists(
        st.tuples(st.sampled_from(["star", "cat"]), st.sampled_from([None, "red"])), min_size=1, max_size=3
    ),
)
def test_prompt_files_and_the_token_finder_have_one_rule(words: list[str], glue: str, wanted: list):
    prompt = Prompt(glue.join(words), [Entity(*pair) for pair in wanted])

    def told(check: Any) -> str | None:
        try:
            check()
        except ValueError as error:
            return str(error)
        return None

    if prompt.text.strip():
        assert told(lambda: check_prompt(prompt)) == told(lambda: locate_entities(prompt, CLIP(), 77))


@pytest.mark.parametrize(
    "text, wanted, expected",
    [
        ("红色的猫和蓝色的狗", [("猫", "红色"), ("狗", "蓝色")], ["红色", "蓝色"]),
        ("แมวสีแดงกับหมาสีดำ", [("แมว", "สีแดง"), ("หมา", "สีดำ")], ["สีแดง", "สีดำ"]),  # the colour follows
        ("赤い犬と赤い猫", [("猫", "赤い"), ("犬", "赤い")], ["赤い", "赤い"]),
    ],
)
def test_whose_colour_it_is_without_blanks(text: str, wanted: list[tuple[str, str]], expected: list[str]):
    found = located_mentions(Prompt(text, [Entity(*pair) for pair in wanted]))
    assert [text[slice(*mention.noun)] for mention in found] == [noun for noun, _ in wanted]
    assert [text[slice(*mention.attribute)] for mention in found if mention.attribute] == expected
    assert len({mention.attribute for mention in found}) == len(wanted)


def test_two_colours_of_one_thing():
    # <start> a black and white cat and a dog <end>
    prompt = Prompt("a black and white cat and a dog", parse_entities('"black and white" cat, dog'))
    assert locate_entities(prompt, CLIP(), 77) == (
        EntityTokens(noun=(5,), attribute=(2, 3, 4)),
        EntityTokens(noun=(8,)),
    )
