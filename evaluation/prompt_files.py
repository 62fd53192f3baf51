"""The rows of a prompt file, whatever program wrote it: tables (.csv, .tsv), JSON, JSON lines, plain lists (.txt)."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from keystep.core.bounded_json import parse_json
from keystep.core.plain_text import read_text
from keystep.evaluation.prompt_rows import EXAMPLE, Row, column_name

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt")


def read_rows(path: Path) -> list[Row]:
    """The rows of the file, in its order, empty ones left out.

    ValueError with file and line: no text, no table with a column `prompt`, no JSON, a column or key that
    stands twice, a row of another shape.
    """
    text, kind = read_text(path), path.suffix.lower()
    if kind == ".txt" and text.lstrip()[:1] in ("{", "["):
        kind = ".json"
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _json_lines, ".json": _json, ".txt": _lines}
    return list(readers[kind](text, path))


def _lines(text: str, path: Path) -> Iterator[Row]:
    """A prompt a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(f"{path}, line {number}", {"prompt": line.strip()})


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield Row(where, _keys(parse_json(line, where), where))


def _json(text: str, path: Path) -> Iterator[Row]:
    """A list of rows or of texts, or an object with such lists: {"animals": ["a cat and a dog", ...], ...}."""
    value = parse_json(text, str(path))
    lists = value if isinstance(value, dict) else {"": value}
    for name, items in lists.items():
        place = f"{path}, {name!r}" if name else str(path)
        if not isinstance(items, list):
            raise ValueError(f"{place}: expected a list of prompts, got {items!r:.60}")
        for number, item in enumerate(items, start=1):
            where = f"{place}, item {number}"
            yield Row(where, {"prompt": item} if isinstance(item, str) else _keys(item, where))


def _keys(row: object, where: str) -> Mapping[str, object]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row must be an object {{...}}, got {row!r:.60}")
    names = [column_name(name) for name in row]
    return dict(zip(_once(names, where), row.values(), strict=True))


def _once(names: list[str], where: str) -> list[str]:
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"{where}: the column {name!r} stands twice; leave one of them, or rename it")
    return names


def _table(text: str, path: Path) -> Iterator[Row]:
    """A table with a header, its cells separated by commas, semicolons or tabs."""
    said = re.match(r"sep=(.)\r?\n", text)  # what Excel puts above the header
    skipped = 1 if said else 0
    text = text[said.end() :] if said else text
    names, separator = _header(text, f"{path}, line {1 + skipped}", said[1] if said else None)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(reader)
        for cells in reader:
            where = f"{path}, line {reader.line_num + skipped}"
            if any(cell.strip() for cell in cells):
                yield Row(where, _cells(names, cells, where))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + skipped}: {error}") from error


def _header(text: str, where: str, said: str | None) -> tuple[list[str], str]:
    """The names of the columns, and what separates cells: the one separator with which there is a `prompt`."""
    for separator in [said] if said else SEPARATORS:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        except csv.Error as error:
            raise ValueError(f"{where}: {error}") from error
        names = [column_name(name) for name in header]
        if "prompt" in names:
            return _once(names, where), separator
    first = text.split("\n", 1)[0].strip()
    raise ValueError(
        f"{where}: the header needs 'prompt', got {first[:80]!r}. Expected, separated by commas, semicolons or tabs:"
        f"\n{EXAMPLE}"
    )


def _cells(names: list[str], cells: list[str], where: str) -> dict[str, str]:
    """The row by column; cells without a column or a name are left out if they say nothing, or only count."""
    if any(cell.strip() for cell in cells[len(names) :]):
        raise ValueError(f"{where}: more cells than the header has columns; quote commas in the prompt")
    row = {}
    for place, (name, cell) in enumerate(zip(names, cells, strict=False)):
        if name:
            row[name] = cell
        elif cell.strip() and not cell.strip().isdecimal():
            raise ValueError(f"{where}: column {place + 1} has no name in the header, and holds {cell.strip()!r}")
    return row
