"""Attention probabilities of some keys only: their columns and the log-normaliser, never the whole matrix."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**26
"""Bytes of the block of logits that is alive at a time."""

Columns = Sequence[tuple[int, int]]
"""Spans (first, after the last) of keys, one after the other, not overlapping."""


def head_sum_probabilities(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    columns: Columns,
    scale: float,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch queries columns"]:
    """``softmax(scale * query @ key^T + mask)`` summed over heads, at the given keys alone.

    ``exp(scale * q k_j - logsumexp_i(scale * q k_i))``, computed for a few heads or queries at a time,
    forward and, again, backward: query, key and one normaliser a query and head are all that is kept for
    the gradient, while the matrix would be queries x keys x heads. The recomputation is that of Dao et al.,
    *FlashAttention* (arXiv 2205.14135), here for the probabilities themselves. Computed in float32
    (float64 if given float64); on a GPU, ``torch.backends.cuda.matmul.allow_tf32`` makes it fast and loses
    nothing on bfloat16 inputs.

    Args:
        query, key: after the head split and any normalisation.
        columns: the keys to return.
        scale: of the logits, usually ``width ** -0.5``.
        mask: added to the logits, broadcastable to (batch, heads, queries, keys); -inf is a key not seen.

    Returns:
        (B, queries, sum of the spans), each entry in [0, heads]; 0 for a query that sees no key.
        Differentiable once, with respect to query and key.
    """
    return _HeadSumProbabilities.apply(query, key, tuple(columns), scale, mask)


def head_sum_shares(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads columns width"],
    mass: Float[Tensor, "batch heads queries"],
    scale: float,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch queries columns"]:
    """The same probabilities where their sum over the columns is known: ``softmax(scale * query @ key^T) * mass``.

    Exact, since within the columns probabilities stand to one another as in the whole softmax; no other key
    is looked at.

    Args:
        query: as there.
        key: at the columns alone.
        mass: sum of the probabilities of these columns, in [0, 1].
        scale: of the logits.
        mask: as there, at the columns alone.

    Returns:
        As there. Differentiable once, with respect to query, key and mass.
    """
    return _HeadSumShares.apply(query, key, mass, scale, mask)


def pick(matrix: Float[Tensor, "*batch keys"], columns: Columns) -> Float[Tensor, "*batch columns"]:
    """The columns of a matrix, one span after the other."""
    return torch.cat([matrix[..., first:last] for first, last in columns], dim=-1)


Block = tuple[slice, slice, slice]
"""Samples, heads and queries of one block of logits."""


def _blocks(query: Tensor, num_keys: int) -> Iterator[Block]:
    """Everything at once where it is small; then sample by sample, by some heads, and by rows of one head."""
    batch, heads, queries, _ = query.shape
    row_bytes = 4 * num_keys
    samples = max(1, min(batch, CHUNK_BYTES // (row_bytes * heads * queries)))
    some_heads = max(1, min(heads, CHUNK_BYTES // (row_bytes * queries)))
    rows = max(1, min(queries, CHUNK_BYTES // row_bytes))
    for sample in range(0, batch, samples):
        for head in range(0, heads, some_heads):
            for row in range(0, queries, rows):
                yield (
                    slice(sample, min(sample + samples, batch)),
                    slice(head, min(head + some_heads, heads)),
                    slice(row, min(row + rows, queries)),
                )


def _of_block(mask: Tensor, block: Block) -> Tensor:
    """The mask (batch, heads, queries, keys), any of which may be 1, at a block."""
    return mask[tuple(part if size > 1 else slice(None) for part, size in zip(block, mask.shape, strict=False))]


def _finite(normaliser: Tensor) -> Tensor:
    """A log-normaliser that leaves probabilities 0 where no key is seen, instead of NaN."""
    return normaliser.clamp_(min=torch.finfo(normaliser.dtype).min)


class _HeadSumProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, columns: Columns, scale: float, mask: Tensor | None):
        dtype = torch.promote_types(query.dtype, torch.float32)
        wide_key = key.to(dtype)
        normalisers = query.new_empty(*query.shape[:3], 1, dtype=dtype)
        width = sum(last - first for first, last in columns)
        probabilities = query.new_zeros(len(query), query.shape[2], width, dtype=dtype)
        with torch.autocast(query.device.type, enabled=False):
            for block in _blocks(query, key.shape[2]):
                logits = (query[block].to(dtype) * scale) @ wide_key[block[:2]].transpose(-1, -2)
                if mask is not None:
                    logits += _of_block(mask, block)
                normalisers[block] = _finite(logits.logsumexp(dim=-1, keepdim=True))
                shares = (pick(logits, columns) - normalisers[block]).exp().sum(dim=1)
                probabilities[block[0], block[2]] += shares
        ctx.save_for_backward(query, key, normalisers, mask)
        ctx.columns, ctx.scale = columns, scale
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):
        query, key, normaliser, mask = ctx.saved_tensors
        grad = grad_outputs[0][:, None]
        dtype = normaliser.dtype
        wide_key = key.to(dtype)
        grad_query, grad_key = query.new_empty(query.shape, dtype=dtype), torch.zeros_like(wide_key)
        with torch.autocast(query.device.type, enabled=False):
            for block in _blocks(query, key.shape[2]):
                part_key = wide_key[block[:2]]
                wide_query = query[block].to(dtype) * ctx.scale
                # Softmax's own gradient, P * (g - sum(P * g)), where g is zero outside the columns.
                matrix = wide_query @ part_key.transpose(-1, -2)
                if mask is not None:
                    matrix += _of_block(mask, block)
                matrix.sub_(normaliser[block]).exp_()
                weighted = pick(matrix, ctx.columns) * grad[block[0], :, block[2]]
                matrix.mul_(weighted.sum(dim=-1, keepdim=True).neg_())
                start = 0
                for first, last in ctx.columns:
                    matrix[..., first:last] += weighted[..., start : start + last - first]
                    start += last - first
                grad_query[block] = (matrix @ part_key).mul_(ctx.scale)
                grad_key[block[:2]] += matrix.transpose(-1, -2) @ wide_query
        return grad_query.to(query.dtype), grad_key.to(key.dtype), None, None, None


class _HeadSumShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, mass: Tensor, scale: float, mask: Tensor | None):
        ctx.save_for_backward(query, key, mass, mask)
        ctx.scale = scale
        return (_shares(query, key, scale, mask) * mass[..., None]).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):
        query, key, mass, mask = ctx.saved_tensors
        shares = _shares(query, key, ctx.scale, mask)
        weighted = shares * grad_outputs[0][:, None]
        grad_mass = weighted.sum(dim=-1)
        grad_logits = (weighted - shares * grad_mass[..., None]) * (mass * ctx.scale)[..., None]
        return grad_logits @ key, grad_logits.transpose(-1, -2) @ query, grad_mass, None, None


def _shares(query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    logits = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        logits += mask
    return (logits - _finite(logits.logsumexp(dim=-1, keepdim=True))).exp_()
