"""Which family a pipeline belongs to."""

from typing import Any

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.compiled import uncompiled
from keystep.core.backbones.mmdit import MMDiTBackbone
from keystep.core.backbones.unet import UNetBackbone
from keystep.core.config import AttentionChoice

BACKBONES: dict[str, type[Backbone]] = {
    "UNet2DConditionModel": UNetBackbone,
    "SD3Transformer2DModel": MMDiTBackbone,
}
"""Families by the class of their denoiser; a new family is added here."""


def backbone_for(pipe: Any, attention: AttentionChoice | None = None) -> Backbone:
    """The backbone of a stock diffusers pipeline.

    Args:
        pipe: a loaded pipeline with a ``unet`` or a ``transformer``.
        attention: which attention layers the maps come from; None is the family's rule.

    Raises:
        ValueError: a denoiser of no known family; says which are known.
    """
    denoiser = getattr(pipe, "unet", None)
    if denoiser is None:  # not "or": a compiled module has no length, and so no truth
        denoiser = getattr(pipe, "transformer", None)
    name = type(uncompiled(denoiser)).__name__
    if name not in BACKBONES:
        raise ValueError(
            f"{type(pipe).__name__} has {'no denoiser' if denoiser is None else name}, of no known family; "
            f"known are {', '.join(BACKBONES)}"
        )
    return BACKBONES[name](pipe, attention)
