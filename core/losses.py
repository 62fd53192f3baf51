"""Losses on the attention maps of a prompt's entities: what a refinement minimises.

Each takes maps (B, E, h, w) and a mask (B, E), False where a sample has fewer than E entities, and returns
one loss a sample (B,), lower is better. They compute in float32 (float64 if given float64), never wait for
the device, and have a finite gradient everywhere. From Grimal et al., arXiv 2504.17525, and Chefer et al.,
arXiv 2301.13826.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from keystep.core.config import LossWeights

Loss = Callable[[Tensor, Tensor], Tensor]


def _checked(maps: Tensor, mask: Tensor) -> Tensor:
    """The maps in full precision, zero where masked; refuses shapes that broadcasting would hide."""
    if maps.ndim != 4 or mask.shape != maps.shape[:2]:
        raise ValueError(f"maps must be (B, E, h, w) and mask (B, E), got {tuple(maps.shape)} and {tuple(mask.shape)}")
    if mask.dtype != torch.bool or not maps.is_floating_point():
        raise ValueError(f"maps must be floating point and mask boolean, got {maps.dtype} and {mask.dtype}")
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return torch.where(mask[..., None, None], maps, 0)


def catastrophic_neglect(
    maps: Float[Tensor, "batch entities height width"], mask: Bool[Tensor, "batch entities"]
) -> Float[Tensor, " batch"]:
    """CN, the entity attended to least: ``max_e max(0, 1 - max_xy A_e)``.

    Args:
        maps: attention of each entity, in [0, 1].
        mask: True for an entity, False for padding.

    Returns:
        One loss a sample, in [0, 1]; 0, with a zero gradient, if every entity has a pixel at 1 or more, or if
        there is no entity.

    Raises:
        ValueError: shapes or dtypes other than these.
    """
    peaks = _checked(maps, mask).amax(dim=(-2, -1))
    lacking = torch.where(mask, torch.relu(1 - peaks), 0)
    # A maximum over no entities is an error, and the sum over them is the 0 that they have to give.
    return lacking.amax(dim=-1) if lacking.shape[-1] else lacking.sum(dim=-1)


def intersection_over_union(
    maps: Float[Tensor, "batch entities height width"], mask: Bool[Tensor, "batch entities"]
) -> Float[Tensor, " batch"]:
    """IoU, how much entities share their place: mean over pairs of ``sum min(A_e, A_f) / sum (A_e + A_f)``.

    Args:
        maps: attention of each entity, at least 0.
        mask: True for an entity, False for padding.

    Returns:
        One loss a sample, in [0, 0.5]; 0 with fewer than two entities, and for a pair that is nowhere.

    Raises:
        ValueError: shapes or dtypes other than these.
    """
    maps = _checked(maps, mask)
    shared = torch.minimum(maps[:, :, None], maps[:, None]).sum(dim=(-2, -1))
    mass = maps.sum(dim=(-2, -1))
    total = mass[:, :, None] + mass[:, None]
    pairs = (mask[:, :, None] & mask[:, None]).triu(diagonal=1)
    # The inner where keeps 0 / 0 out of the backward pass, which the outer one alone would turn into NaN.
    somewhere = pairs & (total > 0)
    ratio = torch.where(somewhere, shared / torch.where(somewhere, total, 1), 0)
    return ratio.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)


LOSSES: dict[str, Loss] = {"cn": catastrophic_neglect, "iou": intersection_over_union}
"""Every loss by the name of its weight in `keystep.core.config.LossWeights`."""


def combined_loss(
    maps: Float[Tensor, "batch entities height width"],
    mask: Bool[Tensor, "batch entities"],
    weights: LossWeights,
) -> Float[Tensor, " batch"]:
    """The loss refined by: ``(cn * CN + iou * IoU) / 2``.

    Args:
        maps: attention of each entity, in [0, 1].
        mask: True for an entity, False for padding.
        weights: one a loss; a loss of weight 0 is not computed.

    Returns:
        One loss a sample, at least 0, lower is better.

    Raises:
        ValueError: shapes or dtypes other than these.
    """
    terms = [weight * LOSSES[name](maps, mask) for name, weight in weights if weight != 0]
    return torch.stack(terms).sum(dim=0) / 2
