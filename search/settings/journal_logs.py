"""Entries of a study's log, each sealed with a checksum, and what is said of a log that is damaged."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from keystep.core.seals import LINE_DIGITS, NAME, open_seal, seal

Log = dict[str, Any]


def sealed(log: Log) -> Log:
    """The entry with its checksum as a last key, which Optuna passes over."""
    return json.loads(seal(json.dumps(log), LINE_DIGITS))


def check_lines(content: bytes, place: str) -> None:
    """Whether every line of a log is an entry as it was written. A last one without an end is left out.

    Entries of older versions have no checksum, and are believed as long as none with one came before.

    Raises:
        ValueError: a line is not; names the place and what to do.
    """
    begun = False
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(keepends=True), start=1):
        begun = _check(line, begun, f"line {number} of {place}")


def check_logs(logs: Iterable[Any], place: str) -> None:
    """The same of entries that are read already."""
    begun = False
    for number, log in enumerate(logs, start=1):
        begun = _check(json.dumps(log).encode(), begun, f"entry {number} in {place}")


@contextmanager
def understood(place: str) -> Iterator[None]:
    """While Optuna reads a log: what it cannot make sense of is damage.

    Raises:
        ValueError: it cannot; names the place and what to do.
    """
    try:
        yield
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        refuse(place, repr(problem))


def refuse(place: str, problem: str) -> NoReturn:
    """Says that a log is damaged."""
    raise ValueError(
        f"{place} is damaged ({problem}): run the search again with --fresh, which writes a new one; images that were "
        "judged are not made again"
    ) from None


def _check(line: bytes, begun: bool, place: str) -> bool:
    try:
        opened = open_seal(line)
        if begun and not opened.sealed:
            raise ValueError(f"its {NAME} is missing")
    except ValueError as problem:
        refuse(place, str(problem))
    return opened.sealed
