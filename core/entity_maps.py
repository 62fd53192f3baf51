"""From attention probabilities to one smoothed map an entity."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

SHARPNESS = 100.0
"""Factor on the probabilities before the softmax over text tokens."""

SMOOTHING_SIGMA = 0.5**0.5
"""Of the 3 x 3 Gaussian, pixels: centre .3319, edges .1221, corners .0449."""


def entity_attention(
    probabilities: Float[Tensor, "batch queries tokens"],
    kept: Bool[Tensor, "batch groups tokens"],
    entity_weights: Float[Tensor, "batch groups entities tokens"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch entities height width"]:
    """Maps of entities from the attention of image queries to text tokens.

    For each group of tokens (one text encoder's): softmax over its kept tokens of 100 times the
    probabilities, then the mean over an entity's tokens; then the mean over groups, and a reflected 3 x 3
    Gaussian. Chefer et al., *Attend-and-Excite* (arXiv 2301.13826), and Grimal et al. (arXiv 2504.17525)
    for several encoders.

    Args:
        probabilities: mean over heads and layers, in [0, 1].
        kept: tokens that the softmax runs over.
        entity_weights: 1/n at an entity's n tokens in the group, 0 elsewhere.
        grid: (height, width) of the queries, at least 2 x 2.

    Returns:
        Maps in [0, 1], in float32 or wider; 0 for an entity without tokens.

    Raises:
        ValueError: a grid too small to reflect at its border.
    """
    if min(grid) < 2:
        raise ValueError(f"attention maps of {grid[0]} x {grid[1]} queries are too small: take a finer layer")
    # A caller's autocast would round maps to half precision.
    with torch.autocast(probabilities.device.type, enabled=False):
        logits = SHARPNESS * probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
        groups = []
        for group in range(kept.shape[1]):
            masked = logits.masked_fill(~kept[:, group, None], -torch.inf)
            groups.append(masked.softmax(dim=-1) @ entity_weights[:, group].to(logits.dtype).transpose(1, 2))
        maps = torch.stack(groups).mean(dim=0).transpose(1, 2).unflatten(-1, grid)
        return smooth(maps)


def smooth(
    maps: Float[Tensor, "batch entities height width"],
) -> Float[Tensor, "batch entities height width"]:
    """A 3 x 3 Gaussian of standard deviation ``SMOOTHING_SIGMA`` over maps reflected at their border."""
    batch, entities, height, width = maps.shape
    padded = pad(maps.reshape(-1, 1, height, width), (1, 1, 1, 1), mode="reflect")
    return conv2d(padded, _kernel(maps.dtype, maps.device)).reshape(batch, entities, height, width)


def _kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    offsets = torch.arange(-1, 2, dtype=dtype, device=device)
    line = torch.exp(-(offsets**2) / (2 * SMOOTHING_SIGMA**2))
    kernel = line[:, None] * line
    return (kernel / kernel.sum())[None, None]
