"""A folder of trajectory points, each under a hash of all that determines it: no prefix is denoised twice.

The store is a cache. Losing a file, an eviction or a full disk costs a recomputation, never a wrong image.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from keystep.core.points import Point
from keystep.core.seals import NAME, DamagedFile

SUFFIX = ".safetensors"
STALE_SECONDS = 3600
UNSEALED = "sha256-of-the-whole-file-with-this-text-where-the-digest-stands".ljust(64, "-")
_SEALED = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_SEALED_IN_PART = re.compile(rb'"checksum":"[0-9a-f]{64}"')
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def content_key(parts: Mapping[str, Any]) -> str:
    """Name of a point: the SHA-256 (64 hex digits) of `parts` as canonical JSON.

    Put in everything that determines the point: the pipeline's fingerprint (`keystep.core.fingerprint`),
    `Sampler.identity`, the prompt, the seed, and what was done so far. Key order does not matter; equal
    mappings have one name.

    Raises:
        ValueError: a value is not JSON, or not a finite number.

    Example:
        >>> content_key({"seed": 1, "model": "m"}) == content_key({"model": "m", "seed": 1})
        True
    """
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"a key is made of JSON values with finite numbers: {problem}") from problem
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class LatentStore:
    """Points of trajectories in `folder`, about `max_bytes` at most, shared by any number of processes.

    A file appears whole or not at all (written beside its place, then renamed). When the folder outgrows the
    cap, the files least recently read or written go first, down to 90 % of it; a process looks at the folder
    again once it has written a sixteenth of the cap, so n processes can overshoot by n sixteenths.
    A file is covered by a checksum from its first byte to its last: one that does not fit is removed with a warning
    (`keystep.core.seals.DamagedFile`) and counts as absent, and so are files of older versions, whose checksum covered
    less. A full disk is a warning too (once), and the work goes on without storing.

    Args:
        folder: made if it does not exist.
        max_bytes: the cap, in bytes; None for no cap.

    Raises:
        ValueError: `folder` cannot be made or written to, or the cap is not positive.
    """

    folder: Path
    max_bytes: int | None = None
    _size: int = field(default=0, init=False, repr=False)
    _written: int = field(default=0, init=False, repr=False)
    _full: bool = field(default=False, init=False, repr=False)
    _outdated: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive or None, got {self.max_bytes}")
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as problem:
            raise ValueError(
                f"the latent store cannot write to {self.folder}: {problem.strerror}; choose another folder"
            ) from problem
        self._evict()

    def path(self, key: str) -> Path:
        """Where the point named `key` lies, stored or not."""
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def get(self, key: str) -> Point | None:
        """The point named `key`, on the CPU, or None if it is not there (or was damaged)."""
        path = self.path(key)
        try:
            point = _read(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as problem:
            self._warn(f"a stored point cannot be read, it is computed again: {path} ({problem.strerror})")
            return None
        except _Outdated:
            return self._drop_outdated(path)
        except (SafetensorError, ValueError) as problem:
            return self._discard(path, problem)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return point

    def put(self, key: str, point: Point) -> None:
        """Stores `point` under `key`, in place of what was there.

        Raises:
            OSError: it cannot be written for another reason than a full disk.
        """
        tensors, metadata = point.to_tensors()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = _seal(save(tensors, metadata | {NAME: UNSEALED}))
        path = self.path(key)
        try:
            self._write(path, content)
        except OSError as problem:
            if problem.errno not in NO_ROOM:
                raise
            self._warn_full(problem)
            return
        self._size += len(content)
        self._written += len(content)
        if self.max_bytes is not None and (self._size > self.max_bytes or self._written > self.max_bytes // 16):
            self._evict()

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        temporary = path.parent / f".{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _discard(self, path: Path, problem: Exception) -> None:
        path.unlink(missing_ok=True)
        self._warn(f"removed a damaged point, it will be computed again: {path} ({problem})")

    def _drop_outdated(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if not self._outdated:
            self._outdated = True
            self._warn(f"points in {self.folder} are of an older version; those needed are computed again")

    def _warn_full(self, problem: OSError) -> None:
        if not self._full:
            self._full = True
            self._warn(f"no room to store points in {self.folder} ({problem.strerror}): going on without")

    def _warn(self, text: str) -> None:
        warnings.warn(text, DamagedFile, stacklevel=4)

    def _evict(self) -> None:
        """Counts the folder and, over the cap, removes what was least recently used."""
        files: list[tuple[float, int, Path]] = []
        oldest_temporary = time.time() - STALE_SECONDS
        for path in self.folder.glob("??/*"):
            # Another process may remove any of these at any moment.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == SUFFIX:
                    files.append((status.st_mtime, status.st_size, path))
                elif status.st_mtime < oldest_temporary:
                    path.unlink()
        self._size, self._written = sum(size for _, size, _ in files), 0
        if self.max_bytes is None or self._size <= self.max_bytes:
            return
        for _, size, path in sorted(files):
            if self._size <= 0.9 * self.max_bytes:
                return
            path.unlink(missing_ok=True)
            self._size -= size


class _Outdated(Exception):
    """Written by a version whose checksum did not cover all of a file."""


def _seal(content: bytes) -> bytes:
    """The file with its digest in place of `UNSEALED`, which stands in its header, before any tensor."""
    return content.replace(UNSEALED.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def _read(content: bytes) -> Point:
    """The point in a file. Nothing of it is looked at, but for the digest, before all of it is known to be whole."""
    found = _SEALED.search(content)
    if found is None:
        if _SEALED_IN_PART.search(content) is not None:
            raise _Outdated
        raise ValueError("it has no checksum")
    start, end = found.span(1)
    if hashlib.sha256(content[:start] + UNSEALED.encode() + content[end:]).hexdigest().encode() != found[1]:
        raise ValueError("the checksum does not match")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return Point.from_tensors(load(content), header["__metadata__"])
