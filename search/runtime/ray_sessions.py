"""Ray's session folders: those of Ray runtimes that keystep started are removed when they are over.

Ray leaves one in its folder of temporary files, a third of a megabyte, with every start. A marker in it that is locked
as long as its process lives tells those that are ours and over, also of processes that were killed.
"""

import atexit
import fcntl
import logging
import os
import shutil
from pathlib import Path

import ray

LOG = logging.getLogger(__name__)
MARKER = "keystep.lock"
_ours: dict[Path, int] = {}


def own_session(folder: str | os.PathLike[str]) -> None:
    """Takes charge of the session of a runtime that this process has just started, and removes those that are over.

    Args:
        folder: the session's, as `ray.init` returns it.
    """
    path = Path(folder)
    remove_stale_sessions(path.parent)
    try:
        marker = os.open(path / MARKER, os.O_WRONLY | os.O_CREAT, 0o600)  # open, and locked, until the process ends
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        LOG.debug("%s is left as it is: %s", path, problem)
        return
    if not _ours:
        atexit.register(_end, os.getpid())
    _ours[path] = marker


def remove_stale_sessions(folder: Path) -> list[Path]:
    """Removes the sessions in Ray's folder that keystep started and whose process is gone; returns them."""
    removed = []
    for marker in folder.glob(f"session_*/{MARKER}"):
        if not marker.parent.is_symlink() and marker.parent not in _ours and _is_over(marker):
            _remove(marker.parent)
            removed.append(marker.parent)
    return removed


def _is_over(marker: Path) -> bool:
    try:
        with open(marker, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked, or another user's
        return False
    return True


def _end(process: int) -> None:
    """At the end of the process: end the runtime, then remove the folders. Forks of the process leave both alone."""
    if os.getpid() != process:
        return
    ray.shutdown()
    while _ours:
        path, marker = _ours.popitem()
        _remove(path)
        os.close(marker)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    latest = path.parent / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)
