"""Detectors by name."""

from collections.abc import Callable

from keystep.core.shapes.models import resolve_model
from keystep.evaluation.detections import Detections, Instance
from keystep.evaluation.detector import DEFAULT_MIN_SCORE, Detector
from keystep.evaluation.detector_names import DEFAULT_DETECTOR, SHAPES_DETECTOR
from keystep.evaluation.instance_segmentation import FAMILIES, InstanceSegmenter
from keystep.evaluation.pretrained import load_config
from keystep.evaluation.semantic_segmentation import SemanticSegmenter
from keystep.evaluation.yolo import YoloSegmenter

__all__ = [
    "DEFAULT_DETECTOR",
    "DETECTORS",
    "SHAPES_DETECTOR",
    "Detections",
    "Detector",
    "Instance",
    "load_detector",
]

DETECTORS: dict[str, Callable[..., Detector]] = {
    "instance": InstanceSegmenter,
    "semantic": SemanticSegmenter,
    "yolo": YoloSegmenter,
}


def load_detector(
    spec: str = DEFAULT_DETECTOR,
    *,
    revision: str | None = None,
    min_score: float = DEFAULT_MIN_SCORE,
    device: str | None = None,
) -> Detector:
    """A detector ready to run.

    Args:
        spec: `MODEL` or `KIND:MODEL`, where KIND is one of `DETECTORS` and MODEL a hub id, a local folder,
            `keystep/shapes-segmenter`, or for `yolo` a weights file (`yolo:yolov8x-seg.pt`). Without a kind
            the model's own configuration decides between `instance` and `semantic`.
        revision: branch, tag or commit of a hub model.
        min_score: instances below it are not reported, in (0, 1). No lower confidence can be scored later.
        device: where to run; by default CUDA where there is one.

    Raises:
        ValueError: if the kind is unknown, or the model cannot be found or used.
    """
    kind, separator, model = spec.partition(":")
    if not separator or resolve_model(spec) != spec:
        kind, model = "", spec
    if not kind:
        kind = "instance" if load_config(model, revision).model_type in FAMILIES else "semantic"
    if kind not in DETECTORS:
        raise ValueError(f"unknown kind of detector {kind!r} in {spec!r}; choose one of {', '.join(DETECTORS)}")
    return DETECTORS[kind](model, revision=revision, min_score=min_score, device=device)
