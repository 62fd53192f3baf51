"""Detections on disk: a detector sees an image once, whatever is scored with it later."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from keystep.evaluation.colors import PALETTES, Palette
from keystep.evaluation.detections import Detections, Instance, count_colors
from keystep.evaluation.detector import Detector
from keystep.evaluation.line_cache import KEY_DIGITS, LineCache
from keystep.evaluation.rgb import as_rgb


def image_key(image: Image.Image) -> str:
    """32 hex digits that identify an image by its size and its RGB pixels, whatever file they came in."""
    rgb = as_rgb(image)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()[:KEY_DIGITS]


class DetectionCache:
    """Detections by image key, of one detector, in JSON lines (`keystep.evaluation.line_cache`).

    Args:
        folder: where to keep them; made if missing.
        fingerprint: of the detector (`Detector.fingerprint`); others keep theirs beside it.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        self._lines = LineCache(Path(folder) / fingerprint, "image", Detections.from_json)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def refresh(self) -> None:
        """Take note of what other processes have added since."""
        self._lines.refresh()

    def get(self, key: str) -> Detections | None:
        """The detections of an image, or None if there are none yet."""
        line = self._lines.get(key)
        return None if line is None else Detections.from_json(line)

    def put(self, key: str, detections: Detections) -> None:
        """Keep the detections of an image; a later one replaces an earlier one."""
        self._lines.put(key, detections.to_json())


class CachedDetector(Detector):
    """A detector that remembers: an image is shown to it once.

    Args:
        detector: what detects when nothing is remembered.
        folder: where the detections are kept; any number of detectors and processes may share it.
        palettes: colours counted in every image, so that scoring with any of them needs no image. Images
            detected before with fewer palettes are counted again, not detected again.
    """

    def __init__(
        self,
        detector: Detector,
        folder: str | os.PathLike[str],
        *,
        palettes: Sequence[Palette] = tuple(PALETTES.values()),
    ) -> None:
        self.name, self.labels = detector.name, detector.labels
        self.min_score, self.fingerprint = detector.min_score, detector.fingerprint
        self.cache = DetectionCache(folder, detector.fingerprint)
        self._detector = detector
        self._palettes = tuple(palettes)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """See `Detector.detect`."""
        return [detections.instances() for detections in self.detections(images)]

    def detections(self, images: Sequence[Image.Image]) -> list[Detections]:
        """See `Detector.detections`."""
        keys = [image_key(image) for image in images]
        if any(key not in self.cache for key in keys):
            self.cache.refresh()
        unseen = {key: image for key, image in zip(keys, images, strict=True) if key not in self.cache}
        for key, detections in zip(unseen, self._detector.detections(list(unseen.values())), strict=True):
            self.cache.put(key, detections)
        return [self._recalled(key, image) for key, image in zip(keys, images, strict=True)]

    def _recalled(self, key: str, image: Image.Image) -> Detections:
        detections = self.cache.get(key)
        assert detections is not None
        missing = [palette for palette in self._palettes if palette.fingerprint not in detections.colors]
        if missing:
            pixels = np.asarray(as_rgb(image))
            masks = [detections.mask(index) for index in range(len(detections))]
            counted = {palette.fingerprint: count_colors(pixels, masks, palette) for palette in missing}
            detections = replace(detections, colors={**detections.colors, **counted})
            self.cache.put(key, detections)
        return detections
