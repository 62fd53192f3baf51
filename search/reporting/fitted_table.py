"""A table on a terminal of any width: names and numbers stay whole, the rest gives way to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from keystep.search.reporting.table import Table

EDGE = 1  # characters before a line
GAP, NARROW_GAP = 3, 2  # between two columns, and where that saves a table from becoming a list
LEAST = 20  # of a column of words, before others give way to it


@dataclass(frozen=True)
class FittedTable:
    """Draws a table within the width that there is.

    Columns of words wrap first, and titles with them. Then the secondary columns move beneath their rows, one after
    the other. If names and numbers alone are still too wide, every row becomes a list of its cells. Only a word longer
    than the whole line is ever broken.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.table.title:
            yield Text(self.table.title, style="bold")
        yield Text()
        yield from self._lines(console, options.max_width)
        yield Text()
        if self.table.note:
            yield Text(self.table.note, style="dim italic")

    def _lines(self, console: Console, width: int) -> Iterator[Text]:
        columns = _columns(self.table, width)
        if columns is None:
            yield from _listed(self.table, console, width)
        else:
            yield from _aligned(self.table, columns, console, width)


@dataclass(frozen=True)
class _Columns:
    """Which columns stand side by side, how wide and how far apart, and which beneath their row."""

    shown: Sequence[int]
    widths: Sequence[int]
    gap: int
    beneath: Sequence[int]


def _columns(table: Table, width: int) -> _Columns | None:
    """The most columns that fit; None if not even those fit that are not secondary."""
    num_secondary = len(table.secondary)
    for moved, gap in [*((moved, GAP) for moved in range(num_secondary + 1)), (num_secondary, NARROW_GAP)]:
        beneath = [place for place, title in enumerate(table.titles) if title in table.secondary[:moved]]
        shown = [place for place in range(len(table.titles)) if place not in beneath]
        widths = _widths(table, shown, width - EDGE - gap * (len(shown) - 1))
        if widths is not None:
            return _Columns(shown, widths, gap, beneath)
    return None


def _widths(table: Table, shown: Sequence[int], room: int) -> list[int] | None:
    """Of the columns shown, characters, in all at most `room`; None if they do not fit."""
    full = [max(cell_len(text) for text in (table.titles[place], *_column(table, place))) for place in shown]
    widths = [_least(table, place) for place in shown]
    if sum(widths) > room:
        return None
    for _ in range(min(room, sum(full)) - sum(widths)):
        widths[max(range(len(shown)), key=lambda column: full[column] - widths[column])] += 1
    return widths


def _least(table: Table, place: int) -> int:
    """What a column needs: its cells whole, or, where they are words, a few of these a line."""
    title, cells = table.titles[place], _column(table, place)
    longest_word = max(map(_longest_word, (title, *cells)))
    whole = max((cell_len(cell) for cell in cells), default=0)
    wraps = place > 0 and not table.numeric[place]
    return max(1, longest_word, min(whole, LEAST) if wraps else whole)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _column(table: Table, place: int) -> list[str]:
    return [row[place] for row in table.rows]


def _aligned(table: Table, columns: _Columns, console: Console, width: int) -> Iterator[Text]:
    """Columns side by side under their titles, and under each row what has moved there."""

    shown, widths = columns.shown, columns.widths

    def lines(cells: Sequence[str], style: str = "") -> Iterator[Text]:
        wrapped = [Text(cells[place]).wrap(console, size) for place, size in zip(shown, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            line = Text(" " * EDGE, style=style)
            for column, (place, size) in enumerate(zip(shown, widths, strict=True)):
                cell = wrapped[column][number] if number < len(wrapped[column]) else Text()
                cell.rstrip()
                cell.align("right" if table.numeric[place] else "left", size)
                line.append_text(cell).append(" " * columns.gap if column < len(shown) - 1 else "")
            line.rstrip()
            yield line

    if any(table.titles):
        yield from lines(table.titles, "bold")
        yield Text(" " * EDGE + "─" * (sum(widths) + columns.gap * (len(shown) - 1)))
    for row in table.rows:
        yield from lines(row)
        yield from _beneath(table, row, columns.beneath, console, width)


def _beneath(table: Table, row: Sequence[str], places: Sequence[int], console: Console, width: int) -> Iterator[Text]:
    """Cells with their titles, as many on a line as it holds whole."""
    line = ""
    for place in places:
        piece = f"{table.titles[place]}: {row[place]}"
        if not row[place]:
            continue
        if line and cell_len(f"{line} · {piece}") > width - GAP:
            yield from _indented(line, GAP, console, width, "dim")
            line = ""
        if cell_len(piece) > width - GAP:
            yield from _entry(table, place, row[place], cell_len(table.titles[place]) + 2, console, width)
        else:
            line += f" · {piece}" if line else piece
    if line:
        yield from _indented(line, GAP, console, width, "dim")


def _listed(table: Table, console: Console, width: int) -> Iterator[Text]:
    """A row after the other: what names it, and each of its other cells on a line with its title."""
    longest = max(map(cell_len, table.titles))
    for row in table.rows:
        named = next((place for place, cell in enumerate(row) if cell), 0)
        heading = [table.titles[named], row[named]] if table.numeric[named] else [row[named]]
        fits = cell_len(" ".join(heading)) <= width - EDGE
        for part in [" ".join(heading)] if fits else heading:
            yield from _indented(part, EDGE, console, width, "bold")
        for place, cell in enumerate(row):
            if cell and place != named:
                yield from _entry(table, place, cell, longest + 2 if longest else 0, console, width)


def _entry(table: Table, place: int, cell: str, beside: int, console: Console, width: int) -> Iterator[Text]:
    """A cell `beside` characters right of where its title begins, or below it where that leaves too little room."""
    title, indent = table.titles[place], EDGE + GAP
    needed = cell_len(cell) if table.numeric[place] else _longest_word(cell)
    if needed <= width - indent - beside:
        yield from _indented(cell, indent, console, width, before=title + " " * (beside - cell_len(title)))
    else:
        yield from _indented(f"{title}:" if title else "", indent, console, width)
        yield from _indented(cell, indent + GAP, console, width)


def _indented(
    text: str, indent: int, console: Console, width: int, style: str = "", before: str = ""
) -> Iterator[Text]:
    """The text in lines of what is left of the width; `before` stands left of the first of them."""
    hanging = indent + cell_len(before)
    for number, line in enumerate(Text(text).wrap(console, max(1, width - hanging))):
        line.rstrip()
        yield Text(" " * indent + (before if number == 0 else " " * cell_len(before)), style).append_text(line)
