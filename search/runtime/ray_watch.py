"""Notices within half a minute that the Ray a search works in has died, and that its storage turned read-only."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.util.client
from ray.exceptions import RayError

from keystep.search.runtime.alarm import Alarm
from keystep.search.runtime.failures import RayDied
from keystep.search.runtime.ray_processes import RayProcesses
from keystep.search.runtime.ray_runtime import started_here
from keystep.search.runtime.storage_watch import StorageWatch

LOOK_SECONDS = 1.0
ASK_SECONDS = 3.0
SILENCE_SECONDS = 20.0
"""A cluster that does not answer for so long is taken for dead. Ray itself takes a minute, and kills the process."""

GO_ON = "what was done is kept, and the same command goes on from there"


@contextmanager
def watched(path: str | None = None, folder: str = "") -> Iterator[None]:
    """While open, neither a Ray that has died nor a folder that cannot be written to is waited for.

    Meanwhile Ray may start or not, and end. Of a Ray that died no process of this machine is left afterwards, and the
    next one can start.

    Args:
        path: `storage.path` of the spec; None is not looked at.
        folder: of the search, within it.

    Raises:
        RayDied: what of it died, and what to do.
        OSError: the folder can no longer be written to, and what to do.
    """
    alarm = Alarm()
    ray_watch = RayWatch(alarm)
    watches = [ray_watch] if path is None else [ray_watch, StorageWatch(alarm, path, folder)]
    with alarm:
        for watch in watches:
            watch.start()
        try:
            yield
        except BaseException:
            ray_watch.look()  # what ended it may be that
            raise
        finally:
            for watch in watches:
                watch.stop()
            if isinstance(alarm.problem, RayDied):
                ray_watch.leave()


class RayWatch(threading.Thread):
    """Looks at the processes of a Ray that was started here; asks any other one whether it is there.

    Args:
        alarm: what is rung.
    """

    def __init__(self, alarm: Alarm):
        super().__init__(name="ray watch", daemon=True)
        self._alarm = alarm
        self._over = threading.Event()
        self._asking: _Asking | None = None
        self._dead: RayProcesses | None = None
        self._turn = threading.Lock()

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()
            if self._alarm.problem is not None:
                return

    def look(self) -> None:
        """Ring if it is dead now."""
        with self._turn:
            if not ray.is_initialized():
                self._asking = None
            elif self._dead is None and (problem := self._look(started_here())) is not None:
                self._alarm.ring(RayDied(problem))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join(LOOK_SECONDS)
        if self._asking is not None:
            self._asking.over.set()

    def leave(self) -> None:
        """Be done with a Ray that died, so that another one can start in this process."""
        ray.shutdown()
        if self._dead is not None:
            self._dead.end()

    def _look(self, processes: RayProcesses | None) -> str | None:
        if processes is not None:
            if (died := processes.look()) is None:
                return None
            self._dead = processes
            processes.end(spare=frozenset({"gcs_server"}))  # it lets the driver leave at once, where it lives
            return f"Ray's {died} has died on this machine (was it killed, or the memory used up?): {GO_ON}"
        if self._asking is None:
            self._asking = _Asking()
            self._asking.start()
        problem = self._asking.problem
        return problem and f"{problem}: {GO_ON}, once the cluster is there again"


class _Asking(threading.Thread):
    """Asks the cluster which of its nodes live, again and again; a question may never come back."""

    def __init__(self):
        super().__init__(name="ray asking", daemon=True)
        self.over = threading.Event()
        self._heard = time.monotonic()
        self._node_died = False

    @property
    def problem(self) -> str | None:
        """What is wrong with the cluster; None if it answers."""
        if self._node_died:
            return "Ray's node that the search was started on has died, or lost its cluster"
        silent = time.monotonic() - self._heard
        return f"the Ray cluster has not answered for {silent:.0f} s" if silent >= SILENCE_SECONDS else None

    def run(self) -> None:
        client = ray.util.client.ray.is_connected()  # it has no node of its own
        own = None if client else ray.get_runtime_context().get_node_id()
        while not self.over.wait(ASK_SECONDS):
            try:
                nodes = ray.nodes()
            except (RayError, RuntimeError, OSError):
                continue
            self._heard = time.monotonic()
            self._node_died = own is not None and not any(node["Alive"] for node in nodes if node["NodeID"] == own)
