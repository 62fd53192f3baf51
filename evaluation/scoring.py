"""Score a set's images one batch at a time: memory holds one batch and a few bytes an image, however many there are."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keystep.evaluation.detector import Detector
from keystep.evaluation.image_metrics import ImageMetrics
from keystep.evaluation.image_source import ImageFile, ImageSource
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.tiam import TiamSettings, check_colors, score_detections

DEFAULT_SETTINGS = TiamSettings()


@dataclass(frozen=True)
class SetScore:
    """What the images of a set show, at each of C confidences.

    Args:
        prompts: P of them, with at most E entities each.
        seeds: the S image numbers, ascending.
        confidences: the C of them, ascending; the first is what a search optimises.
        measured: (P, S) bool, the image was there and readable.
        found: (P, S, C, E) bool, the entity is in the picture; True beyond a prompt's own entities.
        bound: (P, S, C, E) bool, with its colour, where it has one.
        metrics: (P, S) of each metric that was measured beside (`keystep.evaluation.metric_names.METRICS`), NaN where
            nothing was.
    """

    prompts: PromptSet
    seeds: tuple[int, ...]
    confidences: tuple[float, ...]
    measured: NDArray[np.bool_]
    found: NDArray[np.bool_]
    bound: NDArray[np.bool_]
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def tiam(self, confidence: int = 0) -> NDArray[np.float64]:
        """(P, S) 1 if every entity is there with its colour, else 0; NaN where nothing was measured."""
        return np.where(self.measured, self.bound[:, :, confidence].all(axis=-1), np.nan)

    def all_found(self, confidence: int = 0) -> NDArray[np.float64]:
        """(P, S) as `tiam`, whatever the colours."""
        return np.where(self.measured, self.found[:, :, confidence].all(axis=-1), np.nan)

    def colored(self) -> bool:
        """Whether any entity has a colour to check."""
        return any(entity.attribute for prompt in self.prompts for entity in prompt.entities)


def score_source(
    source: ImageSource,
    prompts: PromptSet,
    detector: Detector,
    settings: TiamSettings = DEFAULT_SETTINGS,
    *,
    metrics: ImageMetrics | None = None,
    batch_size: int = 16,
    on_image: Callable[[ImageFile], None] = lambda file: None,
) -> SetScore:
    """Detect, score and, with `metrics`, measure every image of `source`, which was found for `prompts`, in one pass.

    Images that turn out unreadable are noted in `source.problems` and not measured. `on_image` is told of
    every image when it is done. Start again after an interruption with the same cached detector, and what was
    detected before is read, not detected (`keystep.evaluation.detection_cache`). ValueError, before the first image,
    if the detector has no class for a noun or the palette no such colour, and for settings that
    score_detections refuses.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    detector.check_nouns(prompts)
    check_colors(prompts, settings.palette)
    num_entities = max(len(prompt.entities) for prompt in prompts)
    shape = (len(prompts), len(source.seeds), len(settings.confidences), num_entities)
    measured = np.zeros(shape[:2], bool)
    found, bound = np.ones(shape, bool), np.ones(shape, bool)
    values = {name: np.full(shape[:2], np.nan) for name in metrics.names} if metrics else {}
    column = {seed: index for index, seed in enumerate(source.seeds)}
    for batch in _batches(source, batch_size, on_image):
        files, pictures = zip(*batch, strict=True)
        asked = [prompts.prompts[file.prompt_index] for file in files]
        places = [(file.prompt_index, column[file.seed]) for file in files]
        if metrics:
            rows, columns = zip(*places, strict=True)
            for name, of_images in metrics.measure(pictures, asked).items():
                values[name][rows, columns] = of_images
        for file, place, prompt, detections in zip(files, places, asked, detector.detections(pictures), strict=True):
            score = score_detections(detections, prompt, settings)
            measured[place] = True
            found[place][:, : len(prompt.entities)] = score.found
            bound[place][:, : len(prompt.entities)] = score.bound
            on_image(file)
    return SetScore(prompts, source.seeds, settings.confidences, measured, found, bound, values)


def _batches(
    source: ImageSource, batch_size: int, on_image: Callable[[ImageFile], None]
) -> Iterator[list[tuple[ImageFile, Image.Image]]]:
    """Readable images in batches; the unreadable are reported done at once."""

    def readable() -> Iterator[tuple[ImageFile, Image.Image]]:
        for file, picture in source.images():
            if picture is None:
                on_image(file)
            else:
                yield file, picture

    images = readable()
    while batch := list(itertools.islice(images, batch_size)):
        yield batch
