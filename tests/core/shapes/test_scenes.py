"""The renderer's ground truth, measured on its own pictures."""

from collections import Counter

import numpy as np
import pytest

from keystep.core.shapes.captions import MISSING_RATE, SWAPPED_RATE, caption, sample_training_scene
from keystep.core.shapes.scenes import COLORS, INKS, NOUNS, Scene, SceneObject, random_entities, render, sample_scene
from keystep.evaluation.colors import palette_named


def lens(large: float, small: float, apart: float) -> float:
    """Area common to two discs."""
    half = (apart**2 + large**2 - small**2) / (2 * apart)
    chord = (large**2 - half**2) ** 0.5
    wide, narrow = np.arctan2(chord, half), np.arctan2(chord, apart - half)
    return large**2 * wide + small**2 * narrow - apart * chord


AREAS = {  # in units of radius squared, by plane geometry
    "circle": np.pi,
    "square": (2 * 0.7) ** 2,
    "triangle": 3 * 3**0.5 / 4,
    "star": 5 * 0.45 * np.sin(np.pi / 5),
    "heart": (2 * 0.525) ** 2 + np.pi * 0.525**2,
    "cross": 4 * 0.96 * 0.34 * 2 - (2 * 0.34) ** 2,
    "ring": np.pi * (0.98**2 - 0.5**2),
    "moon": np.pi - lens(1.0, 0.78, 0.5),
}


@pytest.mark.parametrize("noun", NOUNS)
def test_mask_has_the_area_of_its_shape(noun: str) -> None:
    _, masks = render([Scene((SceneObject(noun, "red", 32.0, 32.0, 28.0),))], size=512)
    area = masks[0, 0].sum() / (28.0 * 512 / 64) ** 2
    assert area == pytest.approx(AREAS[noun], rel=0.01)


@pytest.mark.parametrize("angle", [0.0, 0.2, -0.2])
@pytest.mark.parametrize("noun", NOUNS)
def test_shape_stays_inside_its_circle(noun: str, angle: float) -> None:
    _, masks = render([Scene((SceneObject(noun, "blue", 30.0, 34.0, 20.0, angle),))])
    rows, columns = np.nonzero(masks[0, 0])
    assert np.hypot(columns + 0.5 - 30.0, rows + 0.5 - 34.0).max() <= 20.0 + 0.75


def test_edges_are_antialiased_and_the_inside_is_the_ink() -> None:
    scene = Scene((SceneObject("circle", "red", 32.0, 32.0, 12.0, ink=(200, 0, 0)),), ((250,) * 3, (250,) * 3))
    images, masks = render([scene])
    assert (images[0, 32, 32] == (200, 0, 0)).all()
    assert (images[0, 2, 2] == 250).all()
    edge = images[0][(images[0, ..., 0] > 200) & (images[0, ..., 0] < 250)]
    assert 30 < len(edge) < 200, "a circle of 12 px has a ring of mixed pixels around it"
    assert masks[0, 0].sum() == pytest.approx(np.pi * 144, rel=0.02)
    assert not masks[0, 1:].any()


@pytest.mark.parametrize("palette", ["tiam", "extended"])
@pytest.mark.parametrize("color", COLORS)
def test_both_palettes_name_every_ink_rightly_however_it_is_jittered(palette: str, color: str) -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, [("square", color)]) for _ in range(50)]
    inks = np.array([[scene.objects[0].ink for scene in scenes]], np.uint8)
    reference = palette_named(palette)
    assert (reference.classify(inks) == reference.index(color)).all()


def test_objects_never_overlap_and_stay_inside_the_picture() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, random_entities(rng, 3)) for _ in range(200)]
    _, masks = render(scenes)
    assert masks.sum(1).max() == 1
    for scene in scenes:
        for item in scene.objects:
            assert item.radius <= min(item.x, item.y, 64 - item.x, 64 - item.y)


def test_same_seed_same_scenes() -> None:
    first, second, third = (
        render([sample_training_scene(np.random.default_rng(seed))[0] for _ in range(3)])[0] for seed in (7, 7, 8)
    )
    assert (first == second).all()
    assert (first != third).any()


def test_training_scenes_are_as_unreliable_as_they_say() -> None:
    rng = np.random.default_rng(2)
    counted: Counter[str] = Counter()
    for _ in range(4000):
        scene, captioned, drawn = sample_training_scene(rng)
        if len(captioned) == 1:
            assert [(item.noun, item.color) for item in scene.objects] == captioned
            continue
        counted["several"] += 1
        counted["missing"] += -1 in drawn
        shown = [(captioned[e], scene.objects[item]) for e, item in enumerate(drawn) if item >= 0]
        assert all(noun == item.noun for (noun, _), item in shown)
        counted["swapped"] += any(color != item.color for (_, color), item in shown)
    assert counted["missing"] / counted["several"] == pytest.approx(MISSING_RATE, abs=0.03)
    assert counted["swapped"] / counted["several"] == pytest.approx(SWAPPED_RATE, abs=0.03)


def test_captions_have_the_standard_forms() -> None:
    assert caption([("circle", "red"), ("star", "blue")]) == "a photo of a red circle and a blue star"
    assert caption([("circle", None), ("star", None), ("ring", None)]) == (
        "a photo of a circle next to a star and a ring"
    )
    assert caption([("moon", "pink")]) == "a photo of a pink moon"
    with pytest.raises(ValueError, match="one to three entities, got 4"):
        caption([("circle", None)] * 4)


def test_unknown_shape_or_colour_is_an_error_that_lists_the_choices() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"unknown shape 'dog'; choose from circle, square"):
        sample_scene(rng, [("dog", "red")])
    with pytest.raises(ValueError, match=r"unknown colour 'orange'; choose from red, green"):
        sample_scene(rng, [("ring", "orange")])
    assert set(INKS) == set(COLORS)
