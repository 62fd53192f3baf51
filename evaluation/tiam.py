"""TIAM: is every entity of the prompt in the picture, and does it have its colour?

Grimal, Le Borgne, Ferret, Tourille, *TIAM* (WACV 2024, arXiv 2307.05134).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keystep.core.prompts import Prompt
from keystep.evaluation.colors import PALETTES, palette_named
from keystep.evaluation.detections import LEAST_OVERLAP, Detections
from keystep.evaluation.detector import Detector
from keystep.evaluation.labels import canonical_label
from keystep.evaluation.matching import match_entities

CONFIDENCES = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Superposed = Literal["none", "drop_both", "keep_best"]


@dataclass(frozen=True)
class TiamSettings:
    """How detections become a score.

    Args:
        confidences: an instance counts at a confidence if its score is at least that; increasing, in [0, 1].
            The first one is what a search optimises and what published figures use (0.25).
        superposed: what to do with two instances of different labels on the same pixels (mask intersection
            over union of at least `superposed_iou`), among those that reach the confidence: nothing, drop
            both, or keep the one with the higher score (both, if equal).
        superposed_iou: in [0.5, 1].
        palette: name in `keystep.evaluation.colors.PALETTES`.
        color_share: an instance has a colour if at least this share of its mask's pixels has, in (0, 1].

    Raises:
        ValueError: names the setting that is out of its range.
    """

    confidences: tuple[float, ...] = CONFIDENCES
    superposed: Superposed = "none"
    superposed_iou: float = 0.95
    palette: str = "tiam"
    color_share: float = 0.40

    def __post_init__(self) -> None:
        grid = self.confidences
        if not grid or list(grid) != sorted(set(grid)) or not 0 <= grid[0] <= grid[-1] <= 1:
            raise ValueError(f"confidences must increase within [0, 1], got {grid}")
        if self.superposed not in get_args(Superposed):
            raise ValueError(f"superposed must be one of {', '.join(get_args(Superposed))}, got {self.superposed!r}")
        if not LEAST_OVERLAP <= self.superposed_iou <= 1:
            raise ValueError(f"superposed_iou must be in [{LEAST_OVERLAP}, 1], got {self.superposed_iou}")
        if not 0 < self.color_share <= 1:
            raise ValueError(f"color_share must be in (0, 1], got {self.color_share}")
        palette_named(self.palette)


@dataclass(frozen=True)
class ImageScore:
    """What one image shows of its prompt, at each of C confidences, for each of E entities in prompt order.

    Args:
        found: (C, E) bool, the entity has an instance of its own.
        bound: (C, E) bool, that instance has the entity's colour; equal to `found` where none is asked for.
    """

    found: NDArray[np.bool_]
    bound: NDArray[np.bool_]

    @property
    def all_found(self) -> NDArray[np.bool_]:
        """(C,) bool: TIAM without colours."""
        return np.asarray(self.found.all(1))

    @property
    def tiam(self) -> NDArray[np.bool_]:
        """(C,) bool: TIAM, colours included where the prompt has them."""
        return np.asarray(self.bound.all(1))


def score_detections(detections: Detections, prompt: Prompt, settings: TiamSettings = TiamSettings()) -> ImageScore:
    """Score one image from what was detected in it.

    Entities with the same noun share that noun's instances, one each: see `keystep.evaluation.matching`.

    Raises:
        ValueError: if `settings` asks for instances of a lower score than the detector reported, or if the
            prompt has no entities or asks for a colour that the palette does not have.
    """
    if not prompt.entities:
        raise ValueError(f"prompt {prompt.text!r} has no entities to look for")
    if settings.confidences[0] < detections.min_score:
        raise ValueError(
            f"confidence {settings.confidences[0]} is below {detections.min_score}, under which the "
            "detector reported nothing; detect again with a lower min_score"
        )
    counted = _counted(detections, settings)  # (C, N)
    nouns = [canonical_label(entity.noun) for entity in prompt.entities]
    right_label = np.array([[noun == label for label in detections.labels] for noun in nouns], bool)
    right_label = right_label.reshape(len(nouns), len(detections))  # (E, N)
    right_color = right_label.copy()
    palette = palette_named(settings.palette)
    for position, entity in enumerate(prompt.entities):
        if entity.attribute is not None:
            column = palette.index(entity.attribute)
            if len(detections):
                right_color[position] &= detections.color_shares(palette)[:, column] >= settings.color_share
    if len(set(nouns)) == len(nouns):
        found = np.asarray((right_label & counted[:, None]).any(2))
        bound = np.asarray((right_color & counted[:, None]).any(2))
        return ImageScore(found, bound)
    matched = [match_entities(right_label & row, right_color & row) for row in counted]
    return ImageScore(np.array([found for found, _ in matched]), np.array([bound for _, bound in matched]))


def check_colors(prompts: Iterable[Prompt], palette_name: str) -> None:
    """Refuse prompts whose entities have an attribute that is no colour of the palette, before anything is generated.

    Raises:
        ValueError: names the entity, its prompt, and the colours there are.
    """
    palette = palette_named(palette_name)
    for prompt in prompts:
        for entity in prompt.entities:
            if entity.attribute is None or palette.has(entity.attribute):
                continue
            others = [other.name for other in PALETTES.values() if other.has(entity.attribute)]
            raise ValueError(
                f"{str(entity)!r} in {prompt.text!r} cannot be scored: palette {palette_name!r} has no colour "
                f"{entity.attribute!r}; it has {', '.join(palette.names)}"
                + (f" (palette {' or '.join(map(repr, others))} has it)" if others else "")
            )


def score_images(
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    detector: Detector,
    settings: TiamSettings = TiamSettings(),
    *,
    batch_size: int = 16,
) -> Iterator[ImageScore]:
    """Score images of their prompts, one after the other, `batch_size` of them at a time in memory.

    Args:
        images: may be any sequence that opens its pictures when asked for them.
        prompts: one an image.
        detector: a cached one detects nothing twice (`keystep.evaluation.detection_cache.CachedDetector`).

    Raises:
        ValueError: at once, if the numbers differ, the detector has no class for a noun, or the palette no such colour.
    """
    if len(images) != len(prompts):
        raise ValueError(f"every image needs its prompt: got {len(images)} images and {len(prompts)} prompts")
    detector.check_nouns(prompts)
    check_colors(prompts, settings.palette)
    return _scores(images, prompts, detector, settings, batch_size)


def _scores(
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    detector: Detector,
    settings: TiamSettings,
    batch_size: int,
) -> Iterator[ImageScore]:
    for start in range(0, len(images), batch_size):
        batch = [images[index] for index in range(start, min(start + batch_size, len(images)))]
        for offset, detections in enumerate(detector.detections(batch)):
            yield score_detections(detections, prompts[start + offset], settings)


def _counted(detections: Detections, settings: TiamSettings) -> NDArray[np.bool_]:
    """(C, N) bool: the instances that count at each confidence."""
    counted = detections.scores >= np.array(settings.confidences)[:, None]
    pairs = [
        (first, second)
        for first, second, iou in detections.overlaps
        if iou >= settings.superposed_iou and detections.labels[first] != detections.labels[second]
    ]
    if settings.superposed == "none" or not pairs:
        return counted
    dropped = np.zeros_like(counted)
    for first, second in pairs:
        both = counted[:, first] & counted[:, second]
        lead = detections.scores[first] - detections.scores[second]
        if settings.superposed == "drop_both" or lead < 0:
            dropped[:, first] |= both
        if settings.superposed == "drop_both" or lead > 0:
            dropped[:, second] |= both
    return counted & ~dropped
