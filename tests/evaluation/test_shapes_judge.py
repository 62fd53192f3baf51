"""The judgement on rendered scenes: embedded segmenter, colours and TIAM together tell right from wrong."""

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.core.shapes.scenes import COLORS, NOUNS, random_entities, render, sample_scene
from keystep.evaluation.colors import PALETTES
from keystep.evaluation.detectors import SHAPES_DETECTOR, load_detector
from keystep.evaluation.tiam import TiamSettings, score_images

NUM_SCENES = 200


@pytest.fixture(scope="module")
def segmenter():
    return load_detector(SHAPES_DETECTOR)


def prompt_for(entities: list[tuple[str, str]]) -> Prompt:
    text = " and ".join(f"a {color} {noun}" for noun, color in entities)
    return Prompt(text, tuple(Entity(noun, color) for noun, color in entities))


def pictures(rng: np.random.Generator, shown: list[list[tuple[str, str]]]) -> list[Image.Image]:
    images, _ = render([sample_scene(rng, entities) for entities in shown])
    return [Image.fromarray(image) for image in images]


def tiam(segmenter, images, asked, palette="tiam") -> float:
    prompts = [prompt_for(entities) for entities in asked]
    scores = score_images(images, prompts, segmenter, TiamSettings(palette=palette), batch_size=50)
    return float(np.mean([score.tiam[0] for score in scores]))


@pytest.mark.parametrize("palette", [*PALETTES])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_was_asked_for_scores(segmenter, count, palette):
    rng = np.random.default_rng(100 + count)
    asked = [random_entities(rng, count) for _ in range(NUM_SCENES)]
    assert tiam(segmenter, pictures(rng, asked), asked, palette) >= 0.98


@pytest.mark.parametrize("count", [2, 3])
def test_a_missing_object_does_not(segmenter, count):
    rng = np.random.default_rng(200 + count)
    asked = [random_entities(rng, count) for _ in range(NUM_SCENES)]
    shown = []
    for entities in asked:
        missing = rng.integers(count)
        shown.append(entities[:missing] + entities[missing + 1 :])
    assert tiam(segmenter, pictures(rng, shown), asked) <= 0.02


@pytest.mark.parametrize("palette", [*PALETTES])
@pytest.mark.parametrize("count", [2, 3])
def test_swapped_colours_do_not(segmenter, count, palette):
    rng = np.random.default_rng(300 + count)
    asked = [random_entities(rng, count) for _ in range(NUM_SCENES)]
    shown = []
    for entities in asked:
        (first, ink), (second, other), *rest = entities
        shown.append([(first, other), (second, ink), *rest])
    assert tiam(segmenter, pictures(rng, shown), asked, palette) <= 0.02


def test_the_segmenter_sees_every_noun_and_no_other(segmenter):
    assert segmenter.labels == set(NOUNS)
    segmenter.check_nouns([prompt_for([(noun, COLORS[0])]) for noun in NOUNS])
    with pytest.raises(ValueError, match=r"'cirlce'.*did you mean 'circle'"):
        segmenter.check_nouns([prompt_for([("cirlce", "red")])])


def test_masks_are_where_the_shapes_are(segmenter):
    """Mean intersection over union with the exact masks, over the objects found."""
    rng = np.random.default_rng(400)
    shown = [random_entities(rng, 2) for _ in range(50)]
    scenes = [sample_scene(rng, entities) for entities in shown]
    pixels, masks = render(scenes)
    overlaps = []
    for entities, exact, instances in zip(
        shown, masks, segmenter.detect([Image.fromarray(p) for p in pixels]), strict=True
    ):
        for (noun, _), truth in zip(entities, exact, strict=False):
            seen = [instance.mask for instance in instances if instance.label == noun]
            overlaps += [np.sum(seen[0] & truth) / np.sum(seen[0] | truth)] if seen else [0.0]
    assert np.mean(overlaps) >= 0.9
