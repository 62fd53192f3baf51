"""Where the tokens of a text are in the row of tokens that was encoded for it."""

from collections.abc import Sequence
from typing import Any

Places = tuple[int, ...]
"""Columns of one token of the text: several for a textual inversion of several vectors, none if it is cut off."""


def content_end(row: Sequence[int], tokenizer: Any) -> int:
    """The column after the text's last: of the end-of-text token, or, for a tokenizer without, of the padding."""
    if tokenizer.eos_token_id in row:
        return list(row).index(tokenizer.eos_token_id)
    end = len(row)
    while end > 0 and row[end - 1] == tokenizer.pad_token_id:
        end -= 1
    return end


def token_places(content: Sequence[int], row: Sequence[int], first: int, tokenizer: Any) -> list[Places] | None:
    """The columns of each token of a text, whatever stands before and after it in the row.

    Args:
        content: the text's tokens without special ones, as many as it has.
        row: what was encoded, special tokens and padding included.
        first: the column where the text starts if nothing was put before it.
        tokenizer: gives both their meaning.

    Returns:
        None if the row does not hold the text: another one was encoded in its place.
    """
    ends = content_end(row, tokenizer)
    starts = [first, *(start for start in range(ends) if start != first)]
    walks = [_walk(content, row, start, ends, tokenizer) for start in starts]
    if walks[0] is not None:
        return walks[0]
    found = [walk for walk in walks if walk is not None and any(walk)]
    return next((walk for walk in found if all(walk)), found[0] if found else None)


def _walk(content: Sequence[int], row: Sequence[int], start: int, ends: int, tokenizer: Any) -> list[Places] | None:
    """As `token_places`, for a text that starts at a column."""
    is_full = ends >= len(row) - 1
    places: list[Places] = []
    column = start
    for token in content:
        if column >= ends and is_full:
            break
        if column >= ends or row[column] != token:
            return None
        vectors = _vectors(token, tokenizer)
        expanded = list(row[column : column + len(vectors)]) == vectors
        if len(vectors) > 1 and not expanded and is_full and column + len(vectors) > ends:
            break  # some of its vectors are cut off
        taken = len(vectors) if expanded else 1
        places.append(tuple(range(column, column + taken)))
        column += taken
    return places + [()] * (len(content) - len(places))


def _vectors(token: int, tokenizer: Any) -> list[int]:
    """The token and, if it is a textual inversion of several vectors, those that diffusers puts after it.

    diffusers.loaders.TextualInversionLoaderMixin names them so.
    """
    name = tokenizer.added_tokens_decoder.get(token)
    ids = [token]
    while name is not None and f"{name}_{len(ids)}" in tokenizer.added_tokens_encoder:
        ids.append(tokenizer.added_tokens_encoder[f"{name}_{len(ids)}"])
    return ids
