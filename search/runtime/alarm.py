"""Ends what the main thread is at, from another thread, with an error of its own: Ray would let it wait for ever."""

import logging
import os
import signal
import sys
import threading
from types import TracebackType
from typing import Any, Self

LOG = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR2
"""Ray Tune has SIGINT and SIGUSR1 for itself; it would end its trials first, by a Ray that does not answer."""

GRACE_SECONDS = 20.0
SHOW_CURSOR = "\x1b[?25h"  # a progress display hides it


class Alarm:
    """While open in the main thread, `ring` of any other thread ends it with an error; its own gives its error a name.

    Whoever waits in Ray is woken by nothing but a KeyboardInterrupt; that is what is raised there. What leaves the
    `with` block in its stead is the error that the alarm was rung with. A block that has ended by itself ends well. If
    it is not left within `grace` seconds, the process ends with exit code 2 and the message.

    In other threads than the main one nothing can be ended, and the message is logged.

    Args:
        grace: seconds that the main thread has to end what it is at.
    """

    def __init__(self, grace: float = GRACE_SECONDS):
        self.problem: Exception | None = None
        self._grace = grace
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._open = False
        self._before: Any = None

    def ring(self, problem: Exception) -> None:
        """End the block with this error; only the first one counts. Returns at once."""
        with self._lock:
            if self.problem is not None or self._left.is_set():
                return
            self.problem = problem
            if not self._open:
                LOG.error("%s", problem)
                return
            threading.Thread(target=self._insist, name="alarm", daemon=True).start()
            main = threading.main_thread()
            if threading.current_thread() is not main:  # which else is on its way out already
                assert main.ident is not None
                signal.pthread_kill(main.ident, SIGNAL)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(SIGNAL, self._interrupt)
            self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, stop: BaseException | None, _: TracebackType | None) -> None:
        was_open, self._open = self._open, False
        with self._lock:
            self._left.set()
        if was_open and self.problem is None:  # else the signal may still come
            signal.signal(SIGNAL, self._before)
        if stop is not None and was_open and self.problem is not None:
            raise self.problem from stop

    def _interrupt(self, *_: object) -> None:
        if self._open:
            raise KeyboardInterrupt

    def _insist(self) -> None:
        if self._left.wait(self._grace):
            return
        shown = SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(2, f"{shown}\nkeystep: {self.problem}\n".encode())
        os._exit(2)
