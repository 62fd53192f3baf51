"""A picture of any kind as RGB with 8 bits, the colours that a viewer would show."""

import numpy as np
from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
PAPER = (255, 255, 255, 255)


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB.

    Whole numbers of 16 bits are scaled (65535 is white; Pillow's own `convert` cuts them off at 255), floats
    too (1.0 is white), and what is transparent shows white paper instead of whatever colour is stored below it.
    An RGB picture is returned as it is.

    Raises:
        ValueError: no white is agreed for its numbers: 32-bit whole ones in a TIFF, floats outside 0 to 1.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in SIXTEEN_BITS:
        return _grey(np.asarray(image).astype(np.float64) / 65535)
    if image.mode == "I":
        return _grey(_whole_numbers(image))
    if image.mode == "F":
        return _grey(_floats(image))
    if image.mode in TRANSPARENT or "transparency" in image.info:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, PAPER), whole).convert("RGB")
    return image.convert("RGB")


def _grey(brightness: np.ndarray) -> Image.Image:
    """RGB from (H, W) brightness in [0, 1]."""
    return Image.fromarray(np.rint(255 * brightness).astype(np.uint8)).convert("RGB")


def _whole_numbers(image: Image.Image) -> np.ndarray:
    """(H, W) brightness in [0, 1] of a picture that Pillow opens as 32-bit whole numbers.

    From PNG and PGM they are of 16 bits, which Pillow has scaled to 65535.
    """
    pixels = np.asarray(image).astype(np.float64)
    if image.format not in ("PNG", "PPM"):
        low, high = int(pixels.min()), int(pixels.max())
        raise ValueError(f"whole numbers of 32 bits ({low} to {high}) have no agreed white: save it with 8 or 16 bits")
    return np.clip(pixels / 65535, 0, 1)


def _floats(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not (0 <= low <= high <= 1):
        raise ValueError(f"floats from {low:g} to {high:g}: only 0 (black) to 1 (white) is agreed; save it with 8 bits")
    return pixels
