"""Instance segmentation through transformers: RF-DETR, Mask2Former, OneFormer.

Their post-processing offers the best (query, class) pairs, so that one query may come back as a cat and as a
dog. TIAM wants one label an instance: each query is cut down to its most probable class before it is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import Mask2FormerImageProcessor

from keystep.core.devices import usable_device
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.detections import Instance
from keystep.evaluation.detector import DEFAULT_MIN_SCORE, Detector, check_min_score
from keystep.evaluation.masks import mask_box
from keystep.evaluation.pretrained import (
    batches_of_one_size,
    class_names,
    fingerprint_of,
    load_config,
    load_network,
)
from keystep.evaluation.rgb import as_rgb


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


Size = tuple[int, int]  # height, width
Masks = list[tuple[int, float, Tensor]]  # class index, score, (H, W) bool


def _rf_detr(processor: Any, outputs: Any, min_score: float, sizes: list[Size]) -> list[Masks]:
    single = SimpleNamespace(logits=best_sigmoid(outputs.logits), pred_masks=outputs.pred_masks)
    return _read(processor, single, min_score, sizes)


def _mask2former(processor: Any, outputs: Any, min_score: float, sizes: list[Size]) -> list[Masks]:
    single = SimpleNamespace(
        class_queries_logits=best_softmax(outputs.class_queries_logits),
        masks_queries_logits=outputs.masks_queries_logits,
    )
    return _read(processor, single, min_score, sizes)


def _oneformer(processor: Any, outputs: Any, min_score: float, sizes: list[Size]) -> list[Masks]:
    # OneFormer's authors read instances as Mask2Former's do. The reading in transformers' OneFormer
    # processor is the panoptic one, where a pixel has one owner and a mask shrinks with its score: not what
    # a mask's colour needs.
    return _mask2former(Mask2FormerImageProcessor(), outputs, min_score, sizes)


def _read(processor: Any, outputs: Any, min_score: float, sizes: list[Size]) -> list[Masks]:
    results = processor.post_process_instance_segmentation(
        outputs, threshold=min_score, target_sizes=sizes, return_binary_maps=True
    )
    return [
        [
            (segment["label_id"], segment["score"], result["segmentation"][k].bool())
            for k, segment in enumerate(result["segments_info"])
        ]
        for result in results
    ]


@dataclass(frozen=True)
class Family:
    """How one architecture is loaded and read; class names are looked up in transformers when needed.

    Args:
        model, processor: names of transformers classes.
        read: (processor, model outputs, least score, sizes) -> the masks of each image, one class each.
        task: what a task-conditioned model is asked for.
    """

    model: str
    processor: str
    read: Callable[[Any, Any, float, list[Size]], list[Masks]]
    task: str | None = None


FAMILIES: dict[str, Family] = {
    "rf_detr": Family("RfDetrForInstanceSegmentation", "RfDetrImageProcessor", _rf_detr),
    "mask2former": Family("Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor", _mask2former),
    "oneformer": Family("OneFormerForUniversalSegmentation", "OneFormerProcessor", _oneformer, "instance"),
}


def padded_size(size: Size, pixel_mask: Tensor | None) -> Size:
    """Size of the image if the border that the processor added were part of it.

    Args:
        size: the image's.
        pixel_mask: (h, w), 1 where the processor put the (resized) image, 0 where it padded; None: no padding.

    Returns:
        The size to read masks at, so that their top left `size` corner lies on the image.
    """
    if pixel_mask is None:
        return size
    rows, columns = int(pixel_mask.any(1).sum()), int(pixel_mask.any(0).sum())
    return round(size[0] * pixel_mask.shape[0] / rows), round(size[1] * pixel_mask.shape[1] / columns)


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
        processor = getattr(transformers, self._family.processor)
        self._processor = processor.from_pretrained(resolve_model(model), revision=revision)
        self._device = usable_device(device)
        network = getattr(transformers, self._family.model)
        self._model = load_network(network, model, revision).to(self._device)
        self._names = class_names(config)
        self._batch_size = batch_size
        self.min_score = check_min_score(min_score)
        self.name = model if revision is None else f"{model}@{revision}"
        self.labels = frozenset(name for name in self._names if not name.startswith("unused "))
        processing = {
            "processor": self._processor.to_json_string(),
            "names": self._names,
            "min_score": min_score,
        }
        self.fingerprint = fingerprint_of(f"instance-1-{config.model_type}", self._model, processing)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """See `Detector.detect`. Boxes are those around the masks."""
        found: list[list[Instance]] = [[] for _ in images]
        for indices in batches_of_one_size(images, self._batch_size):
            batch = [as_rgb(images[index]) for index in indices]
            tasks = {} if self._family.task is None else {"task_inputs": [self._family.task] * len(batch)}
            inputs = self._processor(images=batch, return_tensors="pt", **tasks).to(self._device)
            outputs = self._model(**inputs)
            size = batch[0].height, batch[0].width
            frame = padded_size(size, inputs["pixel_mask"][0] if "pixel_mask" in inputs else None)
            masks = self._family.read(self._processor, outputs, self.min_score, [frame] * len(batch))
            for index, one in zip(indices, masks, strict=True):
                found[index] = self._instances(one, size)
        return found

    def _instances(self, masks: Masks, size: Size) -> list[Instance]:
        instances = []
        for label, score, mask in sorted(masks, key=lambda item: -item[1]):
            pixels = mask[: size[0], : size[1]].cpu().numpy()
            if pixels.any():
                instances.append(Instance(self._names[label], float(score), mask_box(pixels), pixels))
        return instances
