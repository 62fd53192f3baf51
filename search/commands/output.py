"""What several commands print and write."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from keystep.search.reporting.fitted_table import FittedTable
from keystep.search.reporting.table import Table

if TYPE_CHECKING:
    from keystep.evaluation.statistics import Estimate

FILE_WIDTH = 140  # characters of a line where there is no terminal


def interval_text(estimate: "Estimate") -> str:
    """The mean and its interval as they are, as in "0.261 [0.258, 0.264]"."""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def write_json(path: Path, value: object) -> None:
    """Write a value at once: a reader sees the whole file or none. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def table_console() -> Console:
    """Stdout for tables: as wide as the terminal or COLUMNS says; in a file or pipe wide enough for all columns."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, FILE_WIDTH)
    return console


def print_table(table: Table) -> None:
    """Print it on stdout, as `table_console` says."""
    table_console().print(FittedTable(table), crop=False)


@contextmanager
def going_on(done: Callable[[], str]) -> Iterator[None]:
    """Have Ctrl-C say how far the work was, in the words of `done`, and that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted: {done()}. The same command goes on from there.") from stop


def progress_bar() -> Progress:
    """Done, of how many, for how long, and how long still; on stderr, so that stdout holds results alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
