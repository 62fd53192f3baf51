"""Attention probabilities of some keys only: their columns and the log-normaliser, never the whole matrix."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**26
"""Bytes of the block of logits that is alive at a time."""


def head_sum_probabilities(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    columns: Sequence[tuple[int, int]],
    scale: float,
) -> Float[Tensor, "batch queries columns"]:
    """``softmax(scale * query @ key^T)`` summed over heads, at the given keys alone.

    ``exp(scale * q k_j - logsumexp_i(scale * q k_i))``, computed for a few queries at a time, forward and,
    again, backward: query, key and one normaliser a query and head are all that is kept for the gradient,
    while the matrix would be queries x keys x heads. The recomputation is that of Dao et al.,
    *FlashAttention* (arXiv 2205.14135), here for the probabilities themselves. Computed in float32
    (float64 if given float64); on a GPU, ``torch.backends.cuda.matmul.allow_tf32`` makes it fast and loses
    nothing on bfloat16 inputs.

    Args:
        query, key: after the head split and any normalisation.
        columns: spans (first, after the last) of keys to return, one after the other, not overlapping.
        scale: of the logits, usually ``width ** -0.5``.

    Returns:
        (B, queries, sum of the spans), each entry in [0, heads]. Differentiable once.
    """
    return _HeadSumProbabilities.apply(query, key, tuple(columns), scale)


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    batch, heads, num_queries, _ = query.shape
    rows = max(1, CHUNK_BYTES // (batch * heads * key.shape[2] * 4))
    return [slice(start, start + rows) for start in range(0, num_queries, rows)]


def _pick(matrix: Tensor, columns: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([matrix[..., first:last] for first, last in columns], dim=-1)


class _HeadSumProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, columns: Sequence[tuple[int, int]], scale: float):
        dtype = torch.promote_types(query.dtype, torch.float32)
        transposed = key.to(dtype).transpose(-1, -2)
        normalisers, probabilities = [], []
        for rows in _chunks(query, key):
            logits = (query[:, :, rows].to(dtype) * scale) @ transposed
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            probabilities.append((_pick(logits, columns) - normaliser).exp().sum(dim=1))
            normalisers.append(normaliser)
        ctx.save_for_backward(query, key, torch.cat(normalisers, dim=2))
        ctx.columns, ctx.scale = columns, scale
        return torch.cat(probabilities, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):
        query, key, normaliser = ctx.saved_tensors
        grad = grad_outputs[0][:, None]
        dtype = normaliser.dtype
        wide_key = key.to(dtype)
        grad_queries, grad_key = [], torch.zeros_like(wide_key)
        for rows in _chunks(query, key):
            wide_query = query[:, :, rows].to(dtype) * ctx.scale
            # Softmax's own gradient, P * (g - sum(P * g)), where g is zero outside the columns.
            matrix = (wide_query @ wide_key.transpose(-1, -2)).sub_(normaliser[:, :, rows]).exp_()
            weighted = _pick(matrix, ctx.columns) * grad[:, :, rows]
            matrix.mul_(weighted.sum(dim=-1, keepdim=True).neg_())
            start = 0
            for first, last in ctx.columns:
                matrix[..., first:last] += weighted[..., start : start + last - first]
                start += last - first
            grad_queries.append((matrix @ wide_key).mul_(ctx.scale))
            grad_key += matrix.transpose(-1, -2) @ wide_query
        return torch.cat(grad_queries, dim=2).to(query.dtype), grad_key.to(key.dtype), None, None
