"""Ray Tune's reused workers, kept for the whole search.

Ray Tune keeps as many idle workers as it has trials waiting, and one more at most. A search whose next setting depends
on a trial that still runs has none waiting, so its other workers would end, and load their model again a moment later.
"""

from collections.abc import Iterator
from typing import Any

from ray.tune.utils.object_cache import _ObjectCache


class ResidentWorkers(_ObjectCache):
    """Idle workers by the resources they hold; none is let go before the search is over."""

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep it: always."""
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Those to let go: all at the end, none before."""
        return super().flush_cached_objects(force_all=True) if force_all else iter(())


def keep_workers(tune_controller: Any) -> None:
    """Let idle workers stay.

    Args:
        tune_controller: as Ray Tune hands it to its scheduler when the first trial is added. Ray Tune has no public
            setting for this; where its inside looks otherwise than in Ray 2.60, all stays as Ray Tune has it.
    """
    controller: Any = getattr(tune_controller, "_tune_controller", None)
    if type(getattr(controller, "_actor_cache", None)) is _ObjectCache:  # an empty one: no trial has begun
        controller._actor_cache = ResidentWorkers()
