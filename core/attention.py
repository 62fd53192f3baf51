"""Reading text-to-image attention out of a running denoiser, and leaving it as it was."""

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.probabilities import head_sum_probabilities

_captured_now: "WeakSet[nn.Module]" = WeakSet()


class _AllCaptured(Exception):
    """Leaves the denoiser's forward: the last layer asked for has been read."""


class AttentionCapture:
    """Attention of image queries to text keys in chosen layers, for the denoiser calls made inside ``with``.

    Queries and keys are taken as the layers compute them, by hooks on their projections (or on the
    normalisation after them, where there is one), so attention processors, adapters and fused kernels stay
    what they are. The denoiser stops as soon as the last layer has been read: nothing after it is computed
    or kept. Weights need no gradient meanwhile. On leaving, also by an exception, hooks are gone and
    weights are as they were.

    Args:
        denoiser: the model that the layers belong to.
        layers: diffusers ``Attention`` modules by name: cross attention (keys are text), or joint
            attention (text has its own projections, and its keys come after the image's).
        columns: spans (first, after the last) of text columns wanted.

    Raises:
        ValueError: no layers; the denoiser is being captured already; it has gradient checkpointing on.
    """

    def __init__(self, denoiser: nn.Module, layers: Mapping[str, nn.Module], columns: Sequence[tuple[int, int]]):
        if not layers:
            raise ValueError("no attention layers to capture: name at least one")
        self._denoiser = denoiser
        self._layers: dict[str, Any] = dict(layers)
        self._columns = tuple(columns)
        self._taps = {name: _projections(layer) for name, layer in self._layers.items()}
        self._outputs: dict[str, dict[str, Tensor]] = {}
        self._probabilities: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._trainable: list[nn.Parameter] = []
        self._thread = 0

    def __enter__(self) -> Self:
        if self._denoiser in _captured_now:
            raise ValueError("this denoiser's attention is being captured already: captures cannot be nested")
        if getattr(self._denoiser, "is_gradient_checkpointing", False):
            raise ValueError(
                "the denoiser has gradient checkpointing on, which would run layers again after the capture: "
                "call disable_gradient_checkpointing() on it"
            )
        _captured_now.add(self._denoiser)
        self._thread = threading.get_ident()
        self._trainable = [weight for weight in self._denoiser.parameters() if weight.requires_grad]
        for weight in self._trainable:
            weight.requires_grad_(False)
        for name, taps in self._taps.items():
            for role, module in taps.items():
                self._handles.append(module.register_forward_hook(self._recorder(name, role)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for weight in self._trainable:
            weight.requires_grad_(True)
        self._handles, self._trainable = [], []
        _captured_now.discard(self._denoiser)

    def run(self, forward: Callable[[], Any]) -> Float[Tensor, "batch queries columns"]:
        """Call the denoiser and return the probabilities of the text columns, mean over all heads of all layers.

        Args:
            forward: calls the denoiser once; left by the last layer captured, its result is not used.

        Returns:
            (B, queries, columns) in float32 or wider, differentiable with respect to the denoiser's input.

        Raises:
            ValueError: the call ended and some layer never computed its projections.
        """
        self._outputs, self._probabilities = {name: {} for name in self._layers}, {}
        try:
            forward()
        except _AllCaptured:
            heads = sum(layer.heads for layer in self._layers.values())
            return torch.stack(list(self._probabilities.values())).sum(dim=0) / heads
        else:
            missed = ", ".join(name for name in self._layers if name not in self._probabilities)
            raise ValueError(
                f"the denoiser ran to its end without the projections of {missed}: if they are fused, call "
                "unfuse_qkv_projections() on it"
            )
        finally:
            self._outputs, self._probabilities = {}, {}

    def _recorder(self, name: str, role: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs = self._outputs.get(name)
            if outputs is None or threading.get_ident() != self._thread:
                return  # another thread calls the same denoiser
            outputs[role] = output
            if len(outputs) == len(self._taps[name]):
                self._probabilities[name] = self._read(name, self._outputs.pop(name))
                if not self._outputs:
                    raise _AllCaptured

        return record

    def _read(self, name: str, outputs: Mapping[str, Tensor]) -> Tensor:
        heads = self._layers[name].heads
        split = {role: _split_heads(output, heads) for role, output in outputs.items()}
        key, columns = split["key"], self._columns
        if "text_key" in split:
            offset = key.shape[2]
            key = torch.cat([key, split["text_key"]], dim=2)
            columns = [(first + offset, last + offset) for first, last in columns]
        return head_sum_probabilities(split["query"], key, columns, key.shape[-1] ** -0.5)


def _projections(layer: Any) -> dict[str, nn.Module]:
    """The modules whose outputs are the query, the key and, in joint attention, the text's own key."""
    taps = {"query": layer.norm_q or layer.to_q, "key": layer.norm_k or layer.to_k}
    if getattr(layer, "add_k_proj", None) is not None:
        taps["text_key"] = layer.norm_added_k or layer.add_k_proj
    return taps


def _split_heads(tensor: Tensor, heads: int) -> Float[Tensor, "batch heads tokens width"]:
    """A projection's output (B, tokens, heads * width) by head; a normalisation's is split already."""
    if tensor.ndim == 4:
        return tensor
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)
