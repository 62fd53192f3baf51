"""MLflow's database in a file: there whole or not at all, whenever a process is killed while it is made.

MLflow makes its tables one after the other, in minutes on a busy machine. One that was killed meanwhile leaves a file
that MLflow refuses ever after.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keystep.search.tracking.tracking_uri import sqlite_file

LOG = logging.getLogger(__name__)
STALE_SECONDS = 3600
DRAFT = ".making-"
HOLDS = {"runs": "1", "registered_models": "1", "trace_info": "1", "experiments": "experiment_id != 0"}
"""What must not be lost: tables, and which of their rows."""


def make_ready(uri: str) -> None:
    """Makes the database of an address of SQLite if there is none, and makes a half-made one again.

    It is made beside its place and then put there. A half-made one is replaced only if it holds no runs, no
    experiments and no models. Addresses of servers are left alone.

    Raises:
        OSError: it is no database, or cannot be made; says what to do.
    """
    file = sqlite_file(uri)
    if file is None or _whole(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.parent):
        _clear_drafts(file)
        if _whole(file):  # another process has made it meanwhile
            return
        draft = file.with_name(f".{file.name}{DRAFT}{uuid.uuid4().hex}")
        try:
            _make(draft)
            if file.exists():
                if file.stat().st_size:
                    LOG.warning("%s was only half made, and held nothing: it is made again", file)
                for left in (file, *_beside(file)):
                    left.unlink(missing_ok=True)
            _put(draft, file)
        finally:
            for left in (draft, *_beside(draft)):
                left.unlink(missing_ok=True)


def _whole(file: Path) -> bool:
    """Whether MLflow can use the file, or must: it holds something."""
    if not file.exists() or not file.stat().st_size:
        return False
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        ) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, rows in HOLDS.items():
                if table in tables and database.execute(f"SELECT 1 FROM {table} WHERE {rows} LIMIT 1").fetchone():
                    return True
            versions = (
                database.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
            )
            found = {version for (version,) in versions}
    except sqlite3.OperationalError as problem:
        if "malformed" not in str(problem):
            LOG.debug("%s cannot be looked at: %s", file, problem)
            return True  # busy, or not to be read: MLflow will say so
        _refuse(file, problem)
    except sqlite3.DatabaseError as problem:
        _refuse(file, problem)
    known, head = _revisions()
    return found == {head} or not found <= known


def _refuse(file: Path, problem: Exception) -> None:
    raise OSError(
        f"{file} is damaged ({problem}): move it away, and run the same command again; it makes a new one and sends "
        "all that the search has told"
    ) from problem


def _revisions() -> tuple[set[str], str | None]:
    """The states of the tables that this MLflow knows, and the last of them."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(str(mlflow.__file__)).parent / "store" / "db_migrations"))
    return {script.revision for script in scripts.walk_revisions()}, scripts.get_current_head()


def _make(draft: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{draft.absolute()}").search_experiments(max_results=1)


def _put(draft: Path, file: Path) -> None:
    """Gives the draft its name, unless there is a file of that name now."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    except OSError:  # a filesystem without links
        os.replace(draft, file)


def _beside(file: Path) -> list[Path]:
    """What SQLite keeps beside a database."""
    return [file.with_name(f"{file.name}{end}") for end in ("-journal", "-wal", "-shm")]


def _clear_drafts(file: Path) -> None:
    """Removes what killed processes have left."""
    for left in file.parent.glob(f".{file.name}{DRAFT}*"):
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - STALE_SECONDS:
                left.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While open, no other keystep makes a database in the folder, as far as its filesystem has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
