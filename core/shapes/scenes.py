"""Scenes of one to three coloured shapes on a soft background, with exact masks as ground truth.

A scene is a value (what is where); `render` draws a batch of scenes with anti-aliased edges. Everything is seeded, so
scene number n of a seed is the same scene on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keystep.core.shapes.signed_distance import SHAPES

IMAGE_SIZE = 64
MAX_OBJECTS = 3
NOUNS = tuple(SHAPES)
COLORS = ("red", "green", "blue", "purple", "pink", "yellow")
# sRGB inks near TIAM's CIELAB references (WACV 2024, arXiv 2307.05134), so that any TIAM palette names them rightly.
INKS = {
    "red": (170, 18, 30),
    "green": (18, 132, 62),
    "blue": (20, 116, 180),
    "purple": (88, 32, 112),
    "pink": (226, 122, 172),
    "yellow": (240, 204, 66),
}
INK_JITTER = 10  # each channel, in 0..255
RADII = {1: (11.0, 17.0), 2: (10.0, 14.5), 3: (9.0, 12.5)}  # px, by number of objects
GAP = 2.0  # px between the circles around two objects
MARGIN = 1.0  # px between the circle around an object and the border
TILT = np.pi / 12  # largest rotation either way


@dataclass(frozen=True)
class SceneObject:
    """One shape: its noun, colour name, centre (px, from the top left), radius (px), angle (rad) and exact ink."""

    noun: str
    color: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    ink: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Scene:
    """Objects on a background that goes linearly from one sRGB colour (top left) to another (bottom right)."""

    objects: tuple[SceneObject, ...]
    background: tuple[tuple[int, int, int], tuple[int, int, int]] = ((236, 236, 236), (236, 236, 236))


def sample_scene(rng: np.random.Generator, entities: Sequence[tuple[str, str]]) -> Scene:
    """Place `entities` (noun, colour), at most three, without overlap. Draws everything else from `rng`.

    Raises ValueError for an unknown noun or colour, or more than three entities.
    """
    if len(entities) > MAX_OBJECTS:
        raise ValueError(f"a scene holds at most {MAX_OBJECTS} objects, got {len(entities)}")
    for noun, color in entities:
        if noun not in SHAPES:
            raise ValueError(f"unknown shape {noun!r}; choose from {', '.join(NOUNS)}")
        if color not in INKS:
            raise ValueError(f"unknown colour {color!r}; choose from {', '.join(COLORS)}")
    circles = _place(rng, len(entities))
    objects = tuple(
        SceneObject(noun, color, x, y, radius, float(rng.uniform(-TILT, TILT)), _jitter(rng, INKS[color]))
        for (noun, color), (x, y, radius) in zip(entities, circles, strict=True)
    )
    return Scene(objects, _sample_background(rng))


def random_entities(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """`count` (noun, colour) pairs, six at most; no noun and no colour comes twice."""
    nouns = rng.permutation(len(NOUNS))[:count]
    colors = rng.permutation(len(COLORS))[:count]
    return [(NOUNS[noun], COLORS[color]) for noun, color in zip(nouns, colors, strict=True)]


def render(scenes: Sequence[Scene], size: int = IMAGE_SIZE) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw scenes.

    Returns images (B, size, size, 3) uint8 and masks (B, 3, size, size) bool: mask [b, k] is where object k of scene b
    covers at least half of a pixel; all False beyond a scene's number of objects.
    """
    scale = size / IMAGE_SIZE
    centres = (np.arange(size, dtype=np.float32) + 0.5) / scale
    x, y = centres[None, :], centres[:, None]
    along = ((x + y) / (2 * IMAGE_SIZE))[..., None]
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    masks = np.zeros((len(scenes), MAX_OBJECTS, size, size), bool)
    for b, scene in enumerate(scenes):
        start, end = (np.asarray(ink, np.float32) for ink in scene.background)
        canvas = start + (end - start) * along
        for k, item in enumerate(scene.objects):
            cos, sin = np.cos(item.angle), np.sin(item.angle)
            dx, dy = (x - item.x) / item.radius, (y - item.y) / item.radius
            distance = SHAPES[item.noun](cos * dx + sin * dy, cos * dy - sin * dx) * item.radius * scale
            coverage = np.clip(0.5 - distance, 0.0, 1.0)
            ink = np.asarray(item.ink or INKS[item.color], np.float32)
            canvas += coverage[..., None] * (ink - canvas)
            masks[b, k] = coverage >= 0.5
        images[b] = np.rint(canvas)
    return images, masks


def _place(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(x, y, radius) of `count` circles that do not touch; starts over if the first leave no room for the rest."""
    if count == 0:
        return []
    low, high = RADII[count]
    while True:
        circles: list[tuple[float, float, float]] = []
        for _ in range(20 * count):
            radius = rng.uniform(low, high)
            border = radius + MARGIN
            x, y = rng.uniform(border, IMAGE_SIZE - border, 2)
            if all(np.hypot(x - u, y - v) >= radius + other + GAP for u, v, other in circles):
                circles.append((float(x), float(y), float(radius)))
            if len(circles) == count:
                return circles


def _jitter(rng: np.random.Generator, ink: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.asarray(ink) + rng.integers(-INK_JITTER, INK_JITTER + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def _sample_background(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    def tint() -> tuple[int, int, int]:
        red, green, blue = rng.integers(205, 250) + rng.integers(-12, 6, 3)
        return int(red), int(green), int(blue)

    return tint(), tint()
