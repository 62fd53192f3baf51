"""A search whose Ray dies, or whose storage turns read-only: told within half a minute, gone on with afterwards."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from keystep.search.runtime.alarm import Alarm
from keystep.search.runtime.failures import RayDied
from keystep.search.runtime.ray_processes import RayProcesses
from keystep.search.runtime.storage_watch import StorageWatch
from tests.search.ray_family import Running
from tests.search.whole_search import found_in, result_in, spec_in

LIMIT = 30.0  # seconds from a death to the word of it


def test_an_alarm_ends_what_the_main_thread_waits_for() -> None:
    handler = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(RayDied, match=r"^the raylet is gone$"), Alarm() as alarm:
        threading.Timer(0.2, alarm.ring, [RayDied("the raylet is gone")]).start()
        threading.Timer(0.3, alarm.ring, [RayDied("and more")]).start()
        threading.Event().wait(60)
    with Alarm():
        pass
    signal.signal(signal.SIGUSR2, handler)


def test_an_alarm_that_nobody_rings_leaves_all_as_it_was() -> None:
    handler = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(ZeroDivisionError), Alarm():
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), Alarm():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGUSR2) is handler


def test_an_inner_alarm_lets_an_outer_one_through() -> None:
    with pytest.raises(RayDied, match="outer"), Alarm() as outer, Alarm():
        threading.Timer(0.2, outer.ring, [RayDied("outer")]).start()
        threading.Event().wait(60)


def test_what_the_main_thread_ends_with_may_have_that_cause() -> None:
    with pytest.raises(RayDied, match="the raylet") as told, Alarm() as alarm:
        try:
            raise ConnectionError("no answer")
        finally:
            alarm.ring(RayDied("the raylet"))
    assert isinstance(told.value.__cause__, ConnectionError)


def test_a_main_thread_that_does_not_leave_is_ended() -> None:
    code = (
        "import threading\nfrom keystep.search.runtime.alarm import Alarm\n"
        "with Alarm(grace=1.0) as alarm:\n"
        "    threading.Timer(0.1, alarm.ring, [OSError('no more disk')]).start()\n"
        "    while True:\n"
        "        try:\n"
        "            threading.Event().wait(60)\n"
        "        except KeyboardInterrupt:\n"
        "            pass\n"
    )
    running = Running(["-c", code])
    assert running.ended(60) == 2 and "keystep: no more disk" in running.text


def test_processes_know_which_of_them_died_and_leave_none() -> None:
    """A process called raylet, whose child outlives it."""
    started = [psutil.Process(subprocess.Popen(["sh", "-c", "sleep 600 & wait"]).pid) for _ in range(2)]
    processes = RayProcesses(started)
    processes._started[started[0]] = "raylet"
    until = time.monotonic() + 20
    while len(family := [child for each in started for child in each.children()]) < 2:
        assert time.monotonic() < until
    assert processes.look() is None and len(processes.alive) == 4
    started[0].kill()
    started[0].wait()
    assert processes.look() == "raylet"
    assert family[0].is_running()
    processes.end()
    assert processes.alive == [] and [each.is_running() for each in family] == [False, False]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own in the folder."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def read_only(folder: Path, yes: bool = True) -> None:
    subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", folder], check=True)


def test_storage_that_turns_read_only_rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keystep.search.runtime.storage_watch.LOOK_SECONDS", 0.1)
    with small_disk(tmp_path / "disk") as disk, pytest.raises(OSError) as told, Alarm() as alarm:
        (disk / "runs" / "searches" / "one").mkdir(parents=True)
        watch = StorageWatch(alarm, str(disk / "runs"), "searches/one")
        watch.start()
        time.sleep(0.5)
        assert alarm.problem is None
        read_only(disk)
        time.sleep(60)
    assert f"cannot write to {disk}/runs any more (" in str(told.value)
    assert "Read-only file system); make it writable and run the same command again" in str(told.value)


def test_storage_is_asked_for_nothing_before_the_search_has_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("keystep.search.runtime.storage_watch.LOOK_SECONDS", 0.05)
    alarm = Alarm()
    watch = StorageWatch(alarm, str(tmp_path / "runs"), "searches/one")
    watch.start()
    time.sleep(0.3)
    watch.stop()
    assert not list(tmp_path.iterdir()) and alarm.problem is None


def start_search(folder: Path, seconds: float) -> Running:
    return Running(["-m", "tests.search.soak_search", str(spec_in(folder))], KEYSTEP_SOAK_SECONDS=str(seconds))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_search_whose_ray_dies_says_so_and_goes_on(victim: str, searched, tmp_path: Path) -> None:
    running = start_search(tmp_path, 3.0)
    try:
        assert running.wait_for(lambda: "] trials " in running.text)
        assert running.kill(victim)
        died = time.monotonic()
        assert running.wait_for(lambda: "has died on this machine" in running.text, LIMIT)
        assert time.monotonic() - died < LIMIT
        assert running.ended(60) == 2
        name = {"raylet": "Ray's raylet", "gcs_server": "Ray's GCS"}[victim]
        assert f"keystep: {name} has died on this machine" in running.text
        assert "the same command goes on from there" in running.text and "Traceback" not in running.text
        assert running.left() == []
        assert result_in(tmp_path).status == "interrupted"
    finally:
        running.end()
    again = start_search(tmp_path, 0.0)
    assert again.ended(900) == 0, again.text
    expected, found = found_in(searched[0]), found_in(tmp_path)
    for name in ("chosen", "held_out"):
        assert found[name] == expected[name]


def frozen(folder: Path, yes: bool) -> bool:
    """Let nothing in the folder be changed, by anyone; a file system in use cannot be mounted otherwise."""
    return subprocess.run(["chattr", "-R", "+i" if yes else "-i", folder]).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_whose_storage_turns_read_only_says_so_and_goes_on(searched, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    running = start_search(tmp_path, 3.0)
    try:
        assert running.wait_for(lambda: "] trials " in running.text)
        if os.geteuid() != 0 or not frozen(runs, True):
            pytest.skip("needs the right to freeze files")
        since = time.monotonic()
        assert running.wait_for(lambda: "keystep: " in running.text, LIMIT)
        assert time.monotonic() - since < LIMIT
        assert running.ended(60) == 2
        assert f"cannot write to {runs} any more (" in running.text and "Operation not permitted" in running.text
        assert "Traceback" not in running.text and running.left() == []
    finally:
        frozen(runs, False)
        running.end()
    again = start_search(tmp_path, 0.0)
    assert again.ended(900) == 0, again.text
    assert found_in(tmp_path)["chosen"] == found_in(searched[0])["chosen"]
