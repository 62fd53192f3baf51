"""Reading text-to-image attention out of a running denoiser, and leaving it as it was."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keystep.core.attention_call import AttentionCall, AttentionWatch, TokenPlaces
from keystep.core.processors import refuse_cut_gradients, with_fused_attention

_captured_now: "WeakSet[nn.Module]" = WeakSet()


class _AllCaptured(Exception):
    """Leaves the denoiser's forward: the last layer asked for has been read."""


class AttentionCapture:
    """Attention of image queries to text keys in chosen layers, for the denoiser calls made inside ``with``.

    Queries and keys are taken where torch's ``scaled_dot_product_attention`` gets them, after every
    projection, normalisation and rotary embedding, while a chosen layer runs. The denoiser stops as soon as
    the last layer has been read: nothing after it is computed or kept. Weights need no gradient meanwhile.
    On leaving, also by an exception, everything is as it was.

    Args:
        denoiser: the model that the layers belong to.
        layers: diffusers attention modules by name.
        columns: spans (first, after the last) of text columns wanted.
        places: where image queries and text keys stand among the tokens of these layers.

    Raises:
        ValueError: no layers; the denoiser is being captured already; it has gradient checkpointing on; its
            weights were made in inference mode.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        layers: Mapping[str, nn.Module],
        columns: Sequence[tuple[int, int]],
        places: TokenPlaces,
    ):
        if not layers:
            raise ValueError("no attention layers to capture: name at least one")
        self._denoiser = denoiser
        self._layers = dict(layers)
        self._columns = tuple(columns)
        self._places = places
        self._restore = ExitStack()
        self._watches: list[AttentionWatch] = []
        self._probabilities: dict[str, Tensor] = {}
        self._heads = 0
        self._wants_gradient = False
        self._running_in: int | None = None

    def __enter__(self) -> Self:
        if self._denoiser in _captured_now:
            raise ValueError("this denoiser's attention is being captured already: captures cannot be nested")
        if getattr(self._denoiser, "is_gradient_checkpointing", False):
            raise ValueError(
                "the denoiser has gradient checkpointing on, which would run layers again after the capture: "
                "call disable_gradient_checkpointing() on it"
            )
        with ExitStack() as restore:
            _captured_now.add(self._denoiser)
            restore.callback(_captured_now.discard, self._denoiser)
            weights = list(self._denoiser.parameters())
            if torch.is_grad_enabled() and any(weight.is_inference() for weight in weights):
                raise ValueError(
                    "the denoiser's weights were made under torch.inference_mode(), so that torch computes no "
                    "gradient through them: load the pipeline outside of it; calling it inside is fine"
                )
            trainable = [weight for weight in weights if weight.requires_grad]
            restore.callback(_set_trainable, trainable, True)
            _set_trainable(trainable, False)
            restore.enter_context(with_fused_attention(self._layers.values()))
            for name, layer in self._layers.items():
                for handle in (
                    layer.register_forward_pre_hook(lambda *_, name=name: self._start(name)),
                    layer.register_forward_hook(lambda *_: self._stop()),
                ):
                    restore.callback(handle.remove)
            self._restore = restore.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore.close()

    def run(
        self, forward: Callable[[], Any], gradient_of: Tensor | None = None
    ) -> Float[Tensor, "batch queries columns"]:
        """Call the denoiser and return the probabilities of the text columns, mean over all heads of all layers.

        Args:
            forward: calls the denoiser once; left by the last layer captured, its result is not used.
            gradient_of: the denoiser's input. Where it requires a gradient and gradients are on, every layer
                has to hang on it; None and the probabilities are of use as values alone.

        Returns:
            (B, queries, columns) in float32 or wider, differentiable with respect to the denoiser's input.

        Raises:
            ValueError: the call ended without some layer's attention; or the way from the input to a layer is
                cut for gradients, which would then be zero without a word.
        """
        self._probabilities, self._heads = {}, 0
        self._wants_gradient = gradient_of is not None and gradient_of.requires_grad and torch.is_grad_enabled()
        self._running_in = threading.get_ident()
        try:
            with refuse_cut_gradients(self._denoiser, self._wants_gradient):
                forward()
        except _AllCaptured:
            return torch.stack(list(self._probabilities.values())).sum(dim=0) / self._heads
        else:
            missed = [name for name in self._layers if name not in self._probabilities]
            raise ValueError(
                f"the denoiser ran to its end without the attention of {', '.join(missed)}: the processor "
                f"({self._processor(missed[0])}) does not call torch's scaled_dot_product_attention (call "
                "set_default_attn_processor() on the denoiser), or the layer is compiled (use it uncompiled), or it "
                "does not run"
            )
        finally:
            self._running_in = None
            while self._watches:
                self._stop()
            self._probabilities = {}

    def _start(self, name: str) -> None:
        """Watch what torch is asked for while a layer runs."""
        if self._running_in == threading.get_ident() and name not in self._probabilities:
            watch = AttentionWatch(lambda call: self._attend(name, call))
            watch.__enter__()
            self._watches.append(watch)

    def _stop(self) -> None:
        if self._watches and self._running_in in (None, threading.get_ident()):
            self._watches.pop().__exit__(None, None, None)

    def _attend(self, name: str, call: AttentionCall) -> Tensor:
        if name in self._probabilities or not call.holds(self._places, self._columns):
            return call.run()
        if self._wants_gradient and not (torch.is_grad_enabled() and call.query.requires_grad):
            raise ValueError(
                f"no gradient reaches the queries of {name}, so that nothing could be refined: its processor "
                f"({self._processor(name)}) or something before it detaches them, or runs under torch.no_grad() or "
                "inference_mode()"
            )
        last = len(self._probabilities) + 1 == len(self._layers)
        probabilities, output = call.read(self._places, self._columns, with_output=not last)
        self._probabilities[name] = probabilities
        self._heads += call.query.shape[1]
        if output is None:
            raise _AllCaptured
        return output

    def _processor(self, name: str) -> str:
        return type(getattr(self._layers[name], "processor", None)).__name__


def _set_trainable(weights: Sequence[nn.Parameter], trainable: bool) -> None:
    for weight in weights:
        weight.requires_grad_(trainable)
