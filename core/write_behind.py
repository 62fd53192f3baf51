"""A latent store that is written to in the background: whoever makes latents does not wait for the disk."""

import queue
import threading

from keystep.core.latents import LatentStore
from keystep.core.points import Point


class WriteBehind:
    """A `LatentStore` whose writes a thread of its own does, in order.

    What is not written when the process dies is computed again, like whatever a store loses. An error of the disk is
    raised by the next `put` or `flush`.

    Args:
        store: what is written to.
        most: bytes of points that may wait; `put` waits while there are more.
    """

    def __init__(self, store: LatentStore, most: int = 2**28):
        self._store, self._most = store, most
        self._waiting: dict[str, Point] = {}
        self._queue: queue.Queue[tuple[str, int]] = queue.Queue()
        self._bytes = 0
        self._room = threading.Condition()
        self._trouble: OSError | None = None
        threading.Thread(target=self._write, daemon=True, name="latents").start()

    def get(self, key: str) -> Point | None:
        """The point named `key`, on the CPU, or None, as `LatentStore.get`."""
        point = self._waiting.get(key)
        return self._store.get(key) if point is None else point

    def put(self, key: str, point: Point) -> None:
        """Stores `point` under `key`, soon.

        Raises:
            OSError: an earlier one could not be written.
        """
        self._raise_trouble()
        size = sum(tensor.nbytes for tensor in point.to_tensors()[0].values())
        with self._room:
            self._room.wait_for(lambda: self._bytes <= self._most)
            self._bytes += size
        self._waiting[key] = point
        self._queue.put((key, size))

    def flush(self) -> None:
        """Returns once all is written. Errors as `put`'s."""
        self._queue.join()
        self._raise_trouble()

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or key in self._store

    def _write(self) -> None:
        while True:
            key, size = self._queue.get()
            point = self._waiting.get(key)
            try:
                if point is not None:  # else put twice, and written with the first
                    self._store.put(key, point)
            except OSError as trouble:
                self._trouble = trouble
            finally:
                if self._waiting.get(key) is point:
                    self._waiting.pop(key, None)
                with self._room:
                    self._bytes -= size
                    self._room.notify_all()
                self._queue.task_done()

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
