"""What Ray keeps on a shared machine is its owner's alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keystep.search.runtime.ray_privacy import keep_token_private


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and nothing said to Ray."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_for_its_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600 and mode(token.parent) == 0o700
    content = token.read_text()
    assert len(content) == 64 and int(content, 16) > 0 and list(token.parent.iterdir()) == [token]
    keep_token_private()
    assert token.read_text() == content


def test_a_token_that_others_can_read_is_closed(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    keep_token_private()
    assert mode(token) == 0o600 and token.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "abc"), ("RAY_AUTH_TOKEN_PATH", "/x/token")]
)
def test_none_is_made_where_ray_would_make_none(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not (home / ".ray").exists()


STARTED = """
import pathlib, ray
from keystep.search.runtime.ray_runtime import start_ray
start_ray()
session = pathlib.Path(ray._private.worker._global_node.get_session_dir_path())
print(oct(session.stat().st_mode), oct((pathlib.Path.home() / ".ray/auth_token").stat().st_mode))
"""


@pytest.mark.slow
def test_a_ray_that_was_started_leaves_nothing_open(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["0o40700", "0o100600"], done.stderr
