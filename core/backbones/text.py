"""Where entities stand in the text rows that a denoiser attends to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keystep.core.backbones.conditioning import Span
from keystep.core.prompts import EntityTokens, Prompt, locate_entities
from keystep.core.token_places import content_end


@dataclass(frozen=True)
class TextGroup:
    """The columns of one tokenizer in the text row.

    Args:
        tokenizer: of transformers.
        length: columns it has, padding counted.
        rows: the token ids that were encoded for each text, as `TokenRows` saw them.
        offset: of its first column in the row.
        keep_padding: whether the softmax over text tokens runs over EOT and padding too; even then not over
            the row's last column, as in the reference implementation of Attend-and-Excite. A BOS is never kept.
        twin: tokenizer and rows of a second encoder whose embeddings share these columns.
    """

    tokenizer: Any
    length: int
    rows: Mapping[str, Sequence[int]]
    offset: int = 0
    keep_padding: bool = False
    twin: "tuple[Any, Mapping[str, Sequence[int]]] | None" = None

    def kept(self, text: str) -> Span:
        """First column of the row kept for this text, and the one after the last."""
        row = self.rows[text]
        first = 1 if row[0] == self.tokenizer.bos_token_id else 0
        last = self.length - 1 if self.keep_padding else min(content_end(row, self.tokenizer), self.length - 1)
        # An empty text still needs something for the softmax to run over.
        return self.offset + first, self.offset + max(last, first + 1)

    def located(self, prompt: Prompt) -> tuple[EntityTokens, ...]:
        """The entities' tokens, counted from the group's first column.

        Raises:
            ValueError: an entity that is not in the prompt or is cut off, or stands in other columns for the twin.
        """
        row = self.rows[prompt.text]
        located = locate_entities(prompt, self.tokenizer, self.length, row)
        if self.twin is None:
            return located
        other, rows = self.twin
        theirs = rows[prompt.text]
        if theirs[: content_end(theirs, other)] == row[: content_end(row, self.tokenizer)]:
            return located
        for entity, ours, other_tokens in zip(
            prompt.entities, located, locate_entities(prompt, other, self.length, theirs), strict=True
        ):
            if ours.noun != other_tokens.noun:
                raise ValueError(
                    f"entity {str(entity)!r} is in columns {list(ours.noun)} for the pipeline's first text encoder and "
                    f"in {list(other_tokens.noun)} for its second: load every textual inversion into both, with its "
                    f"vectors for each: {prompt.text!r}"
                )
        return located


@dataclass(frozen=True)
class TextColumns:
    """The entity part of a `Conditioning`; see there."""

    entity_weights: Tensor
    kept: Tensor
    entity_mask: Tensor
    spans: tuple[tuple[Span, ...], ...]


def text_columns(
    prompts: Sequence[Prompt], groups: Sequence[TextGroup], width: int, device: torch.device
) -> TextColumns:
    """Find the columns kept and the entities' columns of each prompt in a row of ``width`` columns.

    Raises:
        ValueError: an entity that is not in its prompt, or is cut off; names both.
    """
    most = max(len(prompt.entities) for prompt in prompts)
    weights = torch.zeros(len(prompts), len(groups), most, width)
    kept = torch.zeros(len(prompts), len(groups), width, dtype=torch.bool)
    mask = torch.zeros(len(prompts), most, dtype=torch.bool)
    spans = []
    for sample, prompt in enumerate(prompts):
        mask[sample, : len(prompt.entities)] = True
        spans.append(tuple(group.kept(prompt.text) for group in groups))
        for number, (group, (first, last)) in enumerate(zip(groups, spans[-1], strict=True)):
            kept[sample, number, first:last] = True
            for entity, tokens in enumerate(group.located(prompt)):
                columns = [group.offset + position for position in tokens.noun]
                weights[sample, number, entity, columns] = 1 / len(columns)
    return TextColumns(weights.to(device), kept.to(device), mask.to(device), tuple(spans))


def unique_texts(prompts: Sequence[Prompt]) -> tuple[list[str], list[int]]:
    """The different texts, and for each prompt the place of its own among them.

    Raises:
        ValueError: no prompts.
    """
    if not prompts:
        raise ValueError("encode needs at least one prompt, got none")
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    return texts, [texts.index(prompt.text) for prompt in prompts]
