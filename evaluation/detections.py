"""What a detector saw in one image, and what scoring needs to know of it without the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keystep.evaluation.colors import PALETTES, Palette
from keystep.evaluation.masks import decode_runs, encode_runs, high_overlaps
from keystep.evaluation.rgb import as_rgb

LEAST_OVERLAP = 0.5  # intersection over union below which a pair of masks is not kept


@dataclass(frozen=True)
class Instance:
    """One thing a detector found.

    Args:
        label: canonical name (`keystep.evaluation.labels.canonical_label`): the detector's most probable class,
            chosen before any filtering.
        score: confidence in [0, 1].
        box: (x0, y0, x1, y1) in pixels of the image.
        mask: (H, W) bool, the image's size, not empty.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


class Overlap(NamedTuple):
    """Instances `first` < `second` (positions) and the intersection over union of their masks."""

    first: int
    second: int
    iou: float


@dataclass(frozen=True)
class Detections:
    """The N instances of one image with their masks as run lengths, colours counted and overlaps measured.

    Args:
        height, width: the image's, in pixels.
        min_score: the detector reported no instance below it; scoring below it would be blind.
        labels: N canonical names.
        scores: (N,) float64 in [0, 1].
        boxes: (N, 4) float64, (x0, y0, x1, y1) in pixels.
        runs: N masks as `keystep.evaluation.masks.encode_runs` gives them, space-separated.
        colors: palette fingerprint -> (N, C) int64: pixels of each mask that each of the palette's names has.
        overlaps: the pairs of masks with an intersection over union of at least `LEAST_OVERLAP`.
    """

    height: int
    width: int
    min_score: float
    labels: tuple[str, ...]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    runs: tuple[str, ...]
    colors: Mapping[str, NDArray[np.int64]]
    overlaps: tuple[Overlap, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W) bool mask of instance `index`."""
        return decode_runs([int(run) for run in self.runs[index].split()], self.height, self.width)

    def instances(self) -> list[Instance]:
        """The instances, masks decoded."""
        return [
            Instance(label, float(score), (float(x0), float(y0), float(x1), float(y1)), self.mask(index))
            for index, (label, score, (x0, y0, x1, y1)) in enumerate(
                zip(self.labels, self.scores, self.boxes, strict=True)
            )
        ]

    def color_shares(self, palette: Palette) -> NDArray[np.float64]:
        """(N, C) share of each instance's pixels that each name of the palette has, in [0, 1].

        Raises:
            ValueError: if the palette was not among those counted when the image was at hand.
        """
        counts = self.colors.get(palette.fingerprint)
        if counts is None:
            raise ValueError(
                f"no colours of palette {palette.name!r} were counted here; measure the images again with it"
            )
        return counts / np.maximum(1, counts.sum(1, keepdims=True))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, exact; `from_json` reads them back."""
        return {
            "size": [self.height, self.width],
            "min_score": self.min_score,
            "labels": list(self.labels),
            "scores": self.scores.tolist(),
            "boxes": self.boxes.tolist(),
            "runs": list(self.runs),
            "colors": {key: counts.tolist() for key, counts in self.colors.items()},
            "overlaps": [list(pair) for pair in self.overlaps],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Detections":
        """The value that `to_json` wrote."""
        height, width = record["size"]
        count = len(record["labels"])
        return cls(
            height=height,
            width=width,
            min_score=record["min_score"],
            labels=tuple(record["labels"]),
            scores=np.array(record["scores"], np.float64),
            boxes=np.array(record["boxes"], np.float64).reshape(count, 4),
            runs=tuple(record["runs"]),
            colors={key: _counts(rows, count) for key, rows in record["colors"].items()},
            overlaps=tuple(Overlap(*pair) for pair in record["overlaps"]),
        )


def measure(
    image: Image.Image,
    instances: Sequence[Instance],
    *,
    min_score: float = 0.0,
    palettes: Sequence[Palette] = tuple(PALETTES.values()),
) -> Detections:
    """Count the colours and overlaps of an image's instances, so that scoring needs the image no more.

    Args:
        image: the picture the instances were found in, RGB.
        instances: any number; those with an empty mask are dropped.
        min_score: the score below which the detector reports nothing.
        palettes: counted each; any of them can be scored with later.

    Raises:
        ValueError: if a mask is not of the image's size.
    """
    pixels = np.asarray(as_rgb(image))
    height, width = pixels.shape[:2]
    for instance in instances:
        if instance.mask.shape != (height, width):
            raise ValueError(
                f"the mask of {instance.label!r} is {instance.mask.shape[1]} x {instance.mask.shape[0]} px, "
                f"the image {width} x {height} px"
            )
    kept = [instance for instance in instances if instance.mask.any()]
    masks = [instance.mask for instance in kept]
    return Detections(
        height=height,
        width=width,
        min_score=min_score,
        labels=tuple(instance.label for instance in kept),
        scores=np.array([instance.score for instance in kept], np.float64),
        boxes=np.array([instance.box for instance in kept], np.float64).reshape(len(kept), 4),
        runs=tuple(" ".join(map(str, encode_runs(mask).tolist())) for mask in masks),
        colors={palette.fingerprint: count_colors(pixels, masks, palette) for palette in palettes},
        overlaps=tuple(Overlap(*pair) for pair in high_overlaps(masks, LEAST_OVERLAP)),
    )


def count_colors(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], palette: Palette) -> NDArray[np.int64]:
    """(N, C): pixels of each of N masks (H, W) that have each of the palette's names; `pixels` (H, W, 3)."""
    if not masks:
        return _counts([], 0)
    union = np.logical_or.reduce(masks)
    names = np.zeros(union.shape, np.intp)
    names[union] = palette.classify(pixels[union])
    return _counts([np.bincount(names[mask], minlength=len(palette.names)) for mask in masks], len(masks))


def _counts(rows: Sequence[Any], count: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(count, -1) if count else np.zeros((0, 1), np.int64)
