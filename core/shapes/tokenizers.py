"""Tokenizers of the embedded models: the real CLIP and T5 classes over the few words of the shapes world.

Any other word still tokenizes, letter by letter, as a rare word does in the real vocabularies. T5 spells "triangle" as
two pieces, so that the embedded models, too, have an entity of several tokens.
"""

import string

from transformers import CLIPTokenizer, T5Tokenizer

from keystep.core.shapes.scenes import COLORS, NOUNS

MAX_LENGTH = 24  # tokens; three coloured entities take 17 (CLIP) and 18 (T5), specials included
WORDS = ("a", "an", "photo", "of", "and", "next", "to", *COLORS, *NOUNS)


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer whose merges spell each of `WORDS` as one token."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in sorted(WORDS, key=len, reverse=True):  # so that no short word breaks into a long one
        left = word[0]
        for letter in [*word[1:-1], f"{word[-1]}</w>"] if len(word) > 1 else []:
            merge = f"{left} {letter}"
            left += letter
            if merge not in merges:
                merges.append(merge)
                tokens.append(left)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=MAX_LENGTH)  # pyright: ignore[reportArgumentType]


def t5_tokenizer() -> T5Tokenizer:
    """A T5 unigram tokenizer: one piece a word of `WORDS` ("triangle": two), letters for everything else."""
    pieces = [f"▁{word}" for word in WORDS if word != "triangle"] + ["▁tri", "angle"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -2.0) for piece in pieces]
    letters = dict.fromkeys(["▁", *string.ascii_letters, *string.digits, *string.punctuation])
    vocab += [(letter, -12.0) for letter in letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[], model_max_length=MAX_LENGTH)
