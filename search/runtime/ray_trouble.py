"""Why Ray may not start on this machine, which it does not say itself."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LEAST_FREE = 100 * 10**6  # bytes: logs and sockets
LEAST_PORTS = 100  # a node and its workers take tens
LEAST_FILES = 256
ANOTHER_FOLDER = "make room, or name another folder in RAY_TMPDIR"
PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

GENERAL = (
    "it needs some free ports on 127.0.0.1, shared memory in /dev/shm, and room in its folder for temporary files "
    "(RAY_TMPDIR names another)"
)


def what_stops_it() -> str | None:
    """What lets no Ray start here, and what to do about it; None is nothing of which that is certain."""
    return _together(_folder, _loopback) or None


def what_is_wrong() -> str:
    """What may have kept Ray from starting, and what to do about it; what it needs in general if nothing is seen."""
    return _together(_folder, _room, _shared_memory, _loopback, _ports, _files) or GENERAL


def _together(*looks: Callable[[], str | None]) -> str:
    return "; ".join(trouble for look in looks if (trouble := look()) is not None)


def _place() -> Path:
    """The folder for Ray's temporary files, or the nearest above it that is there."""
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray")
    return next(place for place in (folder, *folder.parents) if place.exists())


def _folder() -> str | None:
    try:
        with tempfile.NamedTemporaryFile(dir=_place()):
            return None
    except OSError as problem:
        return f"{_place()} cannot be written to ({problem.strerror}): {ANOTHER_FOLDER}"


def _room() -> str | None:
    free = shutil.disk_usage(_place()).free
    return None if free >= LEAST_FREE else f"{_place()} has {free / 1e6:.1f} MB left: {ANOTHER_FOLDER}"


def _shared_memory() -> str | None:
    memory = Path("/dev/shm")
    if sys.platform != "linux":
        return None
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return "/dev/shm is missing or cannot be written to: mount it (docker run --shm-size=2g)"
    size = shutil.disk_usage(memory).total
    return (
        None if size >= LEAST_FREE else f"/dev/shm has {size / 1e6:.1f} MB: make it larger (docker run --shm-size=2g)"
    )


def _loopback() -> str | None:
    try:
        with socket.socket() as first, socket.socket() as other:
            first.bind(("127.0.0.1", 0))
            first.listen(1)
            other.settimeout(2.0)
            other.connect(first.getsockname())
    except OSError as problem:
        return f"127.0.0.1 cannot be used ({problem.strerror or problem}): bring the loopback interface up, free ports"
    return None


def _ports() -> str | None:
    if not PORTS.exists():
        return None
    low, high = map(int, PORTS.read_text().split())
    if high - low + 1 < LEAST_PORTS:
        return f"there are {high - low + 1} ports for local use ({PORTS}): allow more"
    return None


def _files() -> str | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit >= LEAST_FILES else f"a process may open {limit} files (ulimit -n): allow {LEAST_FILES}"
