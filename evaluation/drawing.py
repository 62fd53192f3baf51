"""Small drawing tools that the sheets share: text, outlines of masks, heat over a picture."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from keystep.evaluation.rgb import as_rgb

Color = tuple[int, int, int]

INK: Color = (28, 30, 34)
FAINT: Color = (112, 118, 128)
PAPER: Color = (255, 255, 255)
HAIRLINE: Color = (222, 225, 230)
GOOD: Color = (0, 130, 84)
HALF: Color = (196, 120, 0)
BAD: Color = (200, 38, 50)
# One colour an entity, by position: Okabe and Ito's, told apart by people with any colour vision.
ENTITY_COLORS: tuple[Color, ...] = ((230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115), (213, 94, 0))


@lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along and which has ticks and crosses."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of whole words no wider than `width` px (a single wider word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        if lines and face.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def shorten(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with an ellipsis if it is wider than `width` px."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def text_height(face: ImageFont.FreeTypeFont, lines: int = 1) -> int:
    """Height in px of that many lines, leading included."""
    ascent, descent = face.getmetrics()
    return lines * (ascent + descent + 2)


def draw_lines(
    canvas: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    face: ImageFont.FreeTypeFont,
    color: Color = INK,
) -> None:
    """Write lines downwards from the top left `corner`."""
    for number, line in enumerate(lines):
        canvas.text((corner[0], corner[1] + text_height(face, number)), line, font=face, fill=color)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture as large as fits a square of `side` px, its shape kept.

    Small pictures are enlarged by a whole factor with square pixels, so that what the model made is what one
    sees; large ones are reduced with Lanczos.
    """
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        return as_rgb(image).resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * side / longest)), max(1, round(image.height * side / longest)))
    return as_rgb(image).resize(size, Image.Resampling.LANCZOS)


def outlined(picture: Image.Image, masks: Sequence[NDArray[np.bool_]], colors: Sequence[Color]) -> Image.Image:
    """The picture with the rim of every mask drawn in its colour, a white hairline around it.

    Args:
        picture: RGB, any size.
        masks: each (H, W) bool of any size; stretched to the picture's.
        colors: one a mask.
    """
    pixels = np.array(as_rgb(picture))
    resized = [Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST) for mask in masks]
    large = [np.asarray(mask, dtype=bool) for mask in resized]
    for mask in large:
        pixels[ndimage.binary_dilation(mask, iterations=1) & ~mask] = 255
    for mask, color in zip(large, colors, strict=True):
        pixels[mask & np.logical_not(ndimage.binary_erosion(mask, iterations=2))] = color
    return Image.fromarray(pixels)


def heated(picture: Image.Image, heat: NDArray[np.floating]) -> Image.Image:
    """The picture, faded to grey, under a heat map stretched from its own least to its greatest value.

    Args:
        picture: RGB, any size.
        heat: (h, w) finite numbers; one value everywhere shows as none.
    """
    spread = float(np.ptp(heat))
    level = (heat - heat.min()) / spread if spread > 0 else np.zeros_like(heat)
    large = Image.fromarray(level.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    weight = np.clip(np.asarray(large), 0.0, 1.0)[..., None]
    colors = colormaps["inferno"](weight[..., 0])[..., :3] * 255
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.6 + 255 * 0.4
    alpha = 0.25 + 0.6 * weight
    return Image.fromarray(np.rint(grey * (1 - alpha) + colors * alpha).astype(np.uint8))
