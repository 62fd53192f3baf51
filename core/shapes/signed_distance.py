"""Signed distances of the eight shapes, in units of the shape's radius.

Each function takes x and y (any broadcastable arrays, y pointing down, the shape centred on 0 and inside the unit
circle) and returns the signed distance to the outline: negative inside. Distances are exact or a lower bound near the
outline, which is what anti-aliasing needs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1.0


def square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def triangle(x: Array, y: Array) -> Array:
    """Equilateral, pointing up, corners on the unit circle (inradius 1/2)."""
    slanted = 0.75**0.5 * np.abs(x) - 0.5 * y
    return np.maximum(slanted, y) - 0.5


def star(x: Array, y: Array) -> Array:
    """Five points, inner radius 0.45: fold the plane onto half a point, then one straight edge remains."""
    fifth = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs((angle + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    inner_along, inner_across = 0.45 * np.cos(fifth / 2), 0.45 * np.sin(fifth / 2)
    normal_along, normal_across = inner_across, 1.0 - inner_along
    length = np.hypot(normal_along, normal_across)
    return ((along - 1.0) * normal_along + across * normal_across) / length


def heart(x: Array, y: Array) -> Array:
    """A square on its corner with a half disc on each upper side."""
    half = 0.525
    y = y - 0.08
    u, v = (x + y) / 2**0.5, (y - x) / 2**0.5
    box = np.maximum(np.abs(u), np.abs(v)) - half
    right, left = np.hypot(u, v + half) - half, np.hypot(u + half, v) - half
    return np.minimum(box, np.minimum(left, right))


def cross(x: Array, y: Array) -> Array:
    long, short = 0.96, 0.34
    upright = np.maximum(np.abs(x) - short, np.abs(y) - long)
    level = np.maximum(np.abs(x) - long, np.abs(y) - short)
    return np.minimum(upright, level)


def ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.74) - 0.24


def moon(x: Array, y: Array) -> Array:
    """A crescent: the unit disc less a smaller disc to its right."""
    return np.maximum(np.hypot(x, y) - 1.0, 0.78 - np.hypot(x - 0.5, y))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "moon": moon,
}
