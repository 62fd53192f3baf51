"""Whether a text shows a table with nothing cut, told from the table's cells alone."""

import re
from collections import Counter

from rich.cells import cell_len

from keystep.search.reporting.table import Table


def check_shown(table: Table, text: str, width: int) -> None:
    """AssertionError unless every cell is in the text, in lines of `width`: names and numbers on a line, words whole.

    The cells of a row that is named by words stand after its name and before the next row's.
    """
    too_long = [line for line in text.splitlines() if cell_len(line) > width]
    assert not too_long, too_long
    assert "…" not in text
    kept, words = Counter[str](), Counter[str]()
    for place, numeric in enumerate(table.numeric):
        for row in table.rows:
            if row[place] and (numeric or place == 0):
                kept[row[place]] += 1
            words.update(row[place].split())
    for title in table.titles[0 if table.numeric[0] else 1 :]:  # names need no title where rows are listed
        words.update({word: 1 for word in title.split() if word not in words})
    for cell, times in kept.items():
        assert len(_found(cell, text)) >= times, f"{cell!r} is not {times} times whole in\n{text}"
    for word, times in words.items():
        assert len(_found(word, text)) >= times, f"{word!r} is not {times} times in\n{text}"
    if not table.numeric[0] and all(row[0] for row in table.rows):
        _check_rows(table, text)


def _check_rows(table: Table, text: str) -> None:
    starts, at = [], 0
    for row in table.rows:
        starts.append(next(place for place in _found(row[0], text) if place >= at))
        at = starts[-1] + 1
    for row, start, end in zip(table.rows, starts, [*starts[1:], len(text)], strict=True):
        for cell, numeric in zip(row, table.numeric, strict=True):
            if numeric and cell:
                assert _found(cell, text[start:end]), f"{cell!r} is not with {row[0]!r} in\n{text}"


def _found(what: str, text: str) -> list[int]:
    """Where it stands between blanks; a title beneath a row has a colon behind it."""
    return [match.start() for match in re.finditer(rf"(?<!\S){re.escape(what)}:?(?!\S)", text)]
