"""Boolean masks as run lengths: small enough to keep, exact when read back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def encode_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the alternating runs of a mask in row-major order, the first run off (its length may be 0).

    Args:
        mask: (H, W) bool.

    Returns:
        (R,) int64; the lengths sum to H * W.

    Raises:
        ValueError: if the mask is not a two-dimensional boolean array.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be (H, W) bool, got {mask.dtype} of shape {mask.shape}")
    flat = mask.ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if flat.size and flat[0] else [], [0], starts, [flat.size]]).astype(np.int64)
    return np.diff(edges)


def decode_runs(runs: Sequence[int] | NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width) that `encode_runs` made `runs` from.

    Raises:
        ValueError: if the lengths do not sum to height * width.
    """
    lengths = np.asarray(runs, np.int64)
    if lengths.sum() != height * width:
        raise ValueError(f"runs of {lengths.sum()} pixels do not make a mask of {height} x {width}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def mask_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Box (x0, y0, x1, y1) around a mask in pixel edges: a single pixel (x, y) gives (x, y, x + 1, y + 1).

    Raises:
        ValueError: if the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def high_overlaps(masks: Sequence[NDArray[np.bool_]], least: float) -> list[tuple[int, int, float]]:
    """Pairs of masks whose intersection over union is at least `least`.

    Args:
        masks: N non-empty masks, each (H, W) bool.
        least: in (0, 1]. Pairs whose areas alone rule it out are not compared, so a high value is fast.

    Returns:
        (i, j, intersection over union) with i < j, in order.
    """
    areas = [int(mask.sum()) for mask in masks]
    pairs = []
    for i, first in enumerate(masks):
        for j in range(i + 1, len(masks)):
            if min(areas[i], areas[j]) < least * max(areas[i], areas[j]):
                continue
            both = int((first & masks[j]).sum())
            overlap = both / (areas[i] + areas[j] - both)
            if overlap >= least:
                pairs.append((i, j, overlap))
    return pairs
