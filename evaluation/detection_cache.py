"""Detections on disk: a detector sees an image once, whatever is scored with it later."""

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation.colors import PALETTES, Palette
from evaluation.detections import Detections, Instance, count_colors
from evaluation.detector import Detector

_PREFIX = b'{"image": "'
_KEY_DIGITS = 32


def image_key(image: Image.Image) -> str:
    """32 hex digits that identify an image by its size and its RGB pixels, whatever file they came in."""
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()[:_KEY_DIGITS]


class _Place(NamedTuple):
    shard: Path
    offset: int
    length: int


class DetectionCache:
    """Detections by image key, of one detector, in JSON lines.

    Every cache object appends to a shard of its own, so that any number of processes write to one folder; a
    line that a killed process left unfinished is never read. In memory there is one short entry an image:
    detections are read from disk when asked for.

    Args:
        folder: where to keep them; made if missing.
        fingerprint: of the detector (`Detector.fingerprint`); others keep theirs beside it.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        self._folder = Path(folder) / fingerprint
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._places: dict[str, _Place] = {}
        self._read_to: dict[Path, int] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Take note of what other processes have added since."""
        for shard in sorted(self._folder.glob("*.jsonl")):
            offset = self._read_to.get(shard, 0)
            if shard.stat().st_size <= offset:
                continue
            with shard.open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    key = line[len(_PREFIX) : len(_PREFIX) + _KEY_DIGITS].decode()
                    self._places[key] = _Place(shard, offset, len(line))
                    offset += len(line)
            self._read_to[shard] = offset

    def get(self, key: str) -> Detections | None:
        """The detections of an image, or None if there are none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with place.shard.open("rb") as lines:
            lines.seek(place.offset)
            return Detections.from_json(json.loads(lines.read(place.length)))

    def put(self, key: str, detections: Detections) -> None:
        """Keep the detections of an image; a later one replaces an earlier one."""
        line = json.dumps({"image": key, **detections.to_json()}).encode() + b"\n"
        offset = self._read_to.get(self._own, 0)
        with self._own.open("ab", buffering=0) as lines:
            lines.write(line)
        self._places[key] = _Place(self._own, offset, len(line))
        self._read_to[self._own] = offset + len(line)


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
            pixels = np.asarray(image.convert("RGB"))
            masks = [detections.mask(index) for index in range(len(detections))]
            counted = {palette.fingerprint: count_colors(pixels, masks, palette) for palette in missing}
            detections = replace(detections, colors={**detections.colors, **counted})
            self.cache.put(key, detections)
        return detections
