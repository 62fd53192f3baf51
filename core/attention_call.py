"""One call of torch's fused attention, and the probabilities of its text columns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from keystep.core.probabilities import Columns, head_sum_probabilities, head_sum_shares, pick

FUSE_FROM_BYTES = 2**26
"""Bytes of a sample's matrix of logits from which the fused kernel is the faster way to their normaliser."""

EXTRA_WIDTH = {"cpu": 1}
"""Columns added to a widened call, by device: 8, for other kernels want aligned rows."""


class TokenPlaces(NamedTuple):
    """Where the image's queries and the text's keys stand among a layer's tokens.

    Args:
        queries: image queries, those of the query grid.
        first_query: row of the first of them; not 0 where text comes first.
        first_text: key that text column 0 is; not 0 where the image comes first in joint attention.
    """

    queries: int
    first_query: int = 0
    first_text: int = 0


@dataclass(frozen=True)
class AttentionCall:
    """The arguments of one ``scaled_dot_product_attention``."""

    query: Float[Tensor, "batch heads queries width"]
    key: Float[Tensor, "batch key_heads keys width"]
    value: Float[Tensor, "batch key_heads keys value_width"]
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def run(self) -> Tensor:
        """What the call gives, by torch itself."""
        return scaled_dot_product_attention(**vars(self))

    def holds(self, places: TokenPlaces, columns: Columns) -> bool:
        """Whether the tokens wanted are among this call's."""
        enough_queries = self.query.shape[-2] >= places.first_query + places.queries
        return (
            self.query.ndim == 4
            and enough_queries
            and self.key.shape[-2] >= places.first_text + max(last for _, last in columns)
        )

    def read(
        self, places: TokenPlaces, columns: Columns, *, with_output: bool
    ) -> tuple[Float[Tensor, "batch queries columns"], Tensor | None]:
        """The text columns' probabilities of the image queries summed over heads, and the call's output if wanted.

        Large calls in full precision are left to the fused kernel: with an indicator of the columns among the
        values it adds up their probabilities, forward and backward, and gives the output that the model needs
        in the same go. In half precision it would round that sum, and small calls are faster without: these are
        read by `keystep.core.probabilities.head_sum_probabilities`.

        Raises:
            ValueError: causal attention, of which nothing here is known.
        """
        if self.is_causal:
            raise ValueError("the attention layer is causal: its text columns cannot be read, choose another layer")
        spans = [(first + places.first_text, last + places.first_text) for first, last in columns]
        rows = slice(places.first_query, places.first_query + places.queries)
        if self._fuses():
            return self._read_widened(rows, spans) if with_output else (self._read_alone(rows, spans), None)
        query, key = self.query[:, :, rows], self._shared(self.key)
        probabilities = head_sum_probabilities(query, key, spans, self._scale, self._mask(rows))
        return probabilities, self.run() if with_output else None

    @property
    def _scale(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    def _fuses(self) -> bool:
        matrix = self.query.shape[1] * self.query.shape[2] * self.key.shape[2] * 4
        full = self.query.dtype in (torch.float32, torch.float64)
        full = full and not torch.is_autocast_enabled(self.query.device.type)
        same = self.value.shape[-1] == self.query.shape[-1]
        return full and same and self.dropout_p == 0 and matrix >= FUSE_FROM_BYTES

    def _read_widened(self, rows: slice, spans: Columns) -> tuple[Tensor, Tensor]:
        """By the model's own call, with more columns in query, key and value."""
        width = self.query.shape[-1]
        extra = EXTRA_WIDTH.get(self.query.device.type, 8)
        query, key = (
            torch.cat([tensor, tensor.new_zeros(*tensor.shape[:-1], extra)], dim=-1)
            for tensor in (self.query, self.key)
        )
        value = torch.cat([self.value, self._indicator(spans, extra)], dim=-1)
        wide = replace(self, query=query, key=key, value=value, scale=self._scale)
        output, sums = wide.run().split((width, extra), dim=-1)
        (mass,) = _sections(sums[..., 0], [(rows.start, rows.stop)])
        # The widened query and key, whose further columns are 0, since autograd keeps those anyway.
        (query,) = _sections(query, [(rows.start, rows.stop)])
        return wide._by_mass(query, mass, rows, spans), output

    def _read_alone(self, rows: slice, spans: Columns) -> Tensor:
        """By a call of the image queries that gives nothing else."""
        (query,) = _sections(self.query, [(rows.start, rows.stop)])
        mask = self.attn_mask if self.attn_mask is None else self._rows_of(self.attn_mask, rows)
        value = self._indicator(spans, query.shape[-1])
        output = replace(self, query=query, value=value, attn_mask=mask).run()
        return self._by_mass(query, output[..., 0], rows, spans)

    def _indicator(self, spans: Columns, width: int) -> Tensor:
        """Values (batch, key heads, keys, width): 1 in the first column at the keys wanted, else 0."""
        indicator = self.value.new_zeros(*self.value.shape[:-1], width)
        for first, last in spans:
            indicator[..., first:last, 0] = 1
        return indicator

    def _by_mass(self, query: Tensor, mass: Tensor, rows: slice, spans: Columns) -> Tensor:
        key = torch.cat(_sections(self.key, spans), dim=2)
        mask = self._mask(rows)
        mask = mask if mask is None or mask.shape[-1] == 1 else pick(mask, spans)
        return head_sum_shares(query, self._shared(key), mass, self._scale, mask)

    def _shared(self, key: Tensor) -> Tensor:
        """One key a query head, where heads share theirs."""
        return key.repeat_interleave(self.query.shape[1] // key.shape[1], dim=1) if self.enable_gqa else key

    def _mask(self, rows: slice) -> Tensor | None:
        """What is added to the logits of the rows: four dimensions, in full precision."""
        if self.attn_mask is None:
            return None
        mask = self._rows_of(self.attn_mask, rows)
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        if mask.dtype != torch.bool:
            return mask.to(dtype)
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)

    def _rows_of(self, mask: Tensor, rows: slice) -> Tensor:
        mask = mask[(None,) * (4 - mask.ndim)]
        return mask[:, :, rows] if mask.shape[2] > 1 else mask


def _sections(tensor: Float[Tensor, "batch heads tokens *width"], spans: Columns) -> list[Tensor]:
    """The tokens of each span; by one split, whose gradient is one copy, where slices fill a whole tensor each."""
    edges = [0, *(edge for span in spans for edge in span), tensor.shape[2]]
    sizes = [after - before for before, after in pairwise(edges)]
    return list(tensor.split(sizes, dim=2)[1::2])


class AttentionWatch(TorchFunctionMode):
    """While it is entered, torch's fused attention goes through ``attend`` instead.

    Args:
        attend: takes the call and gives what it should give.
    """

    def __init__(self, attend: Callable[[AttentionCall], Tensor]):
        super().__init__()
        self._attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every torch function that is called meanwhile."""
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self._attend(AttentionCall(*args, **kwargs))
