"""Ray that cannot be started or reached: told in a sentence, with what to do, and nothing is left of the try."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from keystep.search.cli import build_app
from keystep.search.runtime import ray_trouble
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.runtime.ray_trouble import GENERAL, what_is_wrong, what_stops_it
from tests.search.ray_family import Running
from tests.search.test_ray_watch import small_disk
from tests.search.whole_search import spec_in


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("head", "a cluster's address is HOST:6379 or ray://HOST:10001"),
        ("10.0.0.5", "a cluster's address is HOST:6379"),
        (":6379", "a cluster's address is HOST:6379"),
        ("127.0.0.1:port", "a cluster's address is HOST:6379"),
        ("127.0.0.1:99999", "a cluster's address is HOST:6379"),
        ("http://127.0.0.1:8265", "the form of its dashboard's address; a cluster's is HOST:6379"),
        ("nowhere.invalid:6379", "Name or service not known|Temporary failure|not known"),
        ("elsewhere://cluster", "ModuleNotFoundError"),
    ],
)
def test_an_address_of_no_cluster(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=f"^no Ray cluster answers at {address} \\(.*({said}).*or RAY_ADDRESS$"):
        start_ray()
    assert not ray.is_initialized()


def test_a_port_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray by itself would ask it for a quarter of an hour. It cannot be interrupted, so the process is ended."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(16)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code = (
            "from keystep.search.runtime import ray_runtime\n"
            "ray_runtime.JOIN_SECONDS, ray_runtime.KNOCK_SECONDS = 3.0, 2.0\n"
            f"ray_runtime.start_ray('{address}')"
        )
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert f"no Ray cluster answers at {address} (nothing has come of it in 3 s): start one" in done.stderr
    assert done.returncode != 0


def test_nothing_is_wrong_here() -> None:
    assert what_stops_it() is None and what_is_wrong() == GENERAL


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    said = CliRunner().invoke(build_app(), ["search", str(spec_in(tmp_path))], env={"COLUMNS": "200"})
    assert said.exit_code == 2 and "Traceback" not in said.output
    assert f"Ray cannot start on this machine: {tmp_path}/file cannot be written to (Not a directory)" in said.stderr
    assert "name another folder in RAY_TMPDIR. Then run the same command again" in said.stderr
    assert not (tmp_path / "runs" / "searches").exists()


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        assert f"{disk} has 67.1 MB left: make room, or name another folder in RAY_TMPDIR" in what_is_wrong()
        assert what_stops_it() is None


def test_too_few_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "range").write_text("60990\t60993\n")
    monkeypatch.setattr(ray_trouble, "PORTS", tmp_path / "range")
    assert f"there are 4 ports for local use ({tmp_path}/range): allow more" in what_is_wrong()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_of_which_a_part_dies_as_it_starts(tmp_path: Path) -> None:
    """A program that ends at once in place of the raylet; Ray itself waits for it for half a minute or more."""
    shutil.copy(shutil.which("false") or "", tmp_path / "raylet")
    code = (
        "import sys\nfrom ray._private import services\n"
        f"services.RAYLET_EXECUTABLE = '{tmp_path / 'raylet'}'\n"
        "from keystep.search.cli import main\nmain()"
    )
    running = Running(["-c", code, "search", str(spec_in(tmp_path))])
    try:
        assert running.ended(200) == 2
        said = "keystep: Ray does not start on this machine (its raylet ended as it started): it needs some free ports"
        assert said in running.text and "Traceback" not in running.text
        assert running.left() == []
    finally:
        running.end()
    assert not (tmp_path / "runs" / "searches").exists()
