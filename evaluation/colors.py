"""Which colour is a pixel? sRGB to CIELAB, and the nearest named reference of a palette."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# IEC 61966-2-1: linear sRGB to XYZ, and its white point D65 (2 degree observer), Y = 1.
_XYZ_FROM_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883])
_LAB_FROM_F = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])

_LEVELS = np.arange(256) / 255.0
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def srgb_to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIELAB (D65) of 8-bit sRGB colours.

    Args:
        rgb: (..., 3) uint8, sRGB with its transfer curve, as Pillow gives it.

    Returns:
        (..., 3) float64: L in [0, 100], a and b roughly in [-110, 110].

    Raises:
        ValueError: if the array is not uint8 or its last axis is not 3.
    """
    if rgb.dtype != np.uint8 or rgb.shape[-1:] != (3,):
        raise ValueError(f"colours must be uint8 with a last axis of 3, got {rgb.dtype} of shape {rgb.shape}")
    ratios = _LINEAR[rgb] @ (_XYZ_FROM_RGB / _WHITE_D65[:, None]).T
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios * (29 / 6) ** 2 / 3 + 4 / 29)
    return f @ _LAB_FROM_F.T - np.array([16.0, 0.0, 0.0])


@dataclass(frozen=True)
class Palette:
    """Named colours, each with one or several references in CIELAB.

    Args:
        name: what scores and caches call this palette.
        references: name of a colour -> its references, each (L, a, b).

    `names` are the colours in order; `fingerprint` changes with any reference, so that counts made with other
    references are never taken for these.
    """

    name: str
    references: Mapping[str, Sequence[tuple[float, float, float]]]
    names: tuple[str, ...] = field(init=False)
    fingerprint: str = field(init=False, repr=False)
    _points: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _owners: NDArray[np.intp] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.references or not all(self.references.values()):
            raise ValueError(f"palette {self.name!r} needs at least one reference for every colour")
        counts = [len(points) for points in self.references.values()]
        listed = json.dumps({name: [list(p) for p in ps] for name, ps in self.references.items()})
        object.__setattr__(self, "names", tuple(self.references))
        object.__setattr__(self, "fingerprint", f"{self.name}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}")
        object.__setattr__(self, "_points", np.array([p for ps in self.references.values() for p in ps]))
        object.__setattr__(self, "_owners", np.repeat(np.arange(len(counts)), counts))

    def classify(self, rgb: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Index into `names` of every colour's nearest reference (Euclidean in CIELAB; ties: the first).

        Args:
            rgb: (..., 3) uint8 sRGB.

        Returns:
            (...) integers in [0, len(names)).
        """
        lab = srgb_to_lab(rgb)
        # |x - r|^2 less the |x|^2 that all references share: a product, not a (pixels, R, 3) difference.
        distance = (self._points**2).sum(-1) - 2.0 * lab @ self._points.T
        return self._owners[distance.argmin(-1)]

    def shares(self, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Share of a set of pixels that each colour of the palette has.

        Args:
            rgb: (N, 3) uint8 sRGB, the pixels of one mask. N may be 0: every share is then 0.

        Returns:
            (len(names),) in [0, 1]; sums to 1 unless N is 0.
        """
        counts = np.bincount(self.classify(rgb), minlength=len(self.names))
        return counts / max(1, len(rgb))

    def index(self, color: str) -> int:
        """Position of a colour in `names`.

        Raises:
            ValueError: if the palette has no such colour; the message lists those it has.
        """
        if not self.has(color):
            raise ValueError(f"palette {self.name!r} has no colour {color!r}; it has {', '.join(self.names)}")
        return self.names.index(_spelling(color))

    def has(self, color: str) -> bool:
        """Whether it has a colour of that name, in any spelling."""
        return _spelling(color) in self.references


def _spelling(color: str) -> str:
    return _SPELLINGS.get(color.lower(), color.lower())


_SPELLINGS = {"gray": "grey", "violet": "purple"}

# The references of the TIAM paper (arXiv 2307.05134): Berlin and Kay's best examples in the Munsell array.
_TIAM = {
    "pink": [(65.954, 43.849, -7.054)],
    "red": [(35.558, 57.090, 35.772)],
    "yellow": [(80.527, 8.569, 64.454)],
    "green": [(45.870, -55.739, 23.659)],
    "blue": [(45.870, -6.692, -40.215)],
    "purple": [(25.307, 35.018, -31.100)],
    "black": [(0.0, 0.0, 0.0)],
    "white": [(100.0, 0.0, 0.0)],
}

# What the paper's eight points get wrong, in sRGB: primaries, darks and lights of each hue, and the colours
# it has no point for. Cyan counts as blue and magenta as pink, the nearest of the names prompts use.
_EXTENDED_SRGB = {
    "pink": ["ffc0cb", "ff69b4", "ff1493", "ff00ff", "db7093"],
    "red": ["ff0000", "c00000", "800000", "e02040", "f04848"],
    "yellow": ["ffff00", "ffd700", "e0c000", "fff0a0"],
    "green": ["00ff00", "008000", "004000", "90ee90", "808000", "2e8b57", "a0d820"],
    "blue": [
        "0000ff",
        "000080",
        "0840d8",
        "1e90ff",
        "87ceeb",
        "00ffff",
        "4169e1",
        "4a7ba6",
        "008b8b",
        "c8f4fa",
    ],
    "purple": ["800080", "8a2be2", "4b0082", "a000e0", "b070e0", "c8a0e8", "885a90"],
    "black": ["101010"],
    "white": ["f4f4f4"],
    "grey": ["404040", "606060", "808080", "a0a0a0", "c0c0c0", "d8d8d8"],
    "brown": ["8b4513", "5a3510", "a0703c", "784830", "3c2008"],
    "orange": ["ffa500", "ff7f00", "ff5a00", "d2691e", "ffb060"],
}


def _lab(code: str) -> tuple[float, float, float]:
    lightness, a, b = srgb_to_lab(np.frombuffer(bytes.fromhex(code), np.uint8)).tolist()
    return lightness, a, b


PALETTES: dict[str, Palette] = {
    "tiam": Palette("tiam", _TIAM),
    "extended": Palette(
        "extended",
        {name: [*_TIAM.get(name, []), *map(_lab, codes)] for name, codes in _EXTENDED_SRGB.items()},
    ),
}


def palette_named(name: str) -> Palette:
    """The palette of that name: `tiam`, comparable with published scores, or `extended`, right more often.

    Raises:
        ValueError: if there is no such palette; the message lists the choices.
    """
    if name not in PALETTES:
        raise ValueError(f"unknown palette {name!r}; choose one of {', '.join(PALETTES)}")
    return PALETTES[name]
