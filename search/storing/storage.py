"""A folder that all workers of a search see: on this machine, on a shared disk, or in an object store (s3://)."""

import errno
import os
import uuid
from pathlib import Path
from typing import Any, NoReturn

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from keystep.search.storing.secrets import masked

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
"""Filesystems of pyarrow on which a file appears when it is closed, whole, and which can only rename by copying."""


class Storage:
    """Files in a folder, by path relative to it. A file written appears whole or not at all.

    Any number of processes may use one folder, as long as no two write the same file.

    Args:
        uri: a local path (`~` is the home), or an address that `pyarrow.fs.FileSystem.from_uri` knows:
            `s3://bucket/prefix?region=...`, `gs://...`, `file:///...`.
        filesystem: what holds `uri`, which is a path within it then.
        read_only: nothing will be written, so it need not be possible.

    Raises:
        ValueError: an address of no known kind, or a folder that cannot be written to; says what to do.
    """

    def __init__(self, uri: str, filesystem: Any = None, *, read_only: bool = False):
        self.uri = uri
        self._fs, self._root = (filesystem, uri.rstrip("/")) if filesystem is not None else resolve(uri)
        if not read_only:
            self._probe()

    def write(self, name: str, content: bytes) -> None:
        """Puts a file, in place of what was there.

        Raises:
            OSError: no room, or the folder can no longer be written to; says what to do.
        """
        path = self._path(name)
        try:
            if self._fs.type_name in OBJECT_STORES:
                self._put(path, content)
            else:
                self._put_and_rename(path, content)
        except (OSError, ArrowException) as problem:
            self._refuse(problem)

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._fs.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it; nothing if it is not there."""
        path = self._path(name)
        kind = self._fs.get_file_info(path).type
        if kind == FileType.Directory:
            self._fs.delete_dir(path)
        elif kind == FileType.File:
            self._fs.delete_file(path)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted; none if there is no such folder.

        Raises:
            OSError: the storage does not answer.
        """
        return self._names(folder, FileType.Directory)

    def _names(self, folder: str, kind: Any) -> list[str]:
        entries = self._fs.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        names = [entry.base_name for entry in entries if entry.type == kind]
        return sorted(name for name in names if not name.startswith("."))

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none if there is no such folder.

        Raises:
            OSError: the storage does not answer.
        """
        return self._names(folder, FileType.File)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if self._root else name

    def _put(self, path: str, content: bytes) -> None:
        with self._fs.open_output_stream(path) as stream:
            stream.write(content)

    def _put_and_rename(self, path: str, content: bytes) -> None:
        parent, _, name = path.rpartition("/")
        draft = f"{parent}/.{name}-{uuid.uuid4().hex}" if parent else f".{name}-{uuid.uuid4().hex}"
        try:
            try:
                self._put(draft, content)
            except FileNotFoundError:
                self._fs.create_dir(parent, recursive=True)
                self._put(draft, content)
            self._fs.move(draft, path)
        except BaseException:
            if self._fs.get_file_info(draft).type == FileType.File:
                self._fs.delete_file(draft)
            raise

    def _probe(self) -> None:
        """Finds out now rather than after the first hour whether files can be written."""
        probe = self._path(f".probe-{uuid.uuid4().hex}")
        try:
            if self._fs.type_name not in OBJECT_STORES:
                self._fs.create_dir(self._root, recursive=True)
            self._put(probe, b"")
            self._fs.delete_file(probe)
        except (OSError, ArrowException) as problem:
            if getattr(problem, "errno", None) in NO_ROOM:
                self._refuse(problem)
            raise ValueError(
                f"storage.path: cannot write to {masked(self.uri)} ({_reason(problem)}); name a folder that can be "
                "written to, or an object store that this machine may use"
            ) from problem

    def _refuse(self, problem: Exception) -> NoReturn:
        code = getattr(problem, "errno", None)
        if code in NO_ROOM:
            raise OSError(
                code,
                f"no room left in {masked(self.uri)} ({_reason(problem)}); free some, or name another storage.path, "
                "and run the same command again: what is stored is not computed again",
            ) from problem
        raise OSError(
            code or errno.EIO,
            f"cannot write to {masked(self.uri)} any more ({_reason(problem)}); make it writable and run the same "
            "command again: what is stored is not computed again",
        ) from problem


def local_folder(uri: str) -> Path | None:
    """The folder that a storage path names on this machine or a disk that it has mounted; None for an object store."""
    if "://" not in uri:
        return Path(uri).expanduser().absolute()
    if uri.startswith("file://"):
        return Path(FileSystem.from_uri(uri)[1])
    return None


def cache_folder() -> Path:
    """This machine's own folder, for what is kept here of a storage that is no folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keystep"


def resolve(uri: str) -> tuple[Any, str]:
    """The file system that a storage path names, and the folder in it. Errors as `Storage`'s."""
    folder = local_folder(uri)
    if folder is not None:
        return LocalFileSystem(), str(folder)
    try:
        filesystem, root = FileSystem.from_uri(uri)
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"storage.path: {masked(uri)} cannot be used ({masked(str(problem))}); it must be a folder, or an address "
            "such as s3://bucket/prefix"
        ) from problem
    return filesystem, root.rstrip("/")


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem).splitlines()[0]
