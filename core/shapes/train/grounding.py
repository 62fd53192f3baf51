"""Token grounding: teach an entity's token to be attended to from inside its object, as real models come to do.

Without it the small models let the text act globally: cross-attention stays uniform, and moving the latents along an
attention loss moves nothing. The loss is TokenCompose's token-level objective (Wang et al., arXiv 2312.03626): with
A_e the attention that the image pays to an entity's token, normalised over the image, (1 - sum_inside A_e)^2.
"""

# diffusers and transformers annotate these constructors and outputs too narrowly for their own use.
# pyright: reportOptionalCall=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionRecorder:
    """An attention processor for training: computes attention openly and keeps image-to-text probabilities.

    `maps` fills with one (B, queries, text keys) tensor a layer and forward, averaged over heads. Self-attention goes
    the same open way unrecorded: on CPU that trains twice as fast as the fused kernel, at heads this narrow.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if encoder_hidden_states is not None and getattr(attn, "add_q_proj", None) is not None:
            return self._joint(attn, hidden_states, encoder_hidden_states)
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (_heads(attn, x) for x in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)))
        weights = _attention(attn, query, key)
        if encoder_hidden_states is not None:
            self.maps.append(weights.mean(1))
        return attn.to_out[0](_merge(weights.to(value.dtype) @ value))

    def _joint(self, attn: Attention, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.shape[1]
        image_qkv = [_heads(attn, layer(image)) for layer in (attn.to_q, attn.to_k, attn.to_v)]
        text_qkv = [_heads(attn, layer(text)) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)]
        norms = ((attn.norm_q, attn.norm_added_q), (attn.norm_k, attn.norm_added_k))
        for place, (image_norm, text_norm) in enumerate(norms):
            if image_norm is not None:
                image_qkv[place] = image_norm(image_qkv[place])
            if text_norm is not None:
                text_qkv[place] = text_norm(text_qkv[place])
        query, key, value = (torch.cat(pair, 2) for pair in zip(image_qkv, text_qkv, strict=True))
        weights = _attention(attn, query, key)
        self.maps.append(weights[:, :, :pixels, pixels:].mean(1))
        mixed = _merge(weights.to(value.dtype) @ value)
        context = mixed[:, pixels:]
        if not attn.context_pre_only:
            context = attn.to_add_out(context)
        return attn.to_out[0](mixed[:, :pixels]), context


@contextmanager
def recording(model: nn.Module) -> Iterator[AttentionRecorder]:
    """Record every attention of `model` (UNet or MMDiT) to text until the block ends."""
    recorder = AttentionRecorder()
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    stock = [layer.processor for layer in layers]
    for layer in layers:
        layer.processor = recorder
    try:
        yield recorder
    finally:
        for layer, processor in zip(layers, stock, strict=True):
            layer.processor = processor


def grounding_loss(maps: list[Tensor], columns: Tensor, coverage: Tensor) -> Tensor:
    """Mean over entities and layers of the squared share of a token's attention that falls outside its object.

    Args:
        maps: (B, h*w, text keys) probabilities, one tensor a layer; square grids.
        columns: (B, E) text key of each entity, -1 where there is nothing to ground.
        coverage: (B, E, 16, 16) share of each cell inside the entity's object, in [0, 1].

    Returns:
        A scalar in [0, 1]; lower is better localised.
    """
    present = (columns >= 0) & (coverage.amax((2, 3)) > 0)
    total = coverage.new_zeros(())
    for layer in maps:
        side = int(layer.shape[1] ** 0.5)
        index = columns.clamp(min=0)[:, None, :].expand(-1, layer.shape[1], -1)
        attention = layer.float().gather(2, index).transpose(1, 2)
        inside = F.adaptive_avg_pool2d(coverage, side).flatten(2)
        share = (attention * inside).sum(-1) / attention.sum(-1).clamp(min=1e-8)
        total = total + ((1 - share).square() * present).sum() / present.sum().clamp(min=1)
    return total / len(maps)


def _heads(attn: Attention, x: Tensor) -> Tensor:
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attention(attn: Attention, query: Tensor, key: Tensor) -> Tensor:
    return (query * attn.scale @ key.transpose(2, 3)).softmax(-1)
