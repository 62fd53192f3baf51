"""What is measured of images beside TIAM: how alike they and their prompts are to a CLIP, and how good they look."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keystep.core.prompts import Prompt
from keystep.evaluation.aesthetics import AestheticHead
from keystep.evaluation.captions import BlipCaptioner
from keystep.evaluation.clip import ClipScorer
from keystep.evaluation.detection_cache import image_key
from keystep.evaluation.line_cache import KEY_DIGITS, LineCache
from keystep.evaluation.metric_names import METRICS


class ImageMetrics:
    """Measures images of their prompts: CLIP always, captions and looks where there is a model for them.

    What was measured before is read, not measured again: by the image's pixels, its prompt and all models.

    Args:
        clip: what compares.
        folder: where measurements are kept; any number of models and processes may share it.
        captioner: its captions are compared with the prompts, text with text.
        aesthetics: the head that reads this CLIP's image embeddings.

    Attributes:
        names: the metrics, of `METRICS`, in its order.
        models: what reports say of each model: its name and its fingerprint.

    Raises:
        ValueError: if the head is for another CLIP.
    """

    def __init__(
        self,
        clip: ClipScorer,
        folder: str | os.PathLike[str],
        *,
        captioner: BlipCaptioner | None = None,
        aesthetics: AestheticHead | None = None,
    ) -> None:
        self._clip, self._captioner, self._aesthetics = clip, captioner, aesthetics
        if aesthetics is not None:
            aesthetics.check_width(clip.text_features(["a picture"]).shape[1])
        models = {"clip": clip, "captioner": captioner, "aesthetics": aesthetics}
        self.models = {
            kind: {"name": model.name, "fingerprint": model.fingerprint}
            for kind, model in models.items()
            if model is not None
        }
        wanted = {"caption_similarity": captioner is not None, "aesthetics": aesthetics is not None}
        self.names = tuple(name for name in METRICS if wanted.get(name, True))
        identity = "-".join(model["fingerprint"] for model in self.models.values())
        place = Path(folder) / f"metrics-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._cache = LineCache(place, "pair", lambda line: check_measurement(line, self.names))

    def measure(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, NDArray[np.float64]]:
        """(N,) values of each metric of `names`, of N images, each with its own prompt.

        Raises:
            ValueError: if there is not one prompt an image.
        """
        if len(images) != len(prompts):
            raise ValueError(f"every image needs its prompt: got {len(images)} images and {len(prompts)} prompts")
        keys = [_key(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        if any(key not in self._cache for key in keys):
            self._cache.refresh()
        unseen = {key: row for row, key in enumerate(keys) if key not in self._cache}
        if unseen:
            rows = list(unseen.values())
            measured = self._measured([images[row] for row in rows], [prompts[row] for row in rows])
            for key, values in zip(unseen, measured, strict=True):
                self._cache.put(key, values)
        lines = [self._cache.get(key) for key in keys]
        return {name: np.array([line[name] for line in lines if line is not None], float) for name in self.names}

    def _measured(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        features = self._clip.image_features(images)
        scores = self._clip.scores_of(features, prompts)
        columns: Mapping[str, Sequence[Any]] = {"clip_full": scores.full.tolist(), "clip_least": scores.least.tolist()}
        if self._captioner is not None:
            captions = self._captioner.captions(images)
            alike = self._clip.text_similarity(captions, prompts).tolist()
            columns = {**columns, "caption": captions, "caption_similarity": alike}
        if self._aesthetics is not None:
            columns = {**columns, "aesthetics": self._aesthetics.scores(features).tolist()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def check_measurement(line: Mapping[str, Any], names: Sequence[str]) -> None:
    """A line of the cache without a checksum.

    Raises:
        KeyError, TypeError, ValueError: it has not all of the metrics `names`, or holds what no measurement does.
    """
    if not line.keys() <= {"pair", "caption", *METRICS} or not all(np.isfinite(line[name]) for name in names):
        raise ValueError(f"not a measurement: {line!r}")


def _key(image: Image.Image, prompt: Prompt) -> str:
    asked = repr((image_key(image), prompt.text, [(entity.noun, entity.attribute) for entity in prompt.entities]))
    return hashlib.sha256(asked.encode()).hexdigest()[:KEY_DIGITS]
