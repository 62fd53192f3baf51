"""Attention processors of a denoiser: which of them an attention capture can watch, and which cut gradients."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor, nn

UNFUSED = (AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor)
"""Stock processors that compute what `AttnProcessor2_0` does, without torch's fused attention."""


@contextmanager
def with_fused_attention(layers: Iterable[Any]) -> Iterator[None]:
    """Lets layers compute their attention by torch's ``scaled_dot_product_attention``, and afterwards as before.

    Processors in ``UNFUSED`` have a stock one stand in; those that ask diffusers for an attention backend get its
    native one. Others are left alone.
    """
    swapped: list[tuple[Any, Any]] = []
    asked: list[tuple[Any, Any]] = []
    try:
        for layer in layers:
            processor: Any = getattr(layer, "processor", None)
            if type(processor) in UNFUSED and getattr(layer, "scale_qk", False):
                swapped.append((layer, processor))
                layer.processor = AttnProcessor2_0()
            elif hasattr(processor, "_attention_backend"):
                asked.append((processor, processor._attention_backend))
                processor._attention_backend = None
        with attention_backend("native") if asked else nullcontext():
            yield
    finally:
        for layer, processor in swapped:
            layer.processor = processor
        for processor, backend in asked:
            processor._attention_backend = backend


@contextmanager
def refuse_cut_gradients(denoiser: nn.Module, wanted: bool) -> Iterator[None]:
    """Refuses attention processors of the caller's own that take a gradient and pass none on.

    Around such a layer the gradient still flows, by the residual connection, and would be wrong without a word.

    Args:
        denoiser: that runs meanwhile.
        wanted: whether a gradient is asked for at all.
    """
    handles = []
    foreign = _foreign_processors(denoiser) if wanted else {}
    for name, module in denoiser.named_modules() if foreign else ():
        if module in foreign:
            kind, queries = foreign[module], module._modules.get("to_q")
            handles.append(module.register_forward_hook(_checker(name, kind), with_kwargs=True))
            # Of joint attention the text could still bring a gradient in, when the image's queries have none.
            if queries is not None:
                handles.append(queries.register_forward_hook(_checker(name, kind, always=True)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _foreign_processors(denoiser: nn.Module) -> dict[nn.Module, str]:
    """Modules whose attention processor is not of diffusers, with its name; asked in every iteration, so in haste."""
    foreign, waiting = {}, [denoiser]
    while waiting:
        module = waiting.pop()
        processor = vars(module).get("processor") or module._modules.get("processor")
        if processor is not None and not type(processor).__module__.startswith("diffusers."):
            foreign[module] = type(processor).__name__
        waiting.extend(child for child in module._modules.values() if child is not None)
    return foreign


def _checker(name: str, processor: str, always: bool = False) -> Callable[..., None]:
    """A hook that refuses outputs without a gradient, of inputs with one or ``always``."""

    def check(_module: nn.Module, inputs: Any, *kwargs_and_output: Any) -> None:
        *kwargs, output = kwargs_and_output
        given = [*inputs, *(value for values in kwargs for value in values.values())]
        made = output if isinstance(output, tuple) else (output,)
        if (always or any(map(_has_gradient, given))) and not any(map(_has_gradient, made)):
            raise ValueError(
                f"the attention processor of {name} ({processor}) cuts the gradient: it detaches tensors, or runs "
                "under torch.no_grad() or inference_mode(); refinement needs the gradient of every layer"
            )

    return check


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
