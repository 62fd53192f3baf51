"""One file a family of models; ``backbone_for`` picks the one for a pipeline."""

from core.backbones.base import Backbone
from core.backbones.conditioning import Conditioning, EntityMaps
from core.backbones.mmdit import MMDiTBackbone
from core.backbones.registry import BACKBONES, backbone_for
from core.backbones.unet import UNetBackbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "Conditioning",
    "EntityMaps",
    "MMDiTBackbone",
    "UNetBackbone",
    "backbone_for",
]
