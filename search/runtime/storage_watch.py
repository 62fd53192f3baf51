"""Notices that a search's folder can no longer be written to, before retries have tried that for minutes."""

import errno
import threading

from keystep.search.runtime.alarm import Alarm
from keystep.search.storing.storage import Storage, local_folder

LOOK_SECONDS = 5.0
ENOUGH = 2  # refusals in a row
PROBE = ".writable"
LASTING = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR})
"""What does not go away by itself. All else, a full disk and a lost network included, trials meet and report."""


class StorageWatch(threading.Thread):
    """Writes a small file into a folder every few seconds, and rings when that is refused again.

    Of an object store nothing is asked: every request there costs, and retries are its own.

    Args:
        alarm: what is rung, with an OSError that says where and what to do.
        path: `storage.path` of the spec.
        folder: within it, where the file is written, once it is there.
    """

    def __init__(self, alarm: Alarm, path: str, folder: str):
        super().__init__(name="storage watch", daemon=True)
        self._alarm, self._path, self._folder = alarm, path, folder
        self._over = threading.Event()

    def run(self) -> None:
        root = local_folder(self._path)
        if root is None:
            return
        storage, refused, seen = Storage(self._path, read_only=True), 0, False
        while not self._over.wait(LOOK_SECONDS):
            seen = seen or (root / self._folder).is_dir()
            if not seen:  # nothing is made before the search itself makes something
                continue
            problem = self._try(storage)
            refused = 0 if problem is None else refused + 1
            if problem is not None and refused == ENOUGH:
                self._alarm.ring(problem)
                return

    def _try(self, storage: Storage) -> OSError | None:
        name = f"{self._folder}/{PROBE}"
        try:
            storage.write(name, b"")
            storage.remove(name)
        except OSError as problem:
            if problem.errno in LASTING:
                return OSError(problem.strerror)
        return None

    def stop(self) -> None:
        """End it; no file is left."""
        self._over.set()
        self.join(LOOK_SECONDS)
