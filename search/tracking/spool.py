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

from search.secrets import masked

LOG = logging.getLogger(__name__)


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

    Appending never raises: on a full disk the event is kept in memory and a warning is logged once.

    Attributes:
        first: the first event of an earlier process; None if there was none.
        replayed: what an earlier process noted and sent.

    Args:
        folder: local; made if it is missing.
        target: short name of the store that events are sent to; another store gets everything from the
            beginning.
        fresh: forget what an earlier search left here.
    """

    def __init__(self, folder: Path, target: str, fresh: bool = False):
        self.path = folder / "spool.jsonl"
        self._cursor = folder / f"sent-{target}.json"
        self._changed = threading.Condition()
        self._warned = False
        events: list[Event] = []
        try:
            if fresh:
                for old in (self.path, *folder.glob("sent-*.json")):
                    old.unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            events = _read(self.path)
        except OSError as error:
            self._warn(error)
        self._kinds = Counter(event.kind for event in events)
        self._ids = {event.id for event in events}
        self.first = events[0] if events else None
        self._num_sent = min(_read_cursor(self._cursor), len(events))
        self.replayed = tuple(events[: self._num_sent])
        self._pending = deque(events[self._num_sent :])

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def count(self, kind: str) -> int:
        """How many events of a kind an earlier process had noted."""
        return self._kinds[kind]

    @property
    def num_pending(self) -> int:
        """Events that the store has not got yet."""
        return len(self._pending)

    def append(self, event: Event) -> bool:
        """Note an event unless one with its id is known; whether it was new."""
        line = json.dumps(asdict(event), ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._changed:
            if event.id in self._ids:
                return False
            self._ids.add(event.id)
            self._pending.append(event)
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                self._warn(error)
            self._changed.notify_all()
        return True

    def next(self, timeout: float) -> Event | None:
        """The oldest event not yet sent; waits up to `timeout` seconds for one."""
        with self._changed:
            if not self._pending:
                self._changed.wait(timeout)
            return self._pending[0] if self._pending else None

    def wake(self) -> None:
        """Let whoever waits in `next` look up."""
        with self._changed:
            self._changed.notify_all()

    def sent(self) -> None:
        """The oldest event has arrived."""
        with self._changed:
            self._pending.popleft()
            self._num_sent += 1
        draft = self._cursor.with_suffix(".part")
        try:
            draft.write_text(json.dumps({"sent": self._num_sent}), encoding="utf-8")
            os.replace(draft, self._cursor)
        except OSError as error:
            self._warn(error)

    def rewind(self) -> tuple[Event, ...]:
        """Everything is to be sent again, because the store has lost it; returns what had been sent."""
        with self._changed:
            self._pending.extendleft(reversed(self.replayed))
            again, self.replayed, self._num_sent = self.replayed, (), 0
        return again

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            LOG.warning("%s cannot be written (%s): tracking goes on, but is lost if it ends early", self.path, error)


def event(event_id: str, kind: str, data: Mapping[str, Any] | None = None) -> Event:
    """An event that happens now, secrets masked."""
    return Event(event_id, kind, masked(dict(data or {})))


def _read(path: Path) -> list[Event]:
    """The events of a journal. A line cut short by a kill is cut off, so that the next one starts anew."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    events = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            LOG.warning("line %d of %s is damaged and left out", number, path)
    return events


def _read_cursor(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["sent"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # sending again changes nothing
