"""A table as a value."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under column titles.

    Args:
        columns: titles; one that begins with ">" is a column of numbers, set right. The first column names the row.
        rows: as many texts as columns.
        note: what a reader has to know of it.
        secondary: titles, as they are shown, of columns that a narrow terminal shows beneath their row, those that
            are to go first at the front.
        title: stands above it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    secondary: Sequence[str] = ()
    title: str = ""

    @property
    def titles(self) -> list[str]:
        """The columns' titles without marks."""
        return [column.removeprefix(">") for column in self.columns]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are set right."""
        return [column.startswith(">") for column in self.columns]
