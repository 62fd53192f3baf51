"""Where entities stand in the text rows that a denoiser attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.backbones.conditioning import Span
from core.prompts import Prompt, locate_entities


@dataclass(frozen=True)
class TextGroup:
    """The columns of one tokenizer in the text row.

    Args:
        tokenizer: of transformers.
        length: columns it has, padding counted.
        offset: of its first column in the row.
        keep_padding: whether the softmax over text tokens runs over EOT and padding too; even then not over
            the row's last column, as in the reference implementation of Attend-and-Excite. A BOS is never kept.
    """

    tokenizer: Any
    length: int
    offset: int = 0
    keep_padding: bool = False

    def kept(self, text: str) -> Span:
        """First column of the row kept for this text, and the one after the last."""
        tokens = self.tokenizer(text, truncation=True, max_length=self.length).input_ids
        first = 1 if tokens[0] == self.tokenizer.bos_token_id else 0
        last = self.length - 1 if self.keep_padding else len(tokens) - 1
        # An empty text still needs something for the softmax to run over.
        return self.offset + first, self.offset + max(last, first + 1)


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
            located = locate_entities(prompt, group.tokenizer, group.length)
            for entity, tokens in enumerate(located):
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
