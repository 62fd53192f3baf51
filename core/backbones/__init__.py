"""One file a family of models; ``backbone_for`` picks the one for a pipeline."""

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.conditioning import Conditioning, EntityMaps
from keystep.core.backbones.mmdit import MMDiTBackbone
from keystep.core.backbones.registry import BACKBONES, backbone_for
from keystep.core.backbones.unet import UNetBackbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "Conditioning",
    "EntityMaps",
    "MMDiTBackbone",
    "UNetBackbone",
    "backbone_for",
]
