"""What the denoiser is told about a batch of prompts, and where their entities stand in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from keystep.core.inference import outside_inference

Span = tuple[int, int]
"""First text column kept and the one after the last."""


@dataclass(frozen=True)
class Conditioning:
    """Both branches of a batch of prompts; row b of everything is sample b.

    A text row has L columns, one a token, specials and padding counted. A group is the columns of one
    tokenizer: UNets have one, MMDiT has CLIP's and, after them, T5's.

    Args:
        prompt_embeds: conditional text embeddings (B, L, D), dtype of the model.
        negative_prompt_embeds: unconditional ones, same shape.
        added: further conditions by the denoiser's name for them, each (B, ...); conditional branch.
        negative_added: the same, unconditional branch.
        entity_weights: (B, G, E, L) float32: 1/n at the n tokens of an entity's noun, else 0.
        kept: (B, G, L): the columns that the softmax over text tokens runs over.
        entity_mask: (B, E): False is padding of a sample that has fewer entities than another.
        spans: the same as ``kept`` for the host: a sample's spans, one a group.
    """

    prompt_embeds: Float[Tensor, "batch tokens width"]
    negative_prompt_embeds: Float[Tensor, "batch tokens width"]
    added: Mapping[str, Tensor]
    negative_added: Mapping[str, Tensor]
    entity_weights: Float[Tensor, "batch groups entities tokens"]
    kept: Bool[Tensor, "batch groups tokens"]
    entity_mask: Bool[Tensor, "batch entities"]
    spans: tuple[tuple[Span, ...], ...]

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.prompt_embeds)

    @property
    def columns(self) -> tuple[Span, ...]:
        """For each group the span that covers the kept columns of every sample."""
        groups = zip(*self.spans, strict=True)
        return tuple((min(first for first, _ in group), max(last for _, last in group)) for group in map(list, groups))

    def select(self, rows: Sequence[int]) -> "Conditioning":
        """The samples at ``rows``, in that order; a row may come several times.

        Raises:
            IndexError: a row that is not there.
        """
        rows = list(rows)
        if rows == list(range(len(self))):
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.prompt_embeds.device)
        return Conditioning(
            spans=tuple(self.spans[row] for row in rows),
            **{name: value[index] for name, value in self._tensors().items()},
            added={name: value[index] for name, value in self.added.items()},
            negative_added={name: value[index] for name, value in self.negative_added.items()},
        )

    def outside_inference(self) -> "Conditioning":
        """The same, of which a gradient can be computed though it was encoded under ``torch.inference_mode``."""
        added, negative_added = (
            {name: outside_inference(value) for name, value in values.items()}
            for values in (self.added, self.negative_added)
        )
        tensors = {name: outside_inference(value) for name, value in self._tensors().items()}
        return Conditioning(spans=self.spans, added=added, negative_added=negative_added, **tensors)

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """One batch of several, entities padded to the most there are.

        Raises:
            ValueError: nothing to join, or text rows of different lengths or models.
        """
        if not parts:
            raise ValueError("Conditioning.cat needs at least one part, got none")
        shapes = {(part.prompt_embeds.shape[1:], part.kept.shape[1:], tuple(part.added)) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"cannot join conditionings of different text rows {sorted(str(shape) for shape in shapes)}: "
                "encode them with one backbone and one max_sequence_length"
            )
        most = max(part.entity_mask.shape[1] for part in parts)
        parts = [part._with_entities(most) for part in parts]
        return Conditioning(
            spans=tuple(span for part in parts for span in part.spans),
            **{name: torch.cat([part._tensors()[name] for part in parts]) for name in parts[0]._tensors()},
            added={name: torch.cat([part.added[name] for part in parts]) for name in parts[0].added},
            negative_added={
                name: torch.cat([part.negative_added[name] for part in parts]) for name in parts[0].negative_added
            },
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "prompt_embeds": self.prompt_embeds,
            "negative_prompt_embeds": self.negative_prompt_embeds,
            "entity_weights": self.entity_weights,
            "kept": self.kept,
            "entity_mask": self.entity_mask,
        }

    def _with_entities(self, count: int) -> "Conditioning":
        missing = count - self.entity_mask.shape[1]
        tensors = self._tensors()
        tensors["entity_weights"] = pad(self.entity_weights, (0, 0, 0, missing))
        tensors["entity_mask"] = pad(self.entity_mask, (0, missing), value=False)
        return Conditioning(spans=self.spans, added=self.added, negative_added=self.negative_added, **tensors)


@dataclass(frozen=True)
class EntityMaps:
    """Where each entity of each sample is attended to.

    Args:
        maps: (B, E, h, w), float32 (float64 for a float64 model), in [0, 1]; 0 where masked.
        mask: (B, E), False is padding of a sample that has fewer entities than another.
    """

    maps: Float[Tensor, "batch entities height width"]
    mask: Bool[Tensor, "batch entities"]
