"""Instance segmentation through transformers: RF-DETR, Mask2Former, OneFormer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from core.shapes.models import resolve_model
from evaluation.detections import Instance
from evaluation.detector import DEFAULT_MIN_SCORE, Detector, check_min_score
from evaluation.masks import mask_box
from evaluation.pretrained import (
    SAFE,
    batches_of_one_size,
    class_names,
    default_device,
    fingerprint_of,
    load_config,
)


def best_sigmoid(logits: Tensor) -> Tensor:
    """Logits (..., classes), every class but the most probable switched off: for a sigmoid a class."""
    best = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.argmax(-1, keepdim=True), True)
    return logits.masked_fill(~best, -torch.inf)


def best_softmax(logits: Tensor) -> Tensor:
    """Logits (..., classes + 1): softmax keeps the most probable class as it was, "none" gets the rest.

    The last entry is "no object"; it is never the class of an instance, only the absence of one.
    """
    probability, best = logits.softmax(-1)[..., :-1].max(-1, keepdim=True)
    kept = torch.full_like(logits, -torch.inf).scatter_(-1, best, probability.log())
    kept[..., -1:] = (1 - probability).clamp(min=0).log()
    return kept


Masks = list[tuple[int, float, Tensor]]  # class index, score, (H, W) bool


def _rf_detr(processor: Any, outputs: Any, min_score: float, sizes: list[tuple[int, int]]) -> list[Masks]:
    single = SimpleNamespace(logits=best_sigmoid(outputs.logits), pred_masks=outputs.pred_masks)
    results = processor.post_process_instance_segmentation(
        single, threshold=min_score, target_sizes=sizes, return_binary_maps=True
    )
    return [_stacked(result) for result in results]


def _mask2former(processor: Any, outputs: Any, min_score: float, sizes: list[tuple[int, int]]) -> list[Masks]:
    single = SimpleNamespace(
        class_queries_logits=best_softmax(outputs.class_queries_logits),
        masks_queries_logits=outputs.masks_queries_logits,
    )
    results = processor.post_process_instance_segmentation(
        single, threshold=min_score, target_sizes=sizes, return_binary_maps=True
    )
    return [_stacked(result) for result in results]


def _oneformer(processor: Any, outputs: Any, min_score: float, sizes: list[tuple[int, int]]) -> list[Masks]:
    single = SimpleNamespace(
        class_queries_logits=best_softmax(outputs.class_queries_logits),
        masks_queries_logits=outputs.masks_queries_logits,
    )
    results = processor.image_processor.post_process_instance_segmentation(
        single, threshold=min_score, target_sizes=sizes
    )
    return [
        [
            (segment["label_id"], segment["score"], result["segmentation"] == segment["id"])
            for segment in result["segments_info"]
        ]
        for result in results
    ]


def _stacked(result: dict[str, Any]) -> Masks:
    segments = result["segments_info"]
    return [
        (segment["label_id"], segment["score"], result["segmentation"][k].bool())
        for k, segment in enumerate(segments)
    ]


@dataclass(frozen=True)
class _Family:
    """How one architecture is loaded and read; class names are looked up in transformers when needed."""

    model: str
    processor: str
    read: Callable[[Any, Any, float, list[tuple[int, int]]], list[Masks]]
    task: str | None = None


FAMILIES: dict[str, _Family] = {
    "rf_detr": _Family("RfDetrForInstanceSegmentation", "RfDetrImageProcessor", _rf_detr),
    "mask2former": _Family("Mask2FormerForUniversalSegmentation", "AutoImageProcessor", _mask2former),
    "oneformer": _Family("OneFormerForUniversalSegmentation", "OneFormerProcessor", _oneformer, "instance"),
}


class InstanceSegmenter(Detector):
    """An instance segmentation checkpoint, loaded and read as its own processor does.

    Args:
        model: hub id or local folder, safetensors.
        revision: branch, tag or commit of a hub model.
        min_score: instances below it are not reported; the class probability, times the mask's mean
            probability for Mask2Former.
        device: where to run; by default CUDA where there is one.
        batch_size: images a forward pass.

    Raises:
        ValueError: if the model cannot be found, or is of no family in `FAMILIES`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        min_score: float = DEFAULT_MIN_SCORE,
        device: str | None = None,
        batch_size: int = 8,
    ) -> None:
        config = load_config(model, revision)
        if config.model_type not in FAMILIES:
            raise ValueError(
                f"{model!r} is a {config.model_type} model; instance segmentation knows {', '.join(FAMILIES)}"
            )
        self._family = FAMILIES[config.model_type]
        path = resolve_model(model)
        processor = getattr(transformers, self._family.processor)
        self._processor = processor.from_pretrained(path, revision=revision)
        self._device = device or default_device()
        network = getattr(transformers, self._family.model)
        self._model = network.from_pretrained(path, revision=revision, **SAFE).eval().to(self._device)
        self._names = class_names(config)
        self._batch_size = batch_size
        self.min_score = check_min_score(min_score)
        self.name = model if revision is None else f"{model}@{revision}"
        self.labels = frozenset(name for name in self._names if not name.startswith("unused "))
        processing = {
            "processor": self._processor.to_json_string(), "names": self._names, "min_score": min_score
        }  # fmt: skip
        self.fingerprint = fingerprint_of(f"instance-1-{config.model_type}", self._model, processing)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """See `Detector.detect`. Boxes are those around the masks."""
        found: list[list[Instance]] = [[] for _ in images]
        for indices in batches_of_one_size(images, self._batch_size):
            batch = [images[index].convert("RGB") for index in indices]
            tasks = {} if self._family.task is None else {"task_inputs": [self._family.task] * len(batch)}
            inputs = self._processor(images=batch, return_tensors="pt", **tasks).to(self._device)
            sizes = [(image.height, image.width) for image in batch]
            outputs = self._model(**inputs)
            for index, masks in zip(
                indices, self._family.read(self._processor, outputs, self.min_score, sizes), strict=True
            ):
                found[index] = self._instances(masks)
        return found

    def _instances(self, masks: Masks) -> list[Instance]:
        instances = []
        for label, score, mask in sorted(masks, key=lambda item: -item[1]):
            pixels = mask.cpu().numpy()
            if pixels.any():
                instances.append(Instance(self._names[label], float(score), mask_box(pixels), pixels))
        return instances
