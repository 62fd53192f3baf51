"""The metrics of images beside TIAM: what tables call them, and the range they lie in."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A number an image: what tables call it, and the range that its mean is known to lie in. Higher is better."""

    title: str
    bounds: tuple[float, float]


METRICS: dict[str, Metric] = {
    "clip_full": Metric("CLIP, whole prompt", (-1.0, 1.0)),
    "clip_least": Metric("CLIP, least entity", (-1.0, 1.0)),
    "caption_similarity": Metric("CLIP, caption and prompt", (-1.0, 1.0)),
    "aesthetics": Metric("aesthetics", (0.0, 10.0)),
}
"""Every metric by its name in reports. Aesthetics may leave its usual range: then what it took is its range."""
