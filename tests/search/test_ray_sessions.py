"""Ray's session folders of our runtimes go with them; others' stay."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keystep.search.runtime.ray_sessions import MARKER, remove_stale_sessions

SCRIPT = """
import os, signal, sys
from keystep.search.runtime.ray_runtime import start_ray
start_ray()
import ray
assert ray.is_initialized()
print(os.environ["RAY_TMPDIR"], flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets have short paths: 107 bytes, of which Ray's own part takes most."""
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        yield Path(folder)


def sessions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("session_*") if path.is_dir() and not path.is_symlink())


def start(folder: Path, how: str) -> int:
    environment = {**os.environ, "RAY_TMPDIR": str(folder)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run([sys.executable, "-c", SCRIPT, how], env=environment, cwd=Path.cwd(), check=False).returncode


@pytest.mark.slow
def test_a_session_goes_with_its_process_and_those_of_killed_ones_with_the_next(short_folder: Path) -> None:
    theirs = short_folder / "ray" / "session_2026-01-01_00-00-00_000000_1"
    theirs.mkdir(parents=True)
    assert start(short_folder, "killed") == -signal.SIGKILL
    assert len(sessions(short_folder)) == 2
    assert start(short_folder, "ends") == 0
    assert sessions(short_folder) == [theirs.name]


def test_one_in_use_stays(tmp_path: Path) -> None:
    used, over, other = (tmp_path / f"session_{name}" for name in ("used", "over", "other"))
    for folder in (used, over, other):
        folder.mkdir()
    for folder in (used, over):
        (folder / MARKER).touch()
    (tmp_path / "session_latest").symlink_to(over)
    with open(used / MARKER) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_stale_sessions(tmp_path) == [over]
        assert used.exists() and other.exists() and not os.path.lexists(tmp_path / "session_latest")
    assert remove_stale_sessions(tmp_path) == [used]
