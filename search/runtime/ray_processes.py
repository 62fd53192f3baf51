"""The processes of a Ray that was started here: which there are, which of them died, and how to be rid of them."""

from collections.abc import Iterable
from contextlib import suppress

import psutil

VITAL = {"raylet": "raylet", "gcs_server": "GCS"}
"""Names of processes without which a Ray does nothing, and what they are called."""

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
END_SECONDS = 5.0


def children() -> set[psutil.Process]:
    """Processes that this one has started, those included that ended unheeded."""
    return set(psutil.Process().children())


class RayProcesses:
    """The processes of one Ray.

    Args:
        started: those that this process started for it. Their children, which hold the workers, are found by `look`.
    """

    def __init__(self, started: Iterable[psutil.Process]):
        self._started: dict[psutil.Process, str] = {}
        self._seen: set[psutil.Process] = set()
        self.add(started)

    def add(self, started: Iterable[psutil.Process]) -> None:
        """Take in more of those that this process has started for it."""
        for process in started:
            name = _name(process)
            if name or process not in self._started:
                self._started[process] = name
            self._seen.add(process)

    def look(self) -> str | None:
        """What of VITAL has died, by its name there; None if all live. To be called every few seconds."""
        for process, name in self._started.items():
            if name in VITAL and not _lives(process):
                return VITAL[name]
        for process in self._started:
            with suppress(*_GONE):
                self._seen.update(process.children(recursive=True))
        self._seen = {process for process in self._seen if process in self._started or _lives(process)}
        return None

    def end(self, *, spare: frozenset[str] = frozenset()) -> None:
        """Kill all that were seen, except those called by a name in `spare`; returns when they are gone.

        A raylet that died leaves its workers to others, so they are known only from before.
        """
        left = [process for process in self._seen if _lives(process) and self._started.get(process) not in spare]
        for process in left:
            with suppress(*_GONE):
                process.kill()
        psutil.wait_procs([process for process in left if process not in self._started], timeout=END_SECONDS)

    @property
    def alive(self) -> list[psutil.Process]:
        """Those that live, of all that were seen."""
        return [process for process in self._seen if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except _GONE:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except _GONE:
        return ""
