"""A command that runs as a process of its own, and all that it has started: to be hit, and to be gone at the end."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


class Running:
    """A command that runs; what it says and what it has started are noted while it does.

    Args:
        command: arguments of Python.
        environment: beside this process's own.
    """

    def __init__(self, command: Sequence[str], **environment: str):
        self.said: list[str] = []
        self.began = time.monotonic()
        self._family: dict[psutil.Process, str] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            cwd=ROOT,
            env=os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._looker = threading.Thread(target=self._look, daemon=True)
        self._reader.start()
        self._looker.start()

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def wait_for(self, condition: Callable[[], bool], timeout: float = 600.0) -> bool:
        """Whether the condition came to hold before the command ended."""
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"nothing happened: {self.text}"
            if self._process.poll() is not None:
                return condition()
            time.sleep(0.02)
        return True

    def ended(self, timeout: float) -> int:
        """Its exit code; an AssertionError if it has not ended in time."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout:.0f} s: {self.text}") from None
        self._reader.join(10)
        return code

    def named(self, name: str) -> list[psutil.Process]:
        """Those of its processes that live and are called so, or begin so."""
        self._note()
        return [process for process, known in self._family.items() if known.startswith(name) and _lives(process)]

    def kill(self, name: str) -> bool:
        """Kill its first process of that name; the command itself is `driver`. Whether there was one."""
        found = [psutil.Process(self.pid)] if name == "driver" else self.named(name)
        for process in found[:1]:
            process.kill()
        return bool(found)

    def left(self, patience: float = 60.0) -> list[str]:
        """Which of its processes live on, after so many seconds at most."""
        until = time.monotonic() + patience
        while (alive := [name for process, name in self._family.items() if _lives(process)]) and (
            time.monotonic() < until
        ):
            time.sleep(0.2)
        return alive

    def end(self) -> None:
        """Kill all of it."""
        self._note()
        for process in [psutil.Process(self.pid)] if self._process.poll() is None else []:
            process.kill()
        for process in self._family:
            with suppress(*GONE):
                process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)

    def _look(self) -> None:
        while self._process.poll() is None:
            self._note()
            time.sleep(0.5)

    def _note(self) -> None:
        with suppress(*GONE):
            for child in psutil.Process(self.pid).children(recursive=True):
                with suppress(*GONE):
                    self._family[child] = child.name()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except GONE:
        return False
