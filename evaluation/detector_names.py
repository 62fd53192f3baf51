"""The detectors that are used where none is named; here, since loading one imports torch and transformers."""

DEFAULT_DETECTOR = "Roboflow/rf-detr-seg-medium"
SHAPES_DETECTOR = "keystep/shapes-segmenter"
"""The default of the embedded models."""
