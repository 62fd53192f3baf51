"""The contract that every detector keeps: images in, instances out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from PIL import Image

from keystep.core.prompts import Prompt
from keystep.evaluation.detections import Detections, Instance, measure
from keystep.evaluation.labels import check_nouns

DEFAULT_MIN_SCORE = 0.1


class Detector(ABC):
    """Finds things in images.

    Attributes:
        name: what reports call it. Scores of differently named detectors are never compared.
        labels: canonical names of the classes it can see.
        min_score: it reports no instance with a score below this, in (0, 1).
        fingerprint: changes with anything that can change what it reports; keys the cache of detections.
    """

    name: str
    labels: frozenset[str]
    min_score: float
    fingerprint: str

    @abstractmethod
    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """The instances in each image, one label each: the most probable class, before any filtering.

        Args:
            images: any sizes and modes; read as RGB.

        Returns:
            One list an image, possibly empty, the highest score first. What is found in an image does not
            depend on the other images.
        """

    def detections(self, images: Sequence[Image.Image]) -> list[Detections]:
        """`detect`, with colours counted and overlaps measured for scoring."""
        found = self.detect(images)
        return [
            measure(image, instances, min_score=self.min_score) for image, instances in zip(images, found, strict=True)
        ]

    def check_nouns(self, prompts: Iterable[Prompt]) -> None:
        """Refuse prompts that name a thing this detector has no class for.

        Raises:
            ValueError: names the nouns, a prompt with each, and the closest classes.
        """
        check_nouns(prompts, self.labels, self.name)


def check_min_score(min_score: float) -> float:
    """`min_score` itself, if it lies within (0, 1).

    Raises:
        ValueError: otherwise.
    """
    if not 0 < min_score < 1:
        raise ValueError(f"min_score must be within (0, 1), got {min_score}")
    return min_score
