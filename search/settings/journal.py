"""The log of a search's Optuna study: appended whole, readable after any kill, and of one writer at a time."""

import fcntl
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from keystep.search.settings.journal_logs import check_lines, check_logs, refuse, sealed, understood
from keystep.search.storing.places import folder_on_disk, path_within
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage

LOG = "study.log"
STUDY = "study"  # the folder of the log in an object store, where nothing can be appended to
LOCK = "search.lock"
DRIVER_LOCK = "driver.lock"


class _Batches(ABC):
    """Collects what is appended inside `with journal.batch():` into one append, so that it is all there or none."""

    _held: list[dict[str, Any]] | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """While open, nothing appended is read back; it is written when the block ends, unless with an error."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
            held = self._held
        finally:
            self._held = None
        if held:
            self._append(held)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is None:
            self._append(logs)
        else:
            self._held.extend(logs)

    @abstractmethod
    def _append(self, logs: list[dict[str, Any]]) -> None:
        """Put the logs at the end, all or none."""


class FileJournal(_Batches, JournalFileBackend):
    """A study's log in one file of a local or shared folder.

    The process that opens it must be the only one that writes (see `open_journal`): a line cut off by a
    kill and the lock of Optuna's that it left behind are cleared away.

    Raises:
        ValueError: the log is damaged; says what to do.
    """

    def __init__(self, path: Path):
        if path.exists():
            _drop_cut_line(path)
            check_lines(path.read_bytes(), str(path))
        for stale in path.parent.glob(f"{path.name}.lock*"):
            stale.unlink(missing_ok=True)
        super().__init__(str(path))
        self._path = path
        self._at = 0, 0  # logs and bytes read so far: Optuna's would keep where each of them begins

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Those from that number on. The file is opened only if it has grown since."""
        number, offset = self._at if self._at[0] <= log_number_from else (0, 0)
        if os.stat(self._path).st_size == offset:
            return
        with open(self._path, "rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # cut off: no room was left
                    return
                number, offset = number + 1, offset + len(line)
                self._at = number, offset
                if number > log_number_from:
                    yield json.loads(line, object_pairs_hook=_interned)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        JournalFileBackend.append_logs(self, [sealed(log) for log in logs])


class ObjectJournal(_Batches, BaseJournalBackend):
    """A study's log in an object store, which cannot append: every append is an object of its own, numbered.

    Raises:
        ValueError: an object is damaged or missing; says what to do.
    """

    def __init__(self, storage: Storage, folder: str):
        self._storage, self._folder = storage, folder
        self._logs: list[dict[str, Any]] = []
        names = storage.list(folder)
        for number, name in enumerate(names):
            place = f"{masked(storage.uri)}/{folder}/{name}"
            if name != _object_name(number):
                refuse(place, f"{_object_name(number)} is missing")
            self._logs += _parsed(storage.read(f"{folder}/{name}"), place)
        check_logs(self._logs, f"{masked(storage.uri)}/{folder}")
        self._num_objects = len(names)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self._logs[log_number_from:]

    def _append(self, logs: list[dict[str, Any]]) -> None:
        content = json.dumps([sealed(log) for log in logs])
        self._storage.write(f"{self._folder}/{_object_name(self._num_objects)}", content.encode())
        self._num_objects += 1
        self._logs += json.loads(content)


def _interned(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keys that are the same everywhere are there once."""
    return {sys.intern(key): value for key, value in pairs}


def _object_name(number: int) -> str:
    return f"{number:08}.json"


def _parsed(content: bytes, place: str) -> list[dict[str, Any]]:
    try:
        logs = json.loads(content)
    except ValueError as problem:
        refuse(place, str(problem))
    if not isinstance(logs, list):
        refuse(place, "it is no list")
    return logs


Journal = FileJournal | ObjectJournal


@contextmanager
def open_journal(path: str, search_id: str) -> Iterator[tuple[JournalStorage, Journal]]:
    """The log of a search for writing, and Optuna's storage over it.

    Args:
        path: `storage.path` of the spec; the log is in the search's folder there.

    Raises:
        ValueError: another process writes it, the folder cannot be written, or the log is damaged; says what to do.
    """
    with _sole_writer(path, search_id) as place:
        if place is None:
            journal: Journal = ObjectJournal(Storage(path), f"{path_within(search_id)}/{STUDY}")
            said = f"the study in {masked(path)}"
        else:
            journal = FileJournal(place / LOG)
            said = str(place / LOG)
        with understood(said):
            storage = JournalStorage(journal)
        yield storage, journal


@contextmanager
def _sole_writer(path: str, search_id: str) -> Iterator[Path | None]:
    """The search's folder, whose log no one else writes meanwhile; None in an object store, which has no locks."""
    Storage(path)  # which says what is wrong with the place
    place = folder_on_disk(path, search_id)
    if place is None:
        yield None
        return
    place.mkdir(parents=True, exist_ok=True)
    with open(place / LOCK, "a+", encoding="utf-8", errors="replace") as lock:
        _lock(lock, place)
        yield place


@contextmanager
def sole_driver(path: str, search_id: str) -> Iterator[None]:
    """While open, no other process of this machine or shared folder drives the search, in whatever stage.

    In an object store, which has no locks, nothing keeps another one away.

    Raises:
        ValueError: another one drives it, or the folder cannot be written; says what to do.
    """
    place = folder_on_disk(path, search_id)
    if place is None:
        yield
        return
    place.mkdir(parents=True, exist_ok=True)
    with open(place / DRIVER_LOCK, "a+", encoding="utf-8", errors="replace") as lock:
        _lock(lock, place)
        yield


def forget(path: str, search_id: str) -> None:
    """Removes the log of a search, damaged or not, so that it starts over. Errors as `sole_driver`'s."""
    with _sole_writer(path, search_id) as place:
        Storage(path).remove(f"{path_within(search_id)}/{STUDY if place is None else LOG}")


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ValueError(
            f"this search is already running as process {file.read().strip() or 'unknown'} (it has {folder}): wait "
            "for it, or stop it and run the same command again"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def _drop_cut_line(path: Path) -> None:
    with open(path, "r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
