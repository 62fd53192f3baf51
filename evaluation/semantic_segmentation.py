"""Instances from a semantic segmentation model: the connected pieces of each class, as the shapes world needs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from keystep.core.devices import usable_device
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.detections import Instance
from keystep.evaluation.detector import DEFAULT_MIN_SCORE, Detector, check_min_score
from keystep.evaluation.masks import mask_box
from keystep.evaluation.pretrained import (
    batches_of_one_size,
    class_names,
    fingerprint_of,
    has_file,
    load_config,
    load_network,
)
from keystep.evaluation.rgb import as_rgb

BACKGROUND = "background"
MIN_AREA = 12  # px; the smallest shape of the shapes world covers about 100


class SemanticSegmenter(Detector):
    """A semantic segmentation checkpoint with a `background` class, for images whose things do not touch.

    Each pixel goes to its most probable class; the 8-connected pieces of a class are its instances; a
    piece's score is the mean of its pixels' probability of that class.

    Args:
        model: hub id, local folder, or `keystep/shapes-segmenter`. Without a `preprocessor_config.json` the
            images are fed at their own size, scaled to [-1, 1].
        revision: branch, tag or commit of a hub model.
        min_score: pieces below it are not reported.
        min_area: pieces of fewer pixels (of the image) are not reported.
        device: where to run; by default CUDA where there is one.
        batch_size: images a forward pass.

    Raises:
        ValueError: if the model cannot be found or has no class named `background`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        min_score: float = DEFAULT_MIN_SCORE,
        min_area: int = MIN_AREA,
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        config = load_config(model, revision)
        self._names = class_names(config)
        if BACKGROUND not in self._names:
            raise ValueError(f"{model!r} has no class named {BACKGROUND!r}, so its pieces are no instances")
        if min_area < 1:
            raise ValueError(f"min_area must be at least 1 pixel, got {min_area}")
        self._processor = None
        if has_file(model, "preprocessor_config.json"):
            self._processor = AutoImageProcessor.from_pretrained(resolve_model(model), revision=revision)
        self._device = usable_device(device)
        self._model = load_network(AutoModelForSemanticSegmentation, model, revision).to(self._device)
        self._batch_size = batch_size
        self._min_area = min_area
        self.min_score = check_min_score(min_score)
        self.name = model if revision is None else f"{model}@{revision}"
        self.labels = frozenset(self._names) - {BACKGROUND}
        processing = {
            "processor": None if self._processor is None else self._processor.to_json_string(),
            "names": self._names,
            "min_score": min_score,
            "min_area": min_area,
        }
        self.fingerprint = fingerprint_of("semantic-1", self._model, processing)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """See `Detector.detect`."""
        found: list[list[Instance]] = [[] for _ in images]
        for indices in batches_of_one_size(images, self._batch_size):
            batch = [as_rgb(images[index]) for index in indices]
            logits = self._model(pixel_values=self._inputs(batch).to(self._device)).logits
            size = (batch[0].height, batch[0].width)
            if logits.shape[-2:] != size:
                logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            probability, classes = logits.softmax(1).max(1)
            for index, one_probability, one_classes in zip(
                indices, probability.cpu().numpy(), classes.cpu().numpy(), strict=True
            ):
                found[index] = self._pieces(one_probability, one_classes)
        return found

    def _inputs(self, batch: list[Image.Image]) -> Tensor:
        if self._processor is not None:
            return self._processor(images=batch, return_tensors="pt")["pixel_values"]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in batch]))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _pieces(self, probability: NDArray[np.float32], classes: NDArray[np.int64]) -> list[Instance]:
        instances = []
        for index in np.unique(classes).tolist():
            if self._names[index] == BACKGROUND:
                continue
            pieces, count = ndimage.label(classes == index, structure=np.ones((3, 3), int))  # pyright: ignore
            for piece in range(1, count + 1):
                mask = pieces == piece
                score = float(probability[mask].mean())
                if mask.sum() >= self._min_area and score >= self.min_score:
                    instances.append(Instance(self._names[index], score, mask_box(mask), mask))
        return sorted(instances, key=lambda instance: -instance.score)
