"""Contact sheets: what each setting made of each prompt, at a glance.

`contact_sheet` is a grid of prompt by setting, the same seed side by side, with a mark for each entity and
the masks outlined. `attention_sheet` shows where each entity's attention lies on the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.detections import Instance
from keystep.evaluation.drawing import (
    BAD,
    ENTITY_COLORS,
    FAINT,
    GOOD,
    HAIRLINE,
    HALF,
    INK,
    PAPER,
    Color,
    draw_lines,
    fitted,
    font,
    heated,
    outlined,
    shorten,
    text_height,
    wrap,
)
from keystep.evaluation.labels import canonical_label
from keystep.evaluation.tiam import ImageScore

MAX_PIXELS = 100_000_000
_GAP, _MARGIN, _PROMPT_WIDTH = 14, 28, 190
_OTHER: Color = (150, 150, 150)
_MARKS = {
    "bound": ("✓", GOOD, "found, with its colour if it has one"),
    "found": ("◐", HALF, "found, colour wrong"),
    "missing": ("✗", BAD, "not found"),
}


@dataclass(frozen=True)
class Cell:
    """One image of a sheet.

    Args:
        image: any size.
        score: of the image; the marks are those of confidence `level`. None: no marks.
        instances: drawn in the colour of the entity they are an instance of, others in grey.
        note: a short line beneath the marks, such as a loss.
    """

    image: Image.Image
    score: ImageScore | None = None
    instances: Sequence[Instance] = ()
    note: str = ""


@dataclass(frozen=True)
class SheetRow:
    """One prompt and seed: a cell for every setting, None where there is no image."""

    prompt: Prompt
    seed: int | str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class AttentionRow:
    """One image with its entities' maps.

    Args:
        prompt: its entities name the maps.
        image: any size.
        maps: (E, h, w) finite numbers, any scale.
        caption: beneath the prompt, such as the step and setting the maps come from.
    """

    prompt: Prompt
    image: Image.Image
    maps: NDArray[np.floating]
    caption: str = ""


def contact_sheet(
    rows: Sequence[SheetRow],
    settings: Sequence[str],
    *,
    title: str = "",
    side: int = 192,
    level: int = 0,
    outlines: bool = True,
    panels: int = 1,
) -> Image.Image:
    """A grid with a row for every prompt and seed and a column for every setting.

    Args:
        rows: in the order shown.
        settings: the columns' titles.
        side: px of an image's longer side at most; a 64 px image is enlarged three times at 192.
        level: which of the scores' confidences the marks show.
        outlines: whether to draw the instances' masks.
        panels: grids side by side that share the rows out, the first rows to the left; at least 1.

    Returns:
        RGB image; save it as PNG.

    Raises:
        ValueError: if there is no row, a row has not one cell a setting, or the sheet would exceed
            `MAX_PIXELS`.
    """
    for row in rows:
        if len(row.cells) != len(settings):
            raise ValueError(
                f"row {row.prompt.text!r} has {len(row.cells)} cells for {len(settings)} settings; "
                "use None where there is no image"
            )
    marks = max((len(row.prompt.entities) for row in rows), default=0)
    notes = any(cell is not None and cell.note for row in rows for cell in row.cells)
    below = text_height(font(12), marks + notes) + 6
    legend = [(symbol, color, text) for symbol, color, text in _MARKS.values()]
    num_lines = -(-len(rows) // panels)
    canvas, draw, top = _start(title, settings, num_lines, side, side + below, legend, panels)
    for number, row in enumerate(rows):
        panel, line = divmod(number, num_lines)
        left, y = panel * _panel_width(len(settings), side), top + line * (side + below + _GAP)
        _describe(draw, (left + _MARGIN, y), row.prompt, f"seed {row.seed}", side)
        for column, cell in enumerate(row.cells):
            x = left + _column_x(column, side)
            if cell is None:
                draw.rectangle((x, y, x + side - 1, y + side - 1), outline=HAIRLINE)
                draw.text((x + side / 2, y + side / 2), "no image", font=font(12), fill=FAINT, anchor="mm")
                continue
            picture = fitted(cell.image, side)
            if outlines and cell.instances:
                colors = [_color_of(instance, row.prompt) for instance in cell.instances]
                picture = outlined(picture, [instance.mask for instance in cell.instances], colors)
            canvas.paste(picture, (x, y))
            _mark(draw, (x, y + side + 4), row.prompt, cell, side, level)
    return canvas


def attention_sheet(rows: Sequence[AttentionRow], *, title: str = "", side: int = 192) -> Image.Image:
    """A row for every image: the image, then each entity's attention over it, with its own range.

    Args:
        rows: in the order shown.
        side: px of an image's longer side at most.

    Raises:
        ValueError: if there is no row, a row has not one map an entity, or the sheet would exceed
            `MAX_PIXELS`.
    """
    for row in rows:
        if row.maps.ndim != 3 or len(row.maps) != len(row.prompt.entities):
            raise ValueError(
                f"{row.prompt.text!r} needs {len(row.prompt.entities)} maps (E, h, w), got shape {row.maps.shape}"
            )
    count = max((len(row.prompt.entities) for row in rows), default=0)
    below = text_height(font(12), 2) + 6
    columns = ["image", *[f"entity {position + 1}" for position in range(count)]]
    canvas, draw, top = _start(title, columns, len(rows), side, side + below, [])
    for number, row in enumerate(rows):
        y = top + number * (side + below + _GAP)
        _describe(draw, (_MARGIN, y), row.prompt, row.caption, side)
        picture = fitted(row.image, side)
        canvas.paste(picture, (_column_x(0, side), y))
        for position, (entity, heat) in enumerate(zip(row.prompt.entities, row.maps, strict=True)):
            x = _column_x(position + 1, side)
            canvas.paste(heated(picture, heat), (x, y))
            _name(draw, (x, y + side + 4), entity, position, side)
            spread = f"{heat.min():.3g} to {heat.max():.3g}"
            draw.text((x, y + side + 4 + text_height(font(12))), spread, font=font(12), fill=FAINT)
    return canvas


def _start(
    title: str,
    columns: Sequence[str],
    num_rows: int,
    side: int,
    row_height: int,
    legend: Sequence[tuple[str, Color, str]],
    panels: int = 1,
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """An empty sheet with title, legend and column titles; also where its first row begins (px from the top)."""
    if not num_rows:
        raise ValueError("a sheet needs at least one row")
    width = (panels - 1) * _panel_width(len(columns), side) + _column_x(len(columns), side) - _GAP + _MARGIN
    entries = [font(12).getlength(f"{symbol} {text}") + 22 for symbol, _, text in legend]
    width = max(width, round(2 * _MARGIN + sum(entries)), round(2 * _MARGIN + font(20, bold=True).getlength(title)))
    headers = [wrap(column, font(13, bold=True), side) for column in columns]
    top = _MARGIN + (text_height(font(20, bold=True)) + 6 if title else 0)
    legend_y, top = top, top + (text_height(font(12)) + 12 if legend else 0)
    top += text_height(font(13, bold=True), max(map(len, headers), default=1)) + 6
    height = top + num_rows * (row_height + _GAP) - _GAP + _MARGIN
    if width * height > MAX_PIXELS:
        raise ValueError(f"a sheet of {width} x {height} px is too large; show fewer rows or a smaller side")
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, font=font(20, bold=True), fill=INK)
    x = float(_MARGIN)
    for (symbol, color, text), entry in zip(legend, entries, strict=True):
        draw.text((x, legend_y - 2), symbol, font=font(15, bold=True), fill=color)
        draw.text((x + 16, legend_y), text, font=font(12), fill=FAINT)
        x += entry
    for panel, (column, lines) in product(range(panels), enumerate(headers)):
        x = panel * _panel_width(len(columns), side) + _column_x(column, side)
        draw_lines(draw, (x, top - 6 - text_height(font(13, bold=True), len(lines))), lines, font(13, bold=True))
    return canvas, draw, top


def _panel_width(num_columns: int, side: int) -> int:
    """From where one panel begins to where the next does."""
    return _column_x(num_columns, side) + _GAP


def _column_x(column: int, side: int) -> int:
    return _MARGIN + _PROMPT_WIDTH + _GAP + column * (side + _GAP)


def _describe(draw: ImageDraw.ImageDraw, corner: tuple[int, int], prompt: Prompt, caption: str, side: int) -> None:
    """The prompt and a caption, wrapped and cut to the row's height."""
    room = max(1, side // text_height(font(13)) - 2)
    lines = wrap(prompt.text, font(13), _PROMPT_WIDTH)
    if len(lines) > room:
        lines = [*lines[: room - 1], shorten(" ".join(lines[room - 1 :]), font(13), _PROMPT_WIDTH)]
    draw_lines(draw, corner, lines, font(13))
    y = corner[1] + text_height(font(13), len(lines)) + 4
    draw_lines(draw, (corner[0], y), wrap(caption, font(12), _PROMPT_WIDTH)[:2], font(12), FAINT)


def _mark(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], prompt: Prompt, cell: Cell, side: int, level: int
) -> None:
    x, y = corner
    for position, entity in enumerate(prompt.entities):
        if cell.score is not None:
            found, bound = cell.score.found[level, position], cell.score.bound[level, position]
            symbol, color, _ = _MARKS["bound" if bound else "found" if found else "missing"]
            draw.text((x + side - 14, y - 2), symbol, font=font(15, bold=True), fill=color)
        _name(draw, (x, y), entity, position, side - 18)
        y += text_height(font(12))
    draw.text((x, y), shorten(cell.note, font(12), side), font=font(12), fill=FAINT)


def _name(draw: ImageDraw.ImageDraw, corner: tuple[int, int], entity: Entity, position: int, width: int) -> None:
    x, y = corner
    swatch = ENTITY_COLORS[position % len(ENTITY_COLORS)]
    draw.rounded_rectangle((x, y + 3, x + 9, y + 12), radius=2, fill=swatch)
    draw.text((x + 15, y), shorten(str(entity), font(12), width - 15), font=font(12), fill=INK)


def _color_of(instance: Instance, prompt: Prompt) -> Color:
    """The colour of the first entity with the instance's label."""
    for position, entity in enumerate(prompt.entities):
        if canonical_label(entity.noun) == instance.label:
            return ENTITY_COLORS[position % len(ENTITY_COLORS)]
    return _OTHER
