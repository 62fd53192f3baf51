"""The plain way: full forwards with whole attention matrices, and maps computed entity by entity."""

from math import exp

import torch
from torch import Tensor
from torch.nn.functional import pad

from keystep.core.backbones import MMDiTBackbone
from keystep.core.prompts import Prompt

Probabilities = list[Tensor]
"""A layer an entry: (batch, heads, queries, keys)."""


class WholeMatrixProcessor:
    """Attention with its whole matrix in memory; text probabilities of the wanted query count are kept."""

    def __init__(self, store: Probabilities, queries: int):
        self.store, self.queries = store, queries

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        joint = getattr(attn, "add_k_proj", None) is not None
        source = hidden_states if joint or encoder_hidden_states is None else encoder_hidden_states
        heads = lambda tensor: tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        norm = lambda module, tensor: tensor if module is None else module(tensor)  # noqa: E731
        query = norm(attn.norm_q, heads(attn.to_q(hidden_states)))
        key, value = norm(attn.norm_k, heads(attn.to_k(source))), heads(attn.to_v(source))
        count = query.shape[2]
        if joint:
            text = encoder_hidden_states
            query = torch.cat([query, norm(attn.norm_added_q, heads(attn.add_q_proj(text)))], dim=2)
            key = torch.cat([key, norm(attn.norm_added_k, heads(attn.add_k_proj(text)))], dim=2)
            value = torch.cat([value, heads(attn.add_v_proj(text))], dim=2)
        matrix = (query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5).softmax(dim=-1)
        if joint:
            self.store.append(matrix[:, :, :count, count:])
        elif encoder_hidden_states is not None and count == self.queries:
            self.store.append(matrix)
        output = (matrix @ value).transpose(1, 2).flatten(2)
        if not joint:
            return attn.to_out[0](output)
        image, text = output[:, :count], output[:, count:]
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


def plain_probabilities(backbone, model_input: Tensor, timestep: Tensor, conditioning, grid) -> Tensor:
    """Mean over heads and layers of a full forward with whole matrices: (batch, queries, text tokens)."""
    store: Probabilities = []
    model = backbone.denoiser
    stock = dict(model.attn_processors)
    model.set_attn_processor(WholeMatrixProcessor(store, grid[0] * grid[1]))
    backbone.predict(model_input, timestep, conditioning.prompt_embeds, conditioning.added)
    model.set_attn_processor(stock)
    return torch.cat(store, dim=1).mean(dim=1)


def plain_maps(backbone, probabilities: Tensor, prompt: Prompt, groups, grid) -> Tensor:
    """Entity maps of one sample, (entities, h, w), by the steps of the method one after the other.

    ``groups``: for each text encoder its kept columns (first, last) and the columns of each entity.
    """
    maps = []
    for entity in range(len(prompt.entities)):
        of_encoders = []
        for (first, last), tokens in groups:
            shares = torch.softmax(100 * probabilities[:, first:last], dim=-1)
            mean = torch.stack([shares[:, token - first] for token in tokens[entity]]).mean(dim=0)
            of_encoders.append(blur(mean.reshape(grid)))
        maps.append(torch.stack(of_encoders).mean(dim=0))
    assert len(groups) == (2 if isinstance(backbone, MMDiTBackbone) else 1)
    return torch.stack(maps)


def blur(image: Tensor) -> Tensor:
    """3 x 3 Gaussian, weights in the ratio 1 : e^-1 : e^-2, over the image reflected by one pixel."""
    padded = pad(image[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    height, width = image.shape
    total = 1 + 4 * exp(-1) + 4 * exp(-2)
    return sum(
        exp(-abs(down - 1) - abs(right - 1)) / total * padded[down : down + height, right : right + width]
        for down in range(3)
        for right in range(3)
    )
