"""The journal between a search and its tracking store: what happened, in order, and how much of it was sent.

An event is on disk before anything is sent, so neither a dead server nor a killed process loses it. Sending
again what was sent already must change nothing: events carry the time they happened, which MLflow takes into
account when it drops doubled metrics, and an `id` that says what they are, which keeps a resumed search from
noting the same thing twice.
"""

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keystep.core.seals import LINE_DIGITS, open_seal, seal
from keystep.search.storing.secrets import masked

LOG = logging.getLogger(__name__)
FILE_NAME = "spool.jsonl"
OPENED = "opened"
"""Kind of the event that a journal begins with."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a search.

    Attributes:
        id: what it is, such as `slot/3/seen/24`; the same thing has the same id in every run of the search.
        kind: who handles it.
        data: JSON values, free of secrets.
        time_ms: when it happened, milliseconds since 1970.
    """

    id: str
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    time_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


class Spool:
    """Events in the order they happened, in `spool.jsonl`; how many a store has got, in `sent-<target>.json`.

    Appending never raises: on a full disk the event is kept in memory, written with the next one that can be, and a
    warning is logged once. Every line is sealed with its checksum; one that is damaged is left out and said, and what
    it told is noted again by the resumed search.

    Attributes:
        first: the event that opened the journal, of an earlier process; None if there was none.

    Args:
        folder: local; made if it is missing.
        target: short name of the store that events are sent to; another store gets everything from the
            beginning.
        fresh: forget what an earlier search left here.
    """

    def __init__(self, folder: Path, target: str, fresh: bool = False):
        self.path = folder / FILE_NAME
        self._cursor = folder / f"sent-{target}.json"
        self._changed = threading.Condition()
        self._warned = False
        self._unwritten: list[str] = []
        lines: list[Event | None] = []
        try:
            if fresh:
                for old in (self.path, *folder.glob("sent-*.json")):
                    old.unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            lines = _read(self.path)
        except OSError as error:
            self._warn(error)
        noted = [(number, event) for number, event in enumerate(lines) if event is not None]
        self._kinds = Counter(event.kind for _, event in noted)
        self._ids = {event.id for _, event in noted}
        self.first = next((event for _, event in noted if event.kind == OPENED), None)
        self._num_lines = len(lines)
        sent = _read_cursor(self._cursor)  # lines, damaged ones counted
        self._sent = [(number, event) for number, event in noted if number < sent]
        self._pending = deque((number, event) for number, event in noted if number >= sent)
        if sent > self._num_lines:  # or lines to come would count as sent
            self._keep_cursor(self._num_lines)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def count(self, kind: str) -> int:
        """How many events of a kind an earlier process had noted."""
        return self._kinds[kind]

    @property
    def sent_events(self) -> tuple[Event, ...]:
        """What the store has got, whoever sent it."""
        return tuple(event for _, event in self._sent)

    @property
    def num_pending(self) -> int:
        """Events that the store has not got yet."""
        return len(self._pending)

    def append(self, event: Event) -> bool:
        """Note an event unless one with its id is known; whether it was new."""
        line = seal(json.dumps(asdict(event), ensure_ascii=False, separators=(",", ":")), LINE_DIGITS) + "\n"
        with self._changed:
            if event.id in self._ids:
                return False
            self._ids.add(event.id)
            self._pending.append((self._num_lines, event))
            self._num_lines += 1
            self._write(line)
            self._changed.notify_all()
        return True

    def _write(self, line: str) -> None:
        # After a failure the file may end within a line: what comes next begins a new one.
        text = ("\n" if self._unwritten else "") + "".join([*self._unwritten, line])
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._unwritten.append(line)
            self._warn(error)
        else:
            self._unwritten.clear()

    def next(self, timeout: float) -> Event | None:
        """The oldest event not yet sent; waits up to `timeout` seconds for one."""
        with self._changed:
            if not self._pending:
                self._changed.wait(timeout)
            return self._pending[0][1] if self._pending else None

    def wake(self) -> None:
        """Let whoever waits in `next` look up."""
        with self._changed:
            self._changed.notify_all()

    def sent(self) -> None:
        """The oldest event has arrived."""
        with self._changed:
            number, event = self._pending.popleft()
            self._sent.append((number, event))
            self._keep_cursor(number + 1)

    def rewind(self) -> None:
        """Everything is to be sent again, because the store has lost it."""
        with self._changed:
            self._pending.extendleft(reversed(self._sent))
            self._sent = []
            self._keep_cursor(0)

    def _keep_cursor(self, lines: int) -> None:
        draft = self._cursor.with_suffix(".part")
        try:
            draft.write_text(seal(json.dumps({"sent": lines})), encoding="utf-8")
            os.replace(draft, self._cursor)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            LOG.warning("%s cannot be written (%s): tracking goes on, but is lost if it ends early", self.path, error)


def event(event_id: str, kind: str, data: Mapping[str, Any] | None = None) -> Event:
    """An event that happens now, secrets masked."""
    return Event(event_id, kind, masked(dict(data or {})))


def first_event(folder: Path) -> Event | None:
    """The event that opened the journal in a folder; None if there is no journal, or that line is damaged."""
    try:
        content = (folder / FILE_NAME).read_bytes()
    except OSError:
        return None
    events = (_parsed(line) for line in content.splitlines())
    return next((event for event in events if event is not None and event.kind == OPENED), None)


def _read(path: Path) -> list[Event | None]:
    """The events of a journal by line, None for those that are damaged.

    A line cut short by a kill is cut off, so that the next one starts anew.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    lines = [line for line in content[:whole].split(b"\n") if line]
    events = [_parsed(line) for line in lines]
    damaged = [str(number) for number, event in enumerate(events, start=1) if event is None]
    if damaged:
        LOG.warning(
            "%s is damaged in line %s, which is left out: a search that goes on tells MLflow again what it told; with "
            "--fresh it starts a new journal",
            path,
            ", ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""),
        )
    known: set[str] = set()
    for number, event in enumerate(events):
        if event is not None and event.id in known:  # written again after a full disk
            events[number] = None
        known |= {event.id} if event is not None else set()
    return events


def _parsed(line: bytes) -> Event | None:
    try:
        event = Event(**open_seal(line).value)
    except (ValueError, TypeError):
        return None
    texts = isinstance(event.id, str) and isinstance(event.kind, str)
    return event if texts and isinstance(event.data, dict) and type(event.time_ms) is int else None


def _read_cursor(path: Path) -> int:
    try:
        plain, sealed = open_seal(path.read_bytes())
        return int(plain["sent"]) if sealed else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # sending again changes nothing
