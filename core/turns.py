"""One call at a time: whoever uses a denoiser waits for those before."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_locks: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_locks_lock = threading.Lock()


@contextmanager
def alone_with(denoiser: nn.Module) -> Iterator[None]:
    """Keep other threads' refinements and drawings out, and wait until they are out.

    Pipelines that share a denoiser share its turns. A thread that has its turn may ask again.

    Args:
        denoiser: the module itself, not a compiled one around it.
    """
    with _locks_lock:
        lock = _locks.setdefault(denoiser, threading.RLock())
    with lock:
        yield


class Busy(Exception):
    """As many wait already as may."""


class Queue:
    """Work that is done one piece at a time, with a limited number of pieces waiting.

    Args:
        waiting: pieces that may wait beside the one that is done.
        patience: seconds that a piece waits at most.
    """

    def __init__(self, waiting: int, patience: float):
        self.waiting, self.patience = waiting, patience
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and keep it inside ``with``.

        Raises:
            Busy: the queue is full, or the turn did not come in time.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(f"{self.waiting + 1} requests are being drawn or wait already")
        try:
            if not self._turn.acquire(timeout=self.patience):
                raise Busy(f"the requests before took longer than {self.patience:g} s")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()
