"""The names of detectors, known without what loading one imports: torch and transformers."""

DEFAULT_DETECTOR = "Roboflow/rf-detr-seg-medium"
SHAPES_DETECTOR = "keystep/shapes-segmenter"
"""The default of the embedded models."""

KINDS = ("instance", "semantic", "yolo")
"""Keys of `keystep.evaluation.detectors.DETECTORS`."""
