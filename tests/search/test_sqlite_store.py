"""MLflow's database in a file, made by processes that are killed meanwhile."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from keystep.search.tracking.mlflow_store import MlflowStore
from keystep.search.tracking.sqlite_store import make_ready

PATIENCE = 240
MAKE = {
    "MLflow": "from mlflow import MlflowClient; MlflowClient(tracking_uri={uri!r}).search_experiments()",
    "keystep": "from keystep.search.tracking.sqlite_store import make_ready; make_ready({uri!r})",
}


def tables(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]


def killed_when(maker: str, file: Path, number: int) -> None:
    """Has the database made by a process that is killed when it has so many tables, wherever it makes them."""
    script = MAKE[maker].format(uri=f"sqlite:///{file}")
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, cwd=Path.cwd())
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        for found in [*file.parent.glob("*.db"), *file.parent.glob(".mlflow.db.making-*[0-9a-f]")]:
            with contextlib.suppress(sqlite3.Error):
                if tables(found) >= number:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    return
    raise AssertionError("it was made before it was killed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database that nobody disturbed, with an experiment in it."""
    file = tmp_path_factory.mktemp("whole") / "mlflow.db"
    file.touch()
    make_ready(f"sqlite:///{file}")
    assert tables(file) > 30
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]
    MlflowClient(tracking_uri=f"sqlite:///{file}").create_experiment("mine")
    return file.read_bytes()


@pytest.mark.parametrize(
    ("maker", "number"),
    [
        ("MLflow", 12),
        ("keystep", 12),
        *(pytest.param("MLflow", number, marks=pytest.mark.slow) for number in (3, 20, 30, 40)),
        *(pytest.param("keystep", number, marks=pytest.mark.slow) for number in (3, 30)),
    ],
)
def test_a_database_whose_making_was_killed_is_made_again(tmp_path: Path, maker: str, number: int, caplog) -> None:
    file = tmp_path / "mlflow.db"
    killed_when(maker, file, number)
    assert file.exists() == (maker == "MLflow"), "keystep makes it aside"
    store = MlflowStore(f"sqlite:///{file}", "an experiment", str(tmp_path / "artifacts"))
    assert ("only half made" in caplog.text) == (maker == "MLflow")
    store.open_parent("0123", "attempt", False, "a search", 0)
    assert len(MlflowClient(tracking_uri=f"sqlite:///{file}").search_runs([store.experiment_id])) == 1


def test_what_holds_something_is_never_made_again(tmp_path: Path, whole: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ff01da956556'")  # an older version's tables
        database.commit()
    before = file.read_bytes()
    make_ready(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_what_is_whole_and_holds_nothing_is_left_as_it_is(tmp_path: Path, whole: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("DELETE FROM experiments WHERE experiment_id != 0")
        database.commit()
    before = file.read_bytes()
    make_ready(f"sqlite:///{file}")
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda content: b"x" * 5000, lambda content: content[:5000]])
def test_a_damaged_database_is_named(tmp_path: Path, whole: bytes, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(damage(whole))
    with pytest.raises(OSError, match=f"{file} is damaged .*move it away"):
        make_ready(f"sqlite:///{file}")
